"""Optimizers as optax transformations. The step's learning rate is applied in `step.py`, from the schedule that is logged."""

import gin
import jax
import optax


@gin.configurable
def adamw(
    b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, weight_decay: float = 0.1, clip_norm: float | None = 1.0
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with the settings of Llama 2 and Swallow; the learning rate is NOT inside.

    Args:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
      weight_decay: decoupled decay, for parameters of two or more dimensions outside the layer stack's own axis.
      clip_norm: global gradient norm above which gradients are scaled down; None for no clipping.
    """
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts += [
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=_is_matrix),
    ]
    return optax.chain(*parts)


def _is_matrix(params):
    """True for matrices and tables: norm scales (named "scale") and biases are not decayed."""

    def decays(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return name not in ("scale", "bias") and leaf.ndim >= 2

    return jax.tree_util.tree_map_with_path(decays, params)

"""Optimizers: their settings as frozen dataclasses (they stand in the ledger), their updates by optax.

The learning rate is not inside: `step.py` applies the schedule that is logged, so the two can't differ.
"""

import dataclasses
from typing import Any

import gin
import jax
import optax


class Optimizer:
    """A frozen dataclass of settings that makes an optax transformation."""

    def transformation(self) -> optax.GradientTransformation:
        """The update direction before the learning rate: new = old - rate * direction.

        A chain is an `optax.named_chain`: a checkpoint holds the moments under the links' names, and a link that comes or
        goes must not rename the others.
        """
        raise NotImplementedError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019); the defaults are those of Llama 2 and Swallow.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
      weight_decay: decoupled decay of every parameter but norm scales and biases.
      clip_norm: global gradient norm above which gradients are scaled down; None for no clipping.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0

    def transformation(self) -> optax.GradientTransformation:
        """See `Optimizer`."""
        clip = [] if self.clip_norm is None else [("clip", optax.clip_by_global_norm(self.clip_norm))]
        return optax.named_chain(
            *clip,
            ("adam", optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)),
            ("weight_decay", optax.add_decayed_weights(self.weight_decay, mask=_decayed)),
        )


def _decayed(params: Any) -> Any:
    """True for matrices and tables, False for norm scales and biases (a scanned stack makes those two-dimensional too)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) not in ("scale", "bias"), params
    )

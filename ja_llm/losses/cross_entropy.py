"""Cross-entropy with z-loss and weights, summed: whoever divides knows the whole batch."""

import functools

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted sums of the token losses.

    The loss of a token is lse(logits) - logits[target] + z_loss * lse(logits)^2, with lse the log-sum-exp in float32; the
    last term keeps lse near 0 (PaLM, arXiv 2204.02311, section 5, with z_loss 1e-4). A token of weight 0 adds nothing to
    loss or gradient, whatever its logits and target are (not even where they are not finite or out of range).

    Args:
      logits: float [B, L, V].
      targets: int [B, L].
      weights: float [B, L].
      z_loss: coefficient of the squared log-normaliser.

    Returns:
      (loss_sum, z_loss_sum, weight_sum), float32 scalars; loss_sum includes z_loss_sum.
    """
    weights = weights.astype(jnp.float32)
    loss, z_term = _token_losses(logits, targets, weights, z_loss)
    return loss.sum(), z_term.sum(), weights.sum()


def _forward(logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(weighted loss, weighted z term, lse), each float32 [B, L]."""
    logits = logits.astype(jnp.float32)
    lse = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    z_term = z_loss * lse**2
    counted = weights != 0
    return jnp.where(counted, weights * (lse - chosen + z_term), 0.0), jnp.where(counted, weights * z_term, 0.0), lse


# The gradient is written by hand: softmax minus one-hot is one pass over [B, L, V], where differentiating the gather above
# makes a zero array of that size, scatters into it and adds it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _token_losses(logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float) -> tuple[jax.Array, jax.Array]:
    return _forward(logits, targets, weights, z_loss)[:2]


def _save(logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float) -> tuple[tuple, tuple]:
    loss, z_term, lse = _forward(logits, targets, weights, z_loss)
    return (loss, z_term), (logits, targets, weights, lse, loss, z_term)


def _backward(z_loss: float, saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None, jax.Array]:
    logits, targets, weights, lse, loss, z_term = saved
    of_loss, of_z = cotangents
    counted = weights != 0
    per_hit = jnp.where(counted, of_loss * weights, 0.0)
    per_probability = per_hit + jnp.where(counted, (of_loss + of_z) * weights * 2.0 * z_loss * lse, 0.0)
    probability = jnp.exp(logits.astype(jnp.float32) - lse[..., None])
    hit = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
    gradient = per_probability[..., None] * probability - jnp.where(hit, per_hit[..., None], 0.0)
    gradient = jnp.where(counted[..., None], gradient, 0.0)  # 0 * inf is no 0
    per_weight = jnp.where(counted, (of_loss * loss + of_z * z_term) / jnp.where(counted, weights, 1.0), 0.0)
    return gradient.astype(logits.dtype), None, per_weight


_token_losses.defvjp(_save, _backward)

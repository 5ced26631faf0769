"""Cross-entropy as sums, so that whoever adds up microbatches, hosts or shards divides once."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted sums of -log softmax(logits)[target] and of the z-loss, in float32.

    The z-loss is z_loss * log(Z)^2 with Z the softmax's normaliser (Chowdhery et al. 2022, PaLM, section 5).

    Args:
      logits: [B, L, V], any float dtype; the log-sum-exp is computed in float32.
      targets: int [B, L]; what stands where the weight is 0 does not matter, as long as it is an index.
      weights: float [B, L].
      z_loss: its coefficient.

    Returns:
      (loss with z term, z term alone, sum of weights), float32 scalars. A position of weight 0 adds exactly 0, even where its
      logits are not finite.
    """
    logits = logits.astype(jnp.float32)
    counted = weights > 0
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    weights = weights.astype(jnp.float32)
    nll = jnp.where(counted, weights * (log_z - target_logit), 0.0)
    z_term = jnp.where(counted, weights * z_loss * jnp.square(log_z), 0.0) if z_loss else jnp.zeros_like(nll)
    z_sum = z_term.sum()
    return nll.sum() + z_sum, z_sum, weights.sum()

"""The loss that keeps a router's experts in use, defined for each row by itself."""

import jax
import jax.numpy as jnp


def balance_loss(probabilities: jax.Array, chosen: jax.Array, real: jax.Array | None = None) -> jax.Array:
    """Load-balance loss of each row: experts * sum over experts of (share of choices) * (mean probability).

    Switch Transformer (arXiv 2101.03961, eq. 4 to 6), for several experts a token and within one sequence, as the
    sequence-wise loss of DeepSeek-V3 (arXiv 2412.19437, eq. 17 to 20): 1 for a router that uses all experts alike, up to
    the number of experts for one that always uses the same. Within a row, because a mean over a whole batch is no sum over its rows:
    it would change with the number of microbatches and with who holds which row. transformers' value for one row
    and one layer is this times the experts of a token.

    Args:
      probabilities: float32 [B, L, E], the router's softmax over all experts.
      chosen: float32 [B, L, E], 1 for the experts that a token goes through. Not differentiated: it is piecewise constant.
      real: bool [B, L], False for padding, which is not counted; None: all are real.

    Returns:
      float32 [B]; 0 for a row of padding.
    """
    counted = jnp.ones(chosen.shape[:2], jnp.float32) if real is None else real.astype(jnp.float32)
    tokens = jnp.maximum(counted.sum(axis=1), 1.0)[:, None]
    choices = jnp.einsum("ble,bl->be", chosen, counted)
    share = choices / jnp.maximum(choices.sum(axis=1, keepdims=True), 1.0)
    mean = jnp.einsum("ble,bl->be", probabilities, counted) / tokens
    return chosen.shape[-1] * (jax.lax.stop_gradient(share) * mean).sum(axis=1)

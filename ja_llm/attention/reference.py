"""Attention written out, in float32: what every other implementation is compared with."""

import jax
import jax.numpy as jnp


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array, scale: float
) -> jax.Array:
    """softmax(scale q k^T) v over the keys that `mask` allows (Vaswani et al. 2017, eq. 1), with grouped key-value heads.

    Args:
      q: [B, Lq, H, D].
      k: [B, Lk, KV, D]; query head h reads key-value head h // (H / KV).
      v: [B, Lk, KV, D].
      mask: bool [B, Lq, Lk]; a query that may see nothing gives zeros.
      scale: factor of the logits.

    Returns:
      [B, Lq, H, D] in the dtype of q.
    """
    groups = q.shape[2] // k.shape[2]
    k32, v32 = (jnp.repeat(x.astype(jnp.float32), groups, axis=2) for x in (k, v))
    logits = scale * jnp.einsum("bqhd,bshd->bhqs", q.astype(jnp.float32), k32, precision="highest")
    allowed = mask[:, None]
    weights = jax.nn.softmax(jnp.where(allowed, logits, -1e30), axis=-1)
    weights = jnp.where(allowed, weights, 0.0)
    return jnp.einsum("bhqs,bshd->bqhd", weights, v32, precision="highest").astype(q.dtype)

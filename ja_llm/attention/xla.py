"""Attention by plain XLA: dense for short rows, in blocks of queries (recomputed in the backward pass) for long ones."""

import jax
import jax.numpy as jnp

# Above this many queries the [Lq, Lk] logits of one block at a time are held, not all of them.
BLOCK = 1024


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array, scale: float) -> jax.Array:
    """As `reference.attention`; products in the inputs' dtype with float32 accumulation, softmax in float32."""
    length = q.shape[1]
    if length <= BLOCK or length % BLOCK:
        return _dense(q, k, v, mask, scale)
    blocks = length // BLOCK

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], blocks, BLOCK, *x.shape[2:]).swapaxes(0, 1)

    step = jax.checkpoint(lambda part: _dense(part[0], k, v, part[1], scale))
    out = jax.lax.map(step, (split(q), split(mask)))
    return out.swapaxes(0, 1).reshape(q.shape)


def _dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    logits = jnp.einsum("bqkgd,bskd->bkgqs", grouped * scale, k, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None], logits, -1e30)
    # A query that may see nothing has equal logits everywhere; its weights are set to zero below.
    top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.where(mask[:, None, None], jnp.exp(logits - top), 0.0)
    weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    out = jnp.einsum("bkgqs,bskd->bqkgd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out.reshape(q.shape).astype(q.dtype)

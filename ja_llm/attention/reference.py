"""Attention written as in the textbook, in float32: what every other implementation is compared with."""

import jax
import jax.numpy as jnp

from ja_llm.attention.mask import Pair, Window, visible


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segments: Pair,
    positions: Pair,
    causal: bool,
    window: Window,
    scale: float,
    softcap: float | None,
    ordered: bool,
) -> jax.Array:
    """See `ja_llm.attention.attention`; holds all scores [B, H, Lq, Lk] at once."""
    del ordered
    group = q.shape[2] // k.shape[2]
    keys, values = (jnp.repeat(x.astype(jnp.float32), group, axis=2) for x in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q.astype(jnp.float32), keys, precision="highest") * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    mask = visible(segments, positions, causal, q.shape[1], k.shape[1], window)
    mask = jnp.ones((1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    scores = jnp.where(mask[:, None], scores, -1e30)  # finite: exp of an infinity has a gradient that is not a number
    weights = jnp.where(mask[:, None], jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1.0, total)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values, precision="highest").astype(q.dtype)

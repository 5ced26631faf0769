"""Attention written as in the textbook, in float32: what every other implementation is compared with."""

import jax.numpy as jnp

from ja_llm.attention.call import Call, Result
from ja_llm.attention.mask import visible


def compute(call: Call) -> Result:
    """See `ja_llm.attention.attention`; holds all scores [B, H, Lq, Lk] at once."""
    q, k = call.q, call.k
    group = q.shape[2] // k.shape[2]
    keys, values = (jnp.repeat(x.astype(jnp.float32), group, axis=2) for x in (k, call.v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q.astype(jnp.float32), keys, precision="highest") * call.scale
    if call.softcap is not None:
        scores = call.softcap * jnp.tanh(scores / call.softcap)
    positions = call.positions if call.order is None else (call.order, call.order)
    mask = visible(call.segments, positions, call.causal, q.shape[1], k.shape[1], call.window)
    mask = jnp.ones((1, q.shape[1], k.shape[1]), bool) if mask is None else mask
    scores = jnp.where(mask[:, None], scores, -1e30)  # finite: exp of an infinity has a gradient that is not a number
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(mask[:, None], jnp.exp(scores - largest), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    seen = total != 0
    total = jnp.where(seen, total, 1.0)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights / total, values, precision="highest").astype(q.dtype)
    lse = jnp.where(seen, largest + jnp.log(total), -jnp.inf)[..., 0] if call.want_lse else None
    return out, None if lse is None else jnp.swapaxes(lse, 1, 2)

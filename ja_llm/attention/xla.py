"""Attention in plain XLA operations, for any backend: short rows at once, long rows in chunks of queries.

Memory: scores of one chunk, [B, H, chunk, Lk] float32. Chunks of long rows are recomputed in the backward pass, so their
scores are never kept together.
"""

import functools

import jax
import jax.numpy as jnp

from ja_llm.attention.mask import Pair, visible

_SHORT = 512  # rows up to this length are computed at once
_CHUNK = 512
_HIDDEN = -1e30  # finite, so that a row that sees nothing has no NaN; exp of it is an exact 0 beside any real score


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segments: Pair, positions: Pair, causal: bool, scale: float, ordered: bool
) -> jax.Array:
    """See `ja_llm.attention.attention`."""
    length = q.shape[1]
    if length <= _SHORT:
        return _dense(q, k, v, segments, positions, causal, scale)
    if positions is None and causal:  # a chunk has to know where it stands
        positions = (jnp.arange(length)[None], jnp.arange(k.shape[1])[None])
    chunks = -(-length // _CHUNK)
    pad = chunks * _CHUNK - length

    def split(x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [chunks, B, chunk, ...]; the filling of the last chunk is cut off at the end."""
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, _CHUNK, *x.shape[2:]), 1, 0)

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def one(part: tuple) -> jax.Array:
        part_q, part_segments, part_positions = part
        return _dense(
            part_q,
            k,
            v,
            None if segments is None else (part_segments, segments[1]),
            None if positions is None else (part_positions, positions[1]),
            causal,
            scale,
        )

    parts = (split(q), None if segments is None else split(segments[0]), None if positions is None else split(positions[0]))
    out = jnp.moveaxis(jax.lax.map(one, parts), 0, 1)
    return out.reshape(q.shape[0], chunks * _CHUNK, *q.shape[2:])[:, :length]


def _dense(q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, causal: bool, scale: float) -> jax.Array:
    batch, length, heads, width = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, width)
    scores = jnp.einsum("bqgnd,bkgd->bgnqk", q, k, preferred_element_type=jnp.float32) * scale
    mask = visible(segments, positions, causal, length, k.shape[1])
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgnqk,bkgd->bqgnd", weights, v)
    if segments is not None:  # a row that sees nothing has equal weights on everything: make that zero
        some = mask.any(axis=-1)  # type: ignore[union-attr]
        out = jnp.where(some[:, :, None, None, None], out, 0)
    return out.reshape(batch, length, heads, width)

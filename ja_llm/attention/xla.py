"""Attention in plain XLA operations, for any backend: queries in chunks, keys no later than the chunk where the row is in order.

In an ordered causal row a chunk of queries needs the keys up to its own end only, so nearly half of the square is never
computed. Memory: scores of one chunk, [B, H, chunk, keys] float32; chunks of long rows are recomputed in the backward pass,
so their scores are never kept together.
"""

import functools

import jax
import jax.numpy as jnp

from ja_llm.attention.mask import Pair, visible

_SHORT = 512  # rows up to this length keep their softmax for the backward pass, in chunks of
_SHORT_CHUNK = 64
_LONG_CHUNK = 512
_MOST_CHUNKS = 16  # beyond, one chunk's program is run in a loop over all keys, so that compile time stays bounded
_HIDDEN = -1e30  # finite, so that a row that sees nothing has no NaN; exp of it is an exact 0 beside any real score


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segments: Pair, positions: Pair, causal: bool, scale: float, ordered: bool
) -> jax.Array:
    """See `ja_llm.attention.attention`."""
    batch, length, heads, width = q.shape
    groups = k.shape[2]
    # [B, KV, H/KV, L, D] and [B, KV, L, D]: matrix products over the last two dimensions, no copies of keys and values.
    q = jnp.transpose((q * scale).reshape(batch, length, groups, heads // groups, width), (0, 2, 3, 1, 4))
    k, v = jnp.transpose(k, (0, 2, 1, 3)), jnp.transpose(v, (0, 2, 1, 3))
    if causal and positions is None:
        positions = (jnp.arange(length)[None], jnp.arange(k.shape[2])[None])
    if length > _LONG_CHUNK * _MOST_CHUNKS or (length > _SHORT and not (ordered and causal)):
        out = _loop(q, k, v, segments, positions, causal)
    else:
        out = _triangle(q, k, v, segments, positions, causal, ordered and causal)
    return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(batch, length, heads, width)


def _triangle(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, causal: bool, ordered: bool
) -> jax.Array:
    """All chunks written out, each with the keys up to its end (`ordered`), or one chunk with all keys."""
    length = q.shape[3]
    chunk = length if not ordered else _SHORT_CHUNK if length <= _SHORT else _LONG_CHUNK
    keep = jax.checkpoint_policies.dots_saveable if length <= _SHORT else None  # None: recompute the products too
    piece = jax.checkpoint(functools.partial(_piece, causal=causal), policy=keep, prevent_cse=False)
    parts = []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        keys = end if ordered else k.shape[2]
        rows, columns = slice(start, end), slice(0, keys)
        parts.append(
            piece(
                q[:, :, :, rows],
                k[:, :, columns],
                v[:, :, columns],
                _cut(segments, rows, columns),
                _cut(positions, rows, columns),
            )
        )
    return jnp.concatenate(parts, axis=3)


def _cut(pair: Pair, rows: slice, columns: slice) -> Pair:
    return None if pair is None else (pair[0][:, rows], pair[1][:, columns])


def _loop(q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, causal: bool) -> jax.Array:
    """Chunks of queries one after the other in one compiled body, each with all keys."""
    length = q.shape[3]
    chunks = -(-length // _LONG_CHUNK)

    def split(x: jax.Array, axis: int) -> jax.Array:
        """Chunks in front; the filling of the last one is cut off at the end."""
        fill = [(0, 0)] * x.ndim
        fill[axis] = (0, chunks * _LONG_CHUNK - length)
        x = jnp.pad(x, fill)
        x = x.reshape(*x.shape[:axis], chunks, _LONG_CHUNK, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    @jax.checkpoint
    def one(part: tuple) -> jax.Array:
        rows, row_segments, row_positions = part
        return _piece(
            rows,
            k,
            v,
            None if segments is None else (row_segments, segments[1]),
            None if positions is None else (row_positions, positions[1]),
            causal=causal,
        )

    ids = [None if pair is None else split(pair[0], 1) for pair in (segments, positions)]
    out = jnp.moveaxis(jax.lax.map(one, (split(q, 3), *ids)), 0, 3)
    return out.reshape(*out.shape[:3], chunks * _LONG_CHUNK, out.shape[-1])[:, :, :, :length]


def _piece(q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, *, causal: bool) -> jax.Array:
    """Queries [B, KV, N, n, D] (scaled) over keys [B, KV, m, D]: [B, KV, N, n, D]."""
    batch, groups, share, rows, width = q.shape
    keys = k.shape[2]
    scores = jnp.einsum("bgqd,bgkd->bgqk", q.reshape(batch, groups, share * rows, width), k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, share, rows, keys)
    mask = visible(segments, positions, causal, rows, keys)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights.reshape(batch, groups, share * rows, keys), v)
    out = out.reshape(batch, groups, share, rows, width)
    if mask is not None and segments is not None:  # a query that sees nothing has equal weights on everything: make that zero
        out = jnp.where(mask.any(axis=-1)[:, None, None, :, None], out, 0)
    return out

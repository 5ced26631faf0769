"""Attention in plain XLA operations, for any backend: queries in chunks; where the row is in order, with the keys they can see.

In an ordered causal row a chunk of queries needs the keys up to its own end only, so nearly half of the square is never
computed. Memory: scores of one chunk, [B, H, chunk, keys] float32; chunks of long rows are recomputed in the backward pass,
so their scores are never kept together.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ja_llm.attention.mask import Pair, Window, visible

Piece = Callable[[jax.Array, jax.Array, jax.Array, Pair, Pair], jax.Array]

_SHORT = 512  # rows up to this length keep their softmax for the backward pass, in chunks of
_SHORT_CHUNK = 64
_LONG_CHUNK = 512
_MOST_CHUNKS = 16  # beyond, one chunk's program is run in a loop over all keys, so that compile time stays bounded
_HIDDEN = -1e30  # finite, so that a row that sees nothing has no NaN; exp of it is an exact 0 beside any real score


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
    """See `ja_llm.attention.attention`."""
    batch, length, heads, width = q.shape
    groups = k.shape[2]
    # [B, KV, H/KV, L, D] and [B, KV, L, D]: matrix products over the last two dimensions, no copies of keys and values.
    q = jnp.transpose((q * scale).reshape(batch, length, groups, heads // groups, width), (0, 2, 3, 1, 4))
    k, v = jnp.transpose(k, (0, 2, 1, 3)), jnp.transpose(v, (0, 2, 1, 3))
    if (causal or window is not None) and positions is None:
        positions = (jnp.arange(length)[None], jnp.arange(k.shape[2])[None])
    piece = functools.partial(_piece, causal=causal, window=window, softcap=softcap)
    if length > _LONG_CHUNK * _MOST_CHUNKS or (length > _SHORT and not (ordered and causal)):
        out = _loop(piece, q, k, v, segments, positions)
    else:
        out = _triangle(piece, q, k, v, segments, positions, ordered and causal, window if isinstance(window, int) else None)
    return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(batch, length, heads, width)


def _triangle(
    one: Piece, q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, ordered: bool, window: int | None
) -> jax.Array:
    """All chunks written out, each with the keys from its window's begin to its own end (`ordered`), or one with all keys.

    In order, a document's positions rise by one or more from token to token, so what is `window` places back is out of it.
    """
    length = q.shape[3]
    chunk = length if not ordered else _SHORT_CHUNK if length <= _SHORT else _LONG_CHUNK
    keep = jax.checkpoint_policies.dots_saveable if length <= _SHORT else None  # None: recompute the products too
    piece = jax.checkpoint(one, policy=keep, prevent_cse=False)
    parts = []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        first = max(0, start - window + 1) if ordered and window is not None else 0
        rows, columns = slice(start, end), slice(first, end if ordered else k.shape[2])
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


def _loop(piece: Piece, q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair) -> jax.Array:
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
        return piece(
            rows,
            k,
            v,
            None if segments is None else (row_segments, segments[1]),
            None if positions is None else (row_positions, positions[1]),
        )

    ids = [None if pair is None else split(pair[0], 1) for pair in (segments, positions)]
    out = jnp.moveaxis(jax.lax.map(one, (split(q, 3), *ids)), 0, 3)
    return out.reshape(*out.shape[:3], chunks * _LONG_CHUNK, out.shape[-1])[:, :, :, :length]


def _piece(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: Pair,
    positions: Pair,
    *,
    causal: bool,
    window: Window,
    softcap: float | None,
) -> jax.Array:
    """Queries [B, KV, N, n, D] (scaled) over keys [B, KV, m, D]: [B, KV, N, n, D]."""
    batch, groups, share, rows, width = q.shape
    keys = k.shape[2]
    scores = jnp.einsum("bgqd,bgkd->bgqk", q.reshape(batch, groups, share * rows, width), k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, share, rows, keys)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    mask = visible(segments, positions, causal, rows, keys, window)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights.reshape(batch, groups, share * rows, keys), v)
    out = out.reshape(batch, groups, share, rows, width)
    if mask is not None and (
        segments is not None or window is not None
    ):  # a query that sees nothing has equal weights on everything: make that zero
        out = jnp.where(mask.any(axis=-1)[:, None, None, :, None], out, 0)
    return out

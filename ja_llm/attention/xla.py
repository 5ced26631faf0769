"""Attention in plain XLA operations, for any backend. Three ways, by what the row allows:

ordered rows up to 512: queries in chunks of 64, each with the keys up to its own end, written out; the softmax is kept for the
backward pass. Longer ordered rows: tiles in a loop (`blocks`), without those outside the document. Rows in any order (a cache,
a prefix): queries in chunks, each with all keys, recomputed in the backward pass.

Memory: scores of one chunk, [B, H, chunk, keys] float32 (at most `_CHUNK_BYTES`, by shorter chunks), or of one tile.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ja_llm.attention import tiles
from ja_llm.attention.call import Call, Pair, Result, Window
from ja_llm.attention.mask import visible

Part = tuple[jax.Array, ...]  # (out,) or (out, lse)
Piece = Callable[[jax.Array, jax.Array, jax.Array, Pair, Pair], Part]

_SHORT = 512  # rows up to this length keep their softmax for the backward pass, in chunks of
_SHORT_CHUNK = 64
_LONG_CHUNK = 512
_CHUNK_BYTES = 2**29


def compute(call: Call) -> Result:
    """See `ja_llm.attention.attention`."""
    if call.ordered and (call.q.shape[1] > _SHORT or call.order is not None):
        from ja_llm.attention import blocks, sharded

        return sharded.compute(call, "xla", blocks)
    batch, length, heads, width = call.q.shape
    groups, positions = call.k.shape[2], call.positions
    # [B, KV, H/KV, L, D] and [B, KV, L, D]: matrix products over the last two dimensions, no copies of keys and values.
    q = jnp.transpose((call.q * call.scale).reshape(batch, length, groups, heads // groups, width), (0, 2, 3, 1, 4))
    k, v = jnp.transpose(call.k, (0, 2, 1, 3)), jnp.transpose(call.v, (0, 2, 1, 3))
    if (call.causal or call.window is not None) and positions is None:
        positions = (jnp.arange(length)[None], jnp.arange(k.shape[2])[None])
    piece = functools.partial(_piece, causal=call.causal, window=call.window, softcap=call.softcap, want_lse=call.want_lse)
    if length > _SHORT:
        parts = _loop(piece, q, k, v, call.segments, positions)
    else:
        window = call.window if isinstance(call.window, int) else None
        parts = _triangle(piece, q, k, v, call.segments, positions, call.ordered and call.causal, window)
    out = jnp.transpose(parts[0], (0, 3, 1, 2, 4)).reshape(batch, length, heads, width)
    return out, jnp.transpose(parts[1], (0, 3, 1, 2)).reshape(batch, length, heads) if call.want_lse else None


def _triangle(
    one: Piece, q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair, ordered: bool, window: int | None
) -> Part:
    """All chunks written out, each with the keys from its window's begin to its own end (`ordered`), or one with all keys.

    In order, a document's positions rise by one from token to token, so what is `window` places back is out of it.
    """
    length = q.shape[3]
    chunk = _SHORT_CHUNK if ordered else length
    piece = jax.checkpoint(one, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)
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
    return tuple(jnp.concatenate(x, axis=3) for x in zip(*parts, strict=True))


def _cut(pair: Pair, rows: slice, columns: slice) -> Pair:
    return None if pair is None else (pair[0][:, rows], pair[1][:, columns])


def _loop(piece: Piece, q: jax.Array, k: jax.Array, v: jax.Array, segments: Pair, positions: Pair) -> Part:
    """Chunks of queries one after the other in one compiled body, each with all keys."""
    length = q.shape[3]
    bytes_of_query = 4 * math.prod(q.shape[:3]) * k.shape[2]
    chunk = max(1, min(_LONG_CHUNK, 1 << max(_CHUNK_BYTES // bytes_of_query, 1).bit_length() - 1))
    chunks = -(-length // chunk)

    def split(x: jax.Array, axis: int) -> jax.Array:
        """Chunks in front; the filling of the last one is cut off at the end."""
        fill = [(0, 0)] * x.ndim
        fill[axis] = (0, chunks * chunk - length)
        x = jnp.pad(x, fill)
        x = x.reshape(*x.shape[:axis], chunks, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    @jax.checkpoint
    def one(part: tuple) -> Part:
        rows, row_segments, row_positions = part
        return piece(
            rows,
            k,
            v,
            None if segments is None else (row_segments, segments[1]),
            None if positions is None else (row_positions, positions[1]),
        )

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], chunks * chunk, *x.shape[5:])[:, :, :, :length]

    ids = [None if pair is None else split(pair[0], 1) for pair in (segments, positions)]
    return tuple(join(x) for x in jax.lax.map(one, (split(q, 3), *ids)))


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
    want_lse: bool,
) -> Part:
    """Queries [B, KV, N, n, D] (scaled) over keys [B, KV, m, D]: [B, KV, N, n, D], and [B, KV, N, n] if the lse is wanted."""
    batch, groups, share, rows, width = q.shape
    keys = k.shape[2]
    product = functools.partial(jnp.einsum, precision="highest" if q.dtype == jnp.float32 else None)
    scores = product("bgqd,bgkd->bgqk", q.reshape(batch, groups, share * rows, width), k, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, share, rows, keys)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    mask = visible(segments, positions, causal, rows, keys, window)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, tiles.HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = product("bgqk,bgkd->bgqd", weights.reshape(batch, groups, share * rows, keys), v)
    out = out.reshape(batch, groups, share, rows, width)
    lse = jax.nn.logsumexp(scores, axis=-1) if want_lse else None
    if mask is not None and (segments is not None or window is not None):
        # A query that sees nothing has equal weights on everything: make that zero.
        seen = mask.any(axis=-1)[:, None, None]
        out = jnp.where(seen[..., None], out, 0)
        lse = None if lse is None else jnp.where(seen, lse, -jnp.inf)
    return (out,) if lse is None else (out, lse)

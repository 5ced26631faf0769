"""What each query sees as one interval of the row, and which tiles of the score matrix that leaves.

In a packed row the documents stand one after the other, so everything that a query may see (its document, up to itself, within
its window) is one run of keys: `first` to `last`. That is the whole mask: two comparisons for each pair, no ids. Minima and
maxima of it over a tile of queries say which tiles of keys have anything to compute (`lo` to `hi`) and which of those need
no mask (`full_lo` to `full_hi`). All of this is O(length) and runs under jit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A query that sees nothing (padding) has first = NOTHING and last = -1: minima and maxima over a tile need no special case.
NOTHING = 1 << 30


class Spans(NamedTuple):
    """Int32 [B, Lq] each: query i sees the keys first[i] <= j <= last[i] of its row."""

    first: jax.Array
    last: jax.Array


def documents(segment_ids: jax.Array | None, positions: jax.Array | None) -> jax.Array:
    """Int32 [B, L]: another number for each document of a row in order, 0 for padding.

    A document begins where the segment id changes or the position is not the one before it plus 1.

    Args:
      segment_ids: int [B, L], 0 for padding; None: no padding.
      positions: int [B, L]; None: they begin no document. One of the two is needed.
    """
    begins = None if positions is None else positions[:, 1:] != positions[:, :-1] + 1
    if segment_ids is not None:
        changes = segment_ids[:, 1:] != segment_ids[:, :-1]
        begins = changes if begins is None else begins | changes
    assert begins is not None
    begins = jnp.pad(begins, ((0, 0), (1, 0)))
    number = 1 + jax.lax.cummax(jnp.where(begins, jnp.arange(begins.shape[1], dtype=jnp.int32), 0), axis=1)
    return number if segment_ids is None else jnp.where(segment_ids != 0, number, 0)


def packed_spans(
    segment_ids: jax.Array | None, batch: int, length: int, causal: bool, window: int | jax.Array | None = None
) -> Spans:
    """The spans of rows in order.

    Args:
      segment_ids: int [B, L] or [1, L], equal inside a document, 0 for padding; None: each row is one document.
      batch: B.
      length: L.
      causal: no keys after the query.
      window: keys less than this many places before the query; None: no bound.
    """
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    if segment_ids is None:
        first, end, real = jnp.zeros_like(index), jnp.full_like(index, length - 1), None
    else:
        segment_ids = jnp.broadcast_to(segment_ids, (batch, length))
        changes = segment_ids[:, 1:] != segment_ids[:, :-1]
        edge = jnp.ones((batch, 1), bool)
        first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, changes], axis=1), index, 0), axis=1)
        end = jax.lax.cummin(jnp.where(jnp.concatenate([changes, edge], axis=1), index, length - 1), axis=1, reverse=True)
        real = segment_ids != 0
    if window is not None:
        first = jnp.maximum(first, index - window + 1)
    last = index if causal else end
    if real is not None:
        first, last = jnp.where(real, first, NOTHING), jnp.where(real, last, -1)
    return Spans(first.astype(jnp.int32), last.astype(jnp.int32))


def query_tiles(spans: Spans, queries: int, keys: int, key_length: int) -> jax.Array:
    """For each tile of queries the tiles of keys it needs.

    Args:
      spans: of padded rows; Lq is a multiple of `queries`.
      queries: length of a tile of queries.
      keys: length of a tile of keys.
      key_length: of the padded row, a multiple of `keys`.

    Returns:
      int32 [B, Lq / queries, 4]: lo, full_lo, full_hi, hi with lo <= full_lo <= full_hi <= hi. The tiles lo <= j < hi hold
      every visible pair; in those with full_lo <= j < full_hi all pairs are visible. Nothing to do: all are 0.
    """
    first, last = (x.reshape(x.shape[0], -1, queries) for x in spans)
    lo, hi = first.min(-1) // keys, last.max(-1) // keys + 1
    full_lo, full_hi = -(-first.max(-1) // keys), (last.min(-1) + 1) // keys
    return _ordered(lo, full_lo, full_hi, hi, key_length // keys)


def key_tiles(spans: Spans, queries: int, keys: int, key_length: int) -> jax.Array:
    """For each tile of keys the tiles of queries that need it: the transpose of `query_tiles`, for the gradients of k and v.

    Where queries stand in order the bounds are exact; where not (a row that was reordered over devices), the interval may
    hold tiles without a visible pair, and a full tile may be counted as one that needs its mask.

    Returns:
      int32 [B, key_length / keys, 4]: lo, full_lo, full_hi, hi over tiles of queries, as in `query_tiles`.
    """
    first, last = (x.reshape(x.shape[0], -1, queries) for x in spans)
    begin = jnp.arange(key_length // keys, dtype=jnp.int32) * keys
    end = begin + keys - 1

    def count(sorted_rows: jax.Array, values: jax.Array, side: str) -> jax.Array:
        """How many of each (ascending) row are below (left), or not above (right), each value."""
        return jax.vmap(lambda row: jnp.searchsorted(row, values, side=side))(sorted_rows).astype(jnp.int32)

    # A tile of queries is needed when last >= begin and first <= end. Running maxima and minima are sorted, so the first tile
    # with the one property and the last with the other are found by bisection.
    lo = count(jax.lax.cummax(last.max(-1), axis=1), begin, "left")
    hi = count(jax.lax.cummin(first.min(-1), axis=1, reverse=True), end, "right")
    # A query that sees nothing is no end of the full tiles before it; `first` keeps its own tile out of them.
    last = jnp.where(last < 0, NOTHING, last)
    full_lo = count(jax.lax.cummin(last.min(-1), axis=1, reverse=True), end, "left")
    full_hi = count(jax.lax.cummax(first.max(-1), axis=1), begin, "right")
    return _ordered(lo, full_lo, full_hi, hi, first.shape[1])


def _ordered(lo: jax.Array, full_lo: jax.Array, full_hi: jax.Array, hi: jax.Array, most: int) -> jax.Array:
    empty = (lo >= hi) | (lo >= most)
    hi = jnp.clip(hi, 0, most)
    full_lo = jnp.clip(full_lo, lo, hi)
    full_hi = jnp.clip(full_hi, full_lo, hi)
    table = jnp.stack([lo, full_lo, full_hi, hi], axis=-1)
    return jnp.where(empty[..., None], 0, table).astype(jnp.int32)


def pad_spans(spans: Spans, length: int) -> Spans:
    """Queries that see nothing, up to `length`."""
    fill = ((0, 0), (0, length - spans.first.shape[1]))
    return Spans(jnp.pad(spans.first, fill, constant_values=NOTHING), jnp.pad(spans.last, fill, constant_values=-1))


def visited(segment_ids: np.ndarray, queries: int, keys: int, window: int | None = None) -> dict[str, float]:
    """How much of a causal row's square is computed.

    Args:
      segment_ids: int [B, L].
      queries: length of a tile of queries.
      keys: length of a tile of keys.
      window: see `packed_spans`.

    Returns:
      {"visited": tiles that are computed, "causal": tiles that causal attention without documents computes, "share": visited /
      causal, "exact": visible pairs / pairs of causal attention}.
    """
    batch, length = segment_ids.shape
    longest = -(-length // max(queries, keys)) * max(queries, keys)

    def tiles(spans: Spans) -> int:
        table = query_tiles(pad_spans(spans, longest), queries, keys, longest)
        return int(np.asarray(table[..., 3] - table[..., 0]).sum(dtype=np.int64))

    ours, dense = packed_spans(jnp.asarray(segment_ids), batch, length, True, window), packed_spans(None, batch, length, True)
    seen, causal = tiles(ours), tiles(dense)
    pairs = int(np.asarray(jnp.maximum(ours.last - ours.first + 1, 0)).sum(dtype=np.int64))  # 2^31 are reached by a few long rows
    return {"visited": seen, "causal": causal, "share": seen / causal, "exact": pairs / (batch * length * (length + 1) / 2)}

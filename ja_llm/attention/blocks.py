"""The tiled algorithm in plain JAX operations, for any platform: one tile of all heads after the other, in a loop with the table's bounds.

This is what the implementation `xla` does with long rows: memory is that of one tile, and tiles outside the document are not
computed, forward or backward. Rows are computed one after the other, because each has its own bounds.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ja_llm.attention import tiles
from ja_llm.attention.flash import Plan, Residuals
from ja_llm.attention.manual import together
from ja_llm.attention.spans import Spans, key_tiles, query_tiles

KEYS = -1  # axis of a tile [KV, group, bq, bk]
least_tile = 16


def width(head_dim: int) -> int:
    """Head dimension that is computed: the given one."""
    return head_dim


def _grouped(x: jax.Array, kv_heads: int) -> jax.Array:
    """[B, L, H, D] -> [B, KV, group, L, D]."""
    batch, length, heads, dim = x.shape
    return jnp.transpose(x.reshape(batch, length, kv_heads, heads // kv_heads, dim), (0, 2, 3, 1, 4))


def _ungrouped(x: jax.Array) -> jax.Array:
    """Tiles [B, n, KV, group, bq, D] -> [B, L, H, D]."""
    batch, number, kv_heads, group, tile, dim = x.shape
    return jnp.transpose(x, (0, 1, 4, 2, 3, 5)).reshape(batch, number * tile, kv_heads * group, dim)


def _piece(x: jax.Array, number: Any, tile: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, number * tile, tile, axis)


def _dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def _column(x: jax.Array) -> jax.Array:
    """What belongs to queries [..., bq], beside keys."""
    return x[..., None]


def forward(plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> tuple[jax.Array, jax.Array]:
    """Out [B, Lq, H, D] and lse float32 [B, H, Lq]; see `ja_llm.attention.flash`."""
    batch, length, heads, _ = q.shape
    kv_heads, tile = k.shape[2], plan.sizes.forward
    table = query_tiles(spans, tile.queries, tile.keys, k.shape[1])

    def of_row(row: Any) -> Any:
        q, k, v, span, entries = row

        def of_tile(number: jax.Array) -> Any:
            queries = _piece(q, number, tile.queries, 2)
            first, last = (_column(_piece(x, number, tile.queries, 0)) for x in span)

            def body(j: Any, carry: Any, masked: bool) -> Any:
                summed, largest, total = carry
                keys, values = (_piece(x, j, tile.keys, 1) for x in (k, v))
                s = tiles.scores(_dot("gnqd,gkd->gnqk", queries, keys), plan.scale, plan.softcap)
                mask = tiles.allowed(first, last, j * tile.keys, (tile.queries, tile.keys), KEYS) if masked else None
                p, factor, largest, total = tiles.accumulate(s, mask, largest, total, KEYS)
                return summed * factor + _dot("gnqk,gkd->gnqd", p.astype(values.dtype), values), largest, total

            column = jnp.zeros((*queries.shape[:3], 1), jnp.float32)
            start = (jnp.zeros(queries.shape, jnp.float32), column + tiles.HIDDEN, column)
            out, lse = tiles.finish(*tiles.each(entries[number], together(start, q), body))
            return out.astype(q.dtype), lse[..., 0]

        return jax.lax.map(of_tile, jnp.arange(length // tile.queries))

    rows = (_grouped(q, kv_heads), jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), spans, table)
    out, lse = jax.lax.map(of_row, rows)
    return _ungrouped(out), jnp.transpose(lse, (0, 2, 3, 1, 4)).reshape(batch, heads, length)


def _statistics(r: Residuals) -> tuple[jax.Array, jax.Array]:
    """lse and delta [B, KV, group, Lq]."""
    kv_heads = r.k.shape[2]
    return tuple(x.reshape(x.shape[0], kv_heads, -1, x.shape[2]) for x in (r.lse, r.delta))  # type: ignore[return-value]


def dq(plan: Plan, r: Residuals) -> jax.Array:
    """Gradient of q, [B, Lq, H, D]."""
    kv_heads, tile = r.k.shape[2], plan.sizes.dq
    table = query_tiles(r.spans, tile.queries, tile.keys, r.k.shape[1])

    def of_row(row: Any) -> Any:
        q, dout, lse, delta, k, v, span, entries = row

        def of_tile(number: jax.Array) -> jax.Array:
            queries, do = (_piece(x, number, tile.queries, 2) for x in (q, dout))
            normaliser, minus = (_column(_piece(x, number, tile.queries, 2)) for x in (lse, delta))
            first, last = (_column(_piece(x, number, tile.queries, 0)) for x in span)

            def body(j: Any, summed: Any, masked: bool) -> Any:
                keys, values = (_piece(x, j, tile.keys, 1) for x in (k, v))
                s = tiles.scores(_dot("gnqd,gkd->gnqk", queries, keys), plan.scale, plan.softcap)
                mask = tiles.allowed(first, last, j * tile.keys, (tile.queries, tile.keys), KEYS) if masked else None
                dweights = _dot("gnqd,gkd->gnqk", do, values)
                _, ds = tiles.gradients(s, mask, normaliser, dweights, minus, plan.softcap)
                return summed + _dot("gnqk,gkd->gnqd", ds.astype(keys.dtype), keys)

            summed = tiles.each(entries[number], together(jnp.zeros(queries.shape, jnp.float32), q), body)
            return (summed * plan.scale).astype(q.dtype)

        return jax.lax.map(of_tile, jnp.arange(entries.shape[0]))

    queries, dout = _grouped(r.q, kv_heads), _grouped(r.dout, kv_heads)
    rows = (queries, dout, *_statistics(r), jnp.swapaxes(r.k, 1, 2), jnp.swapaxes(r.v, 1, 2), r.spans, table)
    return _ungrouped(jax.lax.map(of_row, rows))


def dkv(plan: Plan, r: Residuals) -> tuple[jax.Array, jax.Array]:
    """Gradients of k and v, [B, Lk, KV, D]."""
    batch, length, kv_heads, dim = r.k.shape
    tile = plan.sizes.dkv
    table = key_tiles(r.spans, tile.queries, tile.keys, length)

    def of_row(row: Any) -> Any:
        q, dout, lse, delta, k, v, span, entries = row

        def of_tile(number: jax.Array) -> Any:
            keys, values = (_piece(x, number, tile.keys, 1) for x in (k, v))

            def body(i: Any, sums: Any, masked: bool) -> Any:
                queries, do = (_piece(x, i, tile.queries, 2) for x in (q, dout))
                normaliser, minus = (_column(_piece(x, i, tile.queries, 2)) for x in (lse, delta))
                first, last = (_column(_piece(x, i, tile.queries, 0)) for x in span)
                s = tiles.scores(_dot("gnqd,gkd->gnqk", queries, keys), plan.scale, plan.softcap)
                shape = (tile.queries, tile.keys)
                mask = tiles.allowed(first, last, number * tile.keys, shape, KEYS) if masked else None
                dweights = _dot("gnqd,gkd->gnqk", do, values)
                p, ds = tiles.gradients(s, mask, normaliser, dweights, minus, plan.softcap)
                of_k = _dot("gnqk,gnqd->gkd", ds.astype(queries.dtype), queries)
                return sums[0] + of_k, sums[1] + _dot("gnqk,gnqd->gkd", p.astype(do.dtype), do)

            zero = jnp.zeros(keys.shape, jnp.float32)
            sum_k, sum_v = tiles.each(entries[number], together((zero, zero), q), body)
            return (sum_k * plan.scale).astype(k.dtype), sum_v.astype(v.dtype)

        return jax.lax.map(of_tile, jnp.arange(entries.shape[0]))

    queries, dout = _grouped(r.q, kv_heads), _grouped(r.dout, kv_heads)
    rows = (queries, dout, *_statistics(r), jnp.swapaxes(r.k, 1, 2), jnp.swapaxes(r.v, 1, 2), r.spans, table)
    both = jax.lax.map(of_row, rows)  # each [B, n, KV, bk, D]
    dk, dv = (jnp.swapaxes(x, 2, 3).reshape(batch, length, kv_heads, dim) for x in both)
    return dk, dv

"""Portable GPU kernels (Pallas, Triton): one program a tile, which loops over the other side between the table's bounds.

Triton is deprecated inside Pallas since jax 0.11; this module is the only place that uses it, and names its compiler parameters
explicitly, because the default GPU backend of `pallas_call` differs between jax versions.

Tiles of the forward pass and of dq lie with queries first, those of dk and dv with keys first: what a product reads as its left side then
comes from registers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from ja_llm.attention import tiles
from ja_llm.attention.flash import Plan, Residuals, Tiles
from ja_llm.attention.manual import result
from ja_llm.attention.spans import Spans, key_tiles, query_tiles

least_tile = 16  # of a tensor core product


def width(head_dim: int) -> int:
    """Head dimension that the kernels compute: Triton's tiles are powers of two."""
    return max(16, 1 << (head_dim - 1).bit_length())


def _compiler_params(tile: Tiles) -> Any:
    return plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)


def _forward_kernel(table, first, last, q, k, v, out, lse, *, plan: Plan) -> None:
    """q, out [bq, D]; k, v [Lk, D]; first, last, lse [bq]."""
    tile = plan.sizes.forward
    queries, begin, end = q[...], first[...][:, None], last[...][:, None]

    def body(j: Any, carry: Any, masked: bool) -> Any:
        summed, largest, total = carry
        rows = pl.ds(j * tile.keys, tile.keys)
        s = tiles.scores(plan.dot(queries, k[rows, :], (1, 1)), plan.scale, plan.softcap)
        mask = tiles.allowed(begin, end, j * tile.keys, s.shape, 1) if masked else None
        p, factor, largest, total = tiles.accumulate(s, mask, largest, total, 1)
        return summed * factor + plan.dot(p.astype(v.dtype), v[rows, :], (1, 0)), largest, total

    column = (tile.queries, 1)
    start = (jnp.zeros(q.shape, jnp.float32), jnp.full(column, tiles.HIDDEN, jnp.float32), jnp.zeros(column, jnp.float32))
    result, normaliser = tiles.finish(*tiles.each(table, start, body))
    out[...], lse[...] = result.astype(out.dtype), normaliser[:, 0]


def _specs(tile: int, rows: int, dim: int, group: int) -> tuple[Any, ...]:
    """Blocks for programs (tile of queries, query head, row): table, per-token ids, q, k, per-query statistics."""
    return (
        pl.BlockSpec((None, None, 4), lambda i, h, b: (b, i, 0)),
        pl.BlockSpec((None, tile), lambda i, h, b: (b, i)),
        pl.BlockSpec((None, tile, None, dim), lambda i, h, b: (b, i, h, 0)),
        pl.BlockSpec((None, rows, None, dim), lambda i, h, b: (b, 0, h // group, 0)),
        pl.BlockSpec((None, None, tile), lambda i, h, b: (b, h, i)),
    )


def forward(plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> tuple[jax.Array, jax.Array]:
    """Out [B, Lq, H, D] and lse float32 [B, H, Lq]; see `ja_llm.attention.flash`."""
    batch, length, heads, dim = q.shape
    tile, rows = plan.sizes.forward, k.shape[1]
    table, ids, queries, keys, statistic = _specs(tile.queries, rows, dim, heads // k.shape[2])
    return pl.pallas_call(
        functools.partial(_forward_kernel, plan=plan),
        grid=(length // tile.queries, heads, batch),
        in_specs=[table, ids, ids, queries, keys, keys],
        out_specs=[queries, statistic],
        out_shape=[result(q.shape, q.dtype, q), result((batch, heads, length), jnp.float32, q)],
        compiler_params=_compiler_params(tile),
        interpret=plan.interpret,
        name="attention_forward",
    )(query_tiles(spans, tile.queries, tile.keys, rows), spans.first, spans.last, q, k, v)


def _dq_kernel(table, first, last, q, dout, lse, delta, k, v, dq, *, plan: Plan) -> None:
    """q, dout, dq [bq, D]; first, last, lse, delta [bq]; k, v [Lk, D]."""
    tile = plan.sizes.dq
    queries, do = q[...], dout[...]
    begin, end, normaliser, minus = (x[...][:, None] for x in (first, last, lse, delta))

    def body(j: Any, summed: Any, masked: bool) -> Any:
        rows = pl.ds(j * tile.keys, tile.keys)
        keys = k[rows, :]
        s = tiles.scores(plan.dot(queries, keys, (1, 1)), plan.scale, plan.softcap)
        mask = tiles.allowed(begin, end, j * tile.keys, s.shape, 1) if masked else None
        dweights = plan.dot(do, v[rows, :], (1, 1))
        _, ds = tiles.gradients(s, mask, normaliser, dweights, minus, plan.softcap)
        return summed + plan.dot(ds.astype(keys.dtype), keys, (1, 0))

    summed = tiles.each(table, jnp.zeros(q.shape, jnp.float32), body)
    dq[...] = (summed * plan.scale).astype(dq.dtype)


def dq(plan: Plan, r: Residuals) -> jax.Array:
    """Gradient of q, [B, Lq, H, D]."""
    batch, length, heads, dim = r.q.shape
    tile, rows = plan.sizes.dq, r.k.shape[1]
    table, ids, queries, keys, statistic = _specs(tile.queries, rows, dim, heads // r.k.shape[2])
    return pl.pallas_call(
        functools.partial(_dq_kernel, plan=plan),
        grid=(length // tile.queries, heads, batch),
        in_specs=[table, ids, ids, queries, queries, statistic, statistic, keys, keys],
        out_specs=queries,
        out_shape=result(r.q.shape, r.q.dtype, r.q),
        compiler_params=_compiler_params(tile),
        interpret=plan.interpret,
        name="attention_dq",
    )(query_tiles(r.spans, tile.queries, tile.keys, rows), *r.spans, r.q, r.dout, r.lse, r.delta, r.k, r.v)


def _dkv_kernel(table, first, last, q, dout, lse, delta, k, v, dk, dv, *, plan: Plan, group: int) -> None:
    """k, v, dk, dv [bk, D]; q, dout [Lq, group, D]; first, last [Lq]; lse, delta [group, Lq]."""
    tile = plan.sizes.dkv
    keys, values, start = k[...], v[...], pl.program_id(0) * tile.keys

    def of_head(head: Any, carry: Any) -> Any:
        def body(i: Any, sums: Any, masked: bool) -> Any:
            sum_k, sum_v = sums
            rows = pl.ds(i * tile.queries, tile.queries)
            queries, do = q[rows, head, :], dout[rows, head, :]
            s = tiles.scores(plan.dot(keys, queries, (1, 1)), plan.scale, plan.softcap)
            mask = None
            if masked:
                mask = tiles.allowed(first[rows][None], last[rows][None], start, s.shape, 0)
            dweights = plan.dot(values, do, (1, 1))
            p, ds = tiles.gradients(s, mask, lse[head, rows][None], dweights, delta[head, rows][None], plan.softcap)
            return sum_k + plan.dot(ds.astype(queries.dtype), queries, (1, 0)), sum_v + plan.dot(p.astype(do.dtype), do, (1, 0))

        return tiles.each(table, carry, body)

    zero = jnp.zeros(k.shape, jnp.float32)
    sum_k, sum_v = jax.lax.fori_loop(0, group, of_head, (zero, zero))
    dk[...], dv[...] = (sum_k * plan.scale).astype(dk.dtype), sum_v.astype(dv.dtype)


def dkv(plan: Plan, r: Residuals) -> tuple[jax.Array, jax.Array]:
    """Gradients of k and v, [B, Lk, KV, D], summed over the query heads that share them inside one program."""
    batch, length, heads, dim = r.q.shape
    rows, kv_heads, tile = r.k.shape[1], r.k.shape[2], plan.sizes.dkv
    group = heads // kv_heads
    ids = pl.BlockSpec((None, length), lambda j, g, b: (b, 0))
    queries = pl.BlockSpec((None, length, group, dim), lambda j, g, b: (b, 0, g, 0))
    statistic = pl.BlockSpec((None, group, length), lambda j, g, b: (b, g, 0))
    keys = pl.BlockSpec((None, tile.keys, None, dim), lambda j, g, b: (b, j, g, 0))
    return pl.pallas_call(
        functools.partial(_dkv_kernel, plan=plan, group=group),
        grid=(rows // tile.keys, kv_heads, batch),
        in_specs=[
            pl.BlockSpec((None, None, 4), lambda j, g, b: (b, j, 0)),
            *(ids, ids, queries, queries, statistic, statistic, keys, keys),
        ],
        out_specs=[keys, keys],
        out_shape=[result(x.shape, x.dtype, x) for x in (r.k, r.v)],
        compiler_params=_compiler_params(tile),
        interpret=plan.interpret,
        name="attention_dkv",
    )(key_tiles(r.spans, tile.queries, tile.keys, rows), *r.spans, r.q, r.dout, r.lse, r.delta, r.k, r.v)

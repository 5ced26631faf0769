"""The TPU's kernels (Pallas, Mosaic).

A program holds one tile of one side and streams the other side through VMEM in large pieces, of which it computes the small
tiles that the table (prefetched to SMEM) names: large, because a DMA of a few hundred rows costs more than its bytes; small,
because documents are short. A piece without any such tile is not fetched, as its block index stays where it was.

Tiles lie with keys along sublanes and queries along lanes: what belongs to a query is then one dense row of lanes, sums over
keys are adds of whole registers, and spans come in without being copied 128-fold. q, dout, out and dq are [B, H, D, L], keys and values
[B, KV, L, D] (values of the forward pass transposed too), so that products need no transpose but that of dq.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ja_llm.attention import tiles
from ja_llm.attention.flash import Plan, Residuals, chunk
from ja_llm.attention.manual import result
from ja_llm.attention.spans import Spans, key_tiles, query_tiles

KEYS = 0  # axis of a tile
least_tile = 128  # lanes
_VMEM_BYTES = 64 * 2**20  # of 128 MiB on v5e, v5p and v6e, 64 MiB on tpu7x; the default of 16 MiB is too little for large pieces


def width(head_dim: int) -> int:
    """Head dimension that the kernels compute: any; Mosaic fills lanes by itself."""
    return head_dim


def _heads_first(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (0, 2, 1, 3))


def _length_last(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (0, 2, 3, 1))


def _compiler_params(parallel: int, sequential: int) -> Any:
    semantics: Any = ("parallel",) * parallel + ("arbitrary",) * sequential
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_VMEM_BYTES)


class _Row:
    """One entry of a flattened table [B, tiles, 4] in SMEM."""

    def __init__(self, table: Any, number: Any):
        self.lo, self.full_lo, self.full_hi, self.hi = (table[number * 4 + i] for i in range(4))

    def piece(self, number: Any, tiles_each: int) -> Any:
        """The piece that is fetched at step `number`: only those with something to compute."""
        first = self.lo // tiles_each
        return jnp.clip(number, first, jnp.maximum((self.hi - 1) // tiles_each, first))

    def each(self, begin: Any, end: Any, body: Any) -> None:
        """Call body(tile, masked) for the tiles of the piece [begin, end) that are to be computed, in order."""

        def run(lo: Any, hi: Any, masked: bool) -> None:
            jax.lax.fori_loop(jnp.clip(lo, begin, end), jnp.clip(hi, begin, end), lambda j, _: body(j, masked), None)

        run(self.lo, self.full_lo, True)
        run(self.full_lo, self.full_hi, False)
        run(self.full_hi, self.hi, True)


def _forward_kernel(table, first, last, q, k, v, out, lse, largest, total, summed, *, plan: Plan, pieces: int) -> None:
    """q [D, bq]; k [piece, D]; v [D, piece]; out [D, bq]; lse [1, bq]."""
    tile, step = plan.sizes.forward, pl.program_id(3)
    row = _Row(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2))
    each = k.shape[0] // tile.keys

    @pl.when(step == 0)
    def _():
        largest[...] = jnp.full_like(largest, tiles.HIDDEN)
        total[...], summed[...] = jnp.zeros_like(total), jnp.zeros_like(summed)

    def body(j: Any, masked: bool) -> None:
        rows = pl.ds(pl.multiple_of((j - step * each) * tile.keys, tile.keys), tile.keys)
        s = tiles.scores(plan.dot(k[rows, :], q[...], (1, 0)), plan.scale, plan.softcap)
        mask = tiles.allowed(first[...], last[...], j * tile.keys, s.shape, KEYS) if masked else None
        p, factor, largest[...], total[...] = tiles.accumulate(s, mask, largest[...], total[...], KEYS)
        summed[...] = summed[...] * factor + plan.dot(v[:, rows], p.astype(v.dtype), (1, 0))

    row.each(step * each, (step + 1) * each, body)

    @pl.when(step == pieces - 1)
    def _():
        result, lse[...] = tiles.finish(summed[...], largest[...], total[...])
        out[...] = result.astype(out.dtype)


def forward(plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> tuple[jax.Array, jax.Array]:
    """Out [B, Lq, H, D] and lse float32 [B, H, Lq]; see `ja_llm.attention.flash`."""
    batch, length, heads, dim = q.shape
    group, tile = heads // k.shape[2], plan.sizes.forward
    piece = chunk(k.shape[1], tile.keys, tile.stream)
    grid = (batch, heads, length // tile.queries, k.shape[1] // piece)

    def streamed(b, h, i, c, table):
        return b, h // group, _Row(table, b * grid[2] + i).piece(c, piece // tile.keys)

    of_queries = pl.BlockSpec((None, 1, tile.queries), lambda b, h, i, c, _: (b, 0, i))
    across = pl.BlockSpec((None, None, dim, tile.queries), lambda b, h, i, c, _: (b, h, 0, i))
    statistic = pltpu.VMEM((1, tile.queries), jnp.float32)
    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, plan=plan, pieces=grid[3]),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[
                of_queries,
                of_queries,
                across,
                pl.BlockSpec((None, None, piece, dim), lambda *g: (*streamed(*g), 0)),
                pl.BlockSpec((None, None, dim, piece), lambda *g: (*streamed(*g)[:2], 0, streamed(*g)[2])),
            ],
            out_specs=[across, pl.BlockSpec((None, None, 1, tile.queries), lambda b, h, i, c, _: (b, h, 0, i))],
            scratch_shapes=[statistic, statistic, pltpu.VMEM((dim, tile.queries), jnp.float32)],
        ),
        out_shape=[
            result((batch, heads, dim, length), q.dtype, q),
            result((batch, heads, 1, length), jnp.float32, q),
        ],
        compiler_params=_compiler_params(3, 1),
        interpret=plan.interpret,
        name="attention_forward",
    )(
        query_tiles(spans, tile.queries, tile.keys, k.shape[1]).reshape(-1),
        spans.first[:, None],
        spans.last[:, None],
        _length_last(q),
        _heads_first(k),
        _length_last(v),
    )
    return jnp.transpose(out, (0, 3, 1, 2)), lse[:, :, 0]


def _dq_kernel(table, first, last, q, dout, lse, delta, k, v, dq, summed, *, plan: Plan, pieces: int) -> None:
    """q, dout, dq [D, bq]; lse, delta [1, bq]; k, v [piece, D]."""
    tile, step = plan.sizes.dq, pl.program_id(3)
    row = _Row(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2))
    each = k.shape[0] // tile.keys

    @pl.when(step == 0)
    def _():
        summed[...] = jnp.zeros_like(summed)

    def body(j: Any, masked: bool) -> None:
        rows = pl.ds(pl.multiple_of((j - step * each) * tile.keys, tile.keys), tile.keys)
        keys = k[rows, :]
        s = tiles.scores(plan.dot(keys, q[...], (1, 0)), plan.scale, plan.softcap)
        mask = tiles.allowed(first[...], last[...], j * tile.keys, s.shape, KEYS) if masked else None
        dweights = plan.dot(v[rows, :], dout[...], (1, 0))
        _, ds = tiles.gradients(s, mask, lse[...], dweights, delta[...], plan.softcap)
        summed[...] += plan.dot(keys, ds.astype(keys.dtype), (0, 0))

    row.each(step * each, (step + 1) * each, body)

    @pl.when(step == pieces - 1)
    def _():
        dq[...] = (summed[...] * plan.scale).astype(dq.dtype)


def dq(plan: Plan, r: Residuals) -> jax.Array:
    """Gradient of q, [B, Lq, H, D]."""
    batch, length, heads, dim = r.q.shape
    group, tile = heads // r.k.shape[2], plan.sizes.dq
    piece = chunk(r.k.shape[1], tile.keys, tile.stream)
    grid = (batch, heads, length // tile.queries, r.k.shape[1] // piece)

    def streamed(b, h, i, c, table):
        return b, h // group, _Row(table, b * grid[2] + i).piece(c, piece // tile.keys), 0

    of_queries = pl.BlockSpec((None, 1, tile.queries), lambda b, h, i, c, _: (b, 0, i))
    statistic = pl.BlockSpec((None, None, 1, tile.queries), lambda b, h, i, c, _: (b, h, 0, i))
    across = pl.BlockSpec((None, None, dim, tile.queries), lambda b, h, i, c, _: (b, h, 0, i))
    keys = pl.BlockSpec((None, None, piece, dim), streamed)
    out = pl.pallas_call(
        functools.partial(_dq_kernel, plan=plan, pieces=grid[3]),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[of_queries, of_queries, across, across, statistic, statistic, keys, keys],
            out_specs=across,
            scratch_shapes=[pltpu.VMEM((dim, tile.queries), jnp.float32)],
        ),
        out_shape=result((batch, heads, dim, length), r.q.dtype, r.q),
        compiler_params=_compiler_params(3, 1),
        interpret=plan.interpret,
        name="attention_dq",
    )(
        query_tiles(r.spans, tile.queries, tile.keys, r.k.shape[1]).reshape(-1),
        r.spans.first[:, None],
        r.spans.last[:, None],
        _length_last(r.q),
        _length_last(r.dout),
        r.lse[:, :, None],
        r.delta[:, :, None],
        _heads_first(r.k),
        _heads_first(r.v),
    )
    return jnp.transpose(out, (0, 3, 1, 2))


def _dkv_kernel(
    table, first, last, q, dout, lse, delta, k, v, dk, dv, sum_k, sum_v, *, plan: Plan, pieces: int, group: int
) -> None:
    """q, dout [D, piece]; first, last, lse, delta [1, piece]; k, v, dk, dv [bk, D]."""
    tile, head, step = plan.sizes.dkv, pl.program_id(3), pl.program_id(4)
    number = pl.program_id(2)
    row = _Row(table, pl.program_id(0) * pl.num_programs(2) + number)
    each = q.shape[1] // tile.queries

    @pl.when((head == 0) & (step == 0))
    def _():
        sum_k[...], sum_v[...] = jnp.zeros_like(sum_k), jnp.zeros_like(sum_v)

    def body(i: Any, masked: bool) -> None:
        at = pl.ds(pl.multiple_of((i - step * each) * tile.queries, tile.queries), tile.queries)
        queries, do = q[:, at], dout[:, at]
        s = tiles.scores(plan.dot(k[...], queries, (1, 0)), plan.scale, plan.softcap)
        mask = tiles.allowed(first[:, at], last[:, at], number * tile.keys, s.shape, KEYS) if masked else None
        dweights = plan.dot(v[...], do, (1, 0))
        p, ds = tiles.gradients(s, mask, lse[:, at], dweights, delta[:, at], plan.softcap)
        sum_v[...] += plan.dot(p.astype(do.dtype), do, (1, 1))
        sum_k[...] += plan.dot(ds.astype(queries.dtype), queries, (1, 1))

    row.each(step * each, (step + 1) * each, body)

    @pl.when((head == group - 1) & (step == pieces - 1))
    def _():
        dk[...] = (sum_k[...] * plan.scale).astype(dk.dtype)
        dv[...] = sum_v[...].astype(dv.dtype)


def dkv(plan: Plan, r: Residuals) -> tuple[jax.Array, jax.Array]:
    """Gradients of k and v, [B, Lk, KV, D], summed over the query heads that share them inside one program."""
    batch, length, heads, dim = r.q.shape
    kv_heads, tile = r.k.shape[2], plan.sizes.dkv
    group = heads // kv_heads
    piece = chunk(length, tile.queries, tile.stream)
    grid = (batch, kv_heads, r.k.shape[1] // tile.keys, group, length // piece)

    def at(b, j, c, table):
        return _Row(table, b * grid[2] + j).piece(c, piece // tile.queries)

    of_queries = pl.BlockSpec((None, 1, piece), lambda b, g, j, n, c, t: (b, 0, at(b, j, c, t)))
    across = pl.BlockSpec((None, None, dim, piece), lambda b, g, j, n, c, t: (b, g * group + n, 0, at(b, j, c, t)))
    statistic = pl.BlockSpec((None, None, 1, piece), lambda b, g, j, n, c, t: (b, g * group + n, 0, at(b, j, c, t)))
    keys = pl.BlockSpec((None, None, tile.keys, dim), lambda b, g, j, n, c, t: (b, g, j, 0))
    dk, dv = pl.pallas_call(
        functools.partial(_dkv_kernel, plan=plan, pieces=grid[4], group=group),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[of_queries, of_queries, across, across, statistic, statistic, keys, keys],
            out_specs=[keys, keys],
            scratch_shapes=[pltpu.VMEM((tile.keys, dim), jnp.float32)] * 2,
        ),
        out_shape=[result((batch, kv_heads, r.k.shape[1], dim), x.dtype, x) for x in (r.k, r.v)],
        compiler_params=_compiler_params(3, 2),
        interpret=plan.interpret,
        name="attention_dkv",
    )(
        key_tiles(r.spans, tile.queries, tile.keys, r.k.shape[1]).reshape(-1),
        r.spans.first[:, None],
        r.spans.last[:, None],
        _length_last(r.q),
        _length_last(r.dout),
        r.lse[:, :, None],
        r.delta[:, :, None],
        _heads_first(r.k),
        _heads_first(r.v),
    )
    return _heads_first(dk), _heads_first(dv)

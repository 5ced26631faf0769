"""The tiled implementations' common part: padding, tables, residuals and the hand-written derivative.

A backend computes three things from padded arrays: the output with its log-sum-exp, the gradient of q, and the gradients of k
and v. Two kernels for the backward pass cost two products more than one with atomic additions, and give the same bits in
every run (FlashAttention-2, arXiv 2307.08691, section 3.2, adds dq atomically).
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ja_llm.attention import manual
from ja_llm.attention.spans import Spans, pad_spans
from ja_llm.attention.tiles import LOG2E
from ja_llm.errors import InputError

# What a remat policy keeps so that the backward pass does not run the forward kernel again.
SAVED_NAMES = ("attention_out", "attention_lse")


class Tiles(NamedTuple):
    """Tile lengths of one kernel.

    Attributes:
      queries: of a compute tile.
      keys: of a compute tile.
      stream: how much of the streamed side (keys; for the gradients of k and v, queries) is brought into fast memory at once;
        backends without such a step do not read it.
      warps: of a program, read by Triton alone.
      stages: of Triton's software pipeline.
    """

    queries: int
    keys: int
    stream: int = 0
    warps: int = 4
    stages: int = 2


class BlockSizes(NamedTuple):
    """Tile lengths of the three kernels."""

    forward: Tiles
    dq: Tiles
    dkv: Tiles


class Plan(NamedTuple):
    """What is fixed when a kernel is traced: hashable, part of the cache key of what is compiled."""

    backend: "Backend"
    scale: float
    softcap: float | None
    sizes: BlockSizes
    interpret: Any = False

    def dot(self, a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
        """Product of two tiles over the named axes, summed in float32; float32 tiles are not rounded on the way."""
        precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
        dims = (((axes[0],), (axes[1],)), ((), ()))
        return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


class Residuals(NamedTuple):
    """What the backward kernels read.

    Attributes:
      q: [B, Lq, H, D], padded; k, v: [B, Lk, KV, D].
      k: see q.
      v: see q.
      spans: int32 [B, Lq].
      dout: as q.
      lse: float32 [B, H, Lq] in log-2 units, finite.
      delta: float32 [B, H, Lq], rowsum(out * dout) minus the gradient of lse.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    spans: Spans
    dout: jax.Array
    lse: jax.Array
    delta: jax.Array


class Backend(Protocol):
    """A module of this package that computes tiles; `__name__` names it in error messages."""

    least_tile: int

    def forward(self, plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, /) -> tuple[jax.Array, jax.Array]: ...

    def dq(self, plan: Plan, r: Residuals, /) -> jax.Array: ...

    def dkv(self, plan: Plan, r: Residuals, /) -> tuple[jax.Array, jax.Array]: ...

    def width(self, head_dim: int, /) -> int: ...


_interpreted: contextvars.ContextVar[Any] = contextvars.ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreted(how: Any = True) -> Iterator[None]:
    """Within the block Pallas kernels are traced for their interpreter, on any platform: slow, for tests of their numbers.

    Args:
      how: True, or `jax.experimental.pallas.tpu.InterpretParams(...)`, which also looks for races and uninitialised reads.
    """
    token = _interpreted.set(how)
    try:
        yield
    finally:
        _interpreted.reset(token)


def interpreting() -> Any:
    """What `interpreted` was given; False outside."""
    return _interpreted.get()


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spans: Spans,
    *,
    backend: Backend,
    scale: float,
    softcap: float | None,
    sizes: BlockSizes,
) -> tuple[jax.Array, jax.Array]:
    """Attention by spans: (out [B, Lq, H, D] of q's dtype, lse float32 [B, Lq, H]).

    Any lengths: rows are filled up to whole tiles with queries that see nothing and keys that nobody sees.

    Raises:
      InputError: a kernel is to be interpreted inside a shard_map with check_vma.
    """
    q, k, v, spans = manual.together((q, k, v, spans))
    if interpreting() and manual.varies(q):
        raise InputError(
            "Pallas' interpreter can't run inside a jax.shard_map that checks over which axes arrays vary; give that shard_map "
            "check_vma=False, or choose xla."
        )
    sizes = _fit(sizes, q.shape[1], k.shape[1], backend.least_tile)
    q_length, k_length, width = q.shape[1], k.shape[1], q.shape[3]
    wide = backend.width(width) - width
    of_queries = filled(q_length, max(t.queries for t in sizes), [(sizes.dkv.queries, sizes.dkv.stream)])
    of_keys = filled(k_length, max(t.keys for t in sizes), [(t.keys, t.stream) for t in (sizes.forward, sizes.dq)])
    q = _padded(q, of_queries - q_length, wide)
    k, v = (_padded(x, of_keys - k_length, wide) for x in (k, v))
    plan = Plan(backend, scale, softcap, sizes, interpreting())
    out, lse = _flash(plan, q, k, v, pad_spans(spans, q.shape[1]))
    return out[:, :q_length, :, :width], jnp.swapaxes(lse, 1, 2)[:, :q_length]


def _padded(x: jax.Array, rows: int, columns: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, columns))) if rows or columns else x


def _fit(sizes: BlockSizes, q_length: int, k_length: int, least: int) -> BlockSizes:
    """Smaller tiles for rows that would fill less than half of one."""

    def fit(tile: int, length: int) -> int:
        while tile > least and tile // 2 >= length:
            tile //= 2
        return tile

    return BlockSizes(*(t._replace(queries=fit(t.queries, q_length), keys=fit(t.keys, k_length)) for t in sizes))


def filled(length: int, tile: int, streams: Sequence[tuple[int, int]]) -> int:
    """The length that a row is filled up to: whole tiles, and such a number of them that each stream goes in long pieces.

    17 tiles would go one by one; 18 go in pieces of 6.

    Args:
      length: of the row.
      tile: the longest one on this side.
      streams: (tile, stream) of the kernels that stream this side.
    """
    rows = -(-length // tile) * tile
    while any(2 * chunk(rows, t, stream) < min(stream, rows) for t, stream in streams):
        rows += tile
    return rows


def chunk(length: int, tile: int, stream: int) -> int:
    """The longest multiple of `tile` that divides `length` and is not above `stream` (but at least a tile)."""
    tiles = length // tile
    return tile * max(n for n in range(1, max(stream // tile, 1) + 1) if tiles % n == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> tuple[jax.Array, jax.Array]:
    return plan.backend.forward(plan, q, k, v, spans)


def _save(plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> tuple[tuple, tuple]:
    out, lse = plan.backend.forward(plan, q, k, v, spans)
    out, lse = (checkpoint_name(x, name) for x, name in zip((out, lse), SAVED_NAMES, strict=True))
    return (out, lse), (q, k, v, spans, out, lse)


def _backward(plan: Plan, saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple:
    q, k, v, spans, out, lse = saved
    dout, dlse = cotangents
    delta = jnp.einsum("blhd,blhd->bhl", out, dout, preferred_element_type=jnp.float32, precision="highest")
    nothing = jnp.isneginf(lse)
    delta = delta - jnp.where(nothing, 0.0, dlse)
    residuals = Residuals(q, k, v, spans, dout.astype(q.dtype), jnp.where(nothing, 0.0, lse) * LOG2E, delta)
    dk, dv = plan.backend.dkv(plan, residuals)
    return plan.backend.dq(plan, residuals), dk, dv, None


_flash.defvjp(_save, _backward)

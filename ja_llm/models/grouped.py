"""Products of rows with the matrix of the group that each belongs to; the rows stand in the order of their groups.

Each group's rows go through its matrix a tile at a time, in a loop that ends with the last row. XLA fuses what a tile reads and writes with its
product, so on a TPU this is the speed of a dense product but for what each group's last tile lacks. JAX's own `ragged_dot` multiplies all
rows by all matrices: on a CPU everywhere, on a TPU (libtpu 0.0.42) in the gradient of the matrices.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ja_llm.attention.manual import together
from ja_llm.attention.registry import platform

# Rows of a tile: of a product, and of the sums over rows, where each tile reads and writes a float32 matrix. As few as keep the
# arithmetic above the memory's pace; a group computes half a tile too much.
TILES = {"cpu": (128, 128)}
_TILES = (512, 1024)


def grouped_product(x: jax.Array, kernels: jax.Array, sizes: jax.Array, own: float = 1.0) -> jax.Array:
    """[rows, inputs] by [groups, inputs, outputs] -> [rows, outputs] of x's dtype; 0 in rows behind the last group.

    Args:
      x: the first sizes[0] rows belong to group 0, the next sizes[1] to group 1, ...
      kernels: one matrix for each group, of x's dtype.
      sizes: int [groups], rows of each; together at most those of x.
      own: about which share of the rows belongs to a group. It changes no number: it tells `ja_llm.compile` how often the loops run.
    """
    return _product(*together((x, kernels, sizes)), own)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: jax.Array, kernels: jax.Array, sizes: jax.Array, own: float) -> jax.Array:
    return _rows(x, kernels, sizes, 0, own)


def _save(x: jax.Array, kernels: jax.Array, sizes: jax.Array, own: float) -> tuple[jax.Array, tuple]:
    return _product(x, kernels, sizes, own), (x, kernels, sizes)


def _backward(own: float, saved: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, kernels, sizes = saved
    return _rows(dy, kernels, sizes, 1, own), _sums(x, dy, sizes, own), None


_product.defvjp(_save, _backward)


def _rows(x: jax.Array, kernels: jax.Array, sizes: jax.Array, contract: int, own: float) -> jax.Array:
    """Each row by its group's matrix, whose dimension `contract` meets the row."""
    rows, groups = len(x), len(sizes)
    tile = _tile(rows, 0)
    tiles, ends = -(-sizes // tile), jnp.cumsum(sizes)
    last = jnp.cumsum(tiles)

    def one(i: jax.Array, out: jax.Array) -> jax.Array:
        g = (last <= i).sum()
        at, mine = _place(i - last[g] + tiles[g], ends[g] - sizes[g], ends[g], tile, rows)
        part = jax.lax.dynamic_slice_in_dim(x, at, tile)
        # The tile's matrix is found inside the loop, where it is read in place; in a loop over groups around this one it is copied.
        kernel = jax.lax.dynamic_index_in_dim(kernels, g, keepdims=False)
        new = jax.lax.dot_general(part, kernel, (((1,), (contract,)), ((), ())))
        old = jax.lax.dynamic_slice_in_dim(out, at, tile)
        return jax.lax.dynamic_update_slice_in_dim(out, jnp.where(mine[:, None], new, old), at, 0)

    out = jnp.zeros((rows, kernels.shape[2 - contract]), x.dtype)
    with _loop_of(own * rows / tile, groups / 2):
        return jax.lax.fori_loop(0, last[-1], one, together(out, x))


def _sums(x: jax.Array, dy: jax.Array, sizes: jax.Array, own: float) -> jax.Array:
    """The sum over each group's rows of x^T dy, added in float32: [groups, inputs, outputs] of x's dtype."""
    rows, groups = len(x), len(sizes)
    tile, ends = _tile(rows, 1), jnp.cumsum(sizes)

    def group(g: jax.Array, out: jax.Array) -> jax.Array:
        def one(i: jax.Array, total: jax.Array) -> jax.Array:
            at, mine = _place(i, ends[g] - sizes[g], ends[g], tile, rows)
            a, b = (jax.lax.dynamic_slice_in_dim(rows, at, tile) for rows in (x, dy))
            a = jnp.where(mine[:, None], a, 0)
            return total + jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

        zeros = together(jnp.zeros(out.shape[1:], jnp.float32), out)
        with _loop_of(own * rows / tile / groups, 1 / 2):
            total = jax.lax.fori_loop(0, -(-sizes[g] // tile), one, zeros)
        return jax.lax.dynamic_update_index_in_dim(out, total.astype(out.dtype), g, 0)

    out = jnp.zeros((groups, x.shape[1], dy.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, groups, group, together(out, x))


class Rounds(NamedTuple):
    """How often a loop that ends with the data is expected to run.

    Attributes:
      full: rounds that full tiles would need.
      all: with what is not full.
    """

    full: float
    all: float


def _loop_of(full: float, more: float) -> Any:
    return jax.named_scope(f"rounds_{full:.6f}_{full + more:.6f}")


def expected_rounds(scope: str) -> Rounds | None:
    """Of a loop, by the scope that a trace or a compiled program names for it; None: it is none of these."""
    found = re.search(r"\brounds_([\d.]+)_([\d.]+)\)*(?:/while)?$", scope)
    return None if found is None else Rounds(float(found[1]), float(found[2]))


def _tile(rows: int, of_sums: int) -> int:
    return min(TILES.get(platform(), _TILES)[of_sums], rows)


def _place(i: jax.Array, first: jax.Array, end: jax.Array, tile: int, rows: int) -> tuple[jax.Array, jax.Array]:
    """(where a group's tile number `i` is read, bool [tile]: which of its rows are the group's and in no earlier tile)."""
    begin = first + i * tile
    at = jnp.minimum(begin, rows - tile)
    number = at + jnp.arange(tile)
    return at, (number >= begin) & (number < end)

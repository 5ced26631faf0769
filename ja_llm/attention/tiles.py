"""The arithmetic of one tile of the score matrix, the same for every implementation that goes tile by tile.

A tile may lie either way round: `axis` says which of its two last dimensions runs over keys, and what belongs to a query
(its span, maximum, sum, lse, delta) has length 1 there. Scores are in units of log 2, so that exp is the hardware's exp2; sums and
statistics are float32. Online softmax: Milakov and Gimelshein 2018 (arXiv 1805.02867); its tiled backward pass:
FlashAttention (arXiv 2205.14135, algorithm 4), with delta = rowsum(out * dout).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

LOG2E = math.log2(math.e)
# Finite, so that differences of two are no NaN; what it stands for is set to an exact 0 by the mask.
HIDDEN = -1e30


def each(bounds: Any, carry: Any, body: Any) -> Any:
    """Carry body(tile, carry, masked) over the tiles lo, full_lo, full_hi, hi of a table's entry."""
    lo, full_lo, full_hi, hi = (bounds[i] for i in range(4))
    for begin, end, masked in ((lo, full_lo, True), (full_lo, full_hi, False), (full_hi, hi, True)):
        carry = jax.lax.fori_loop(begin, end, functools.partial(body, masked=masked), carry)
    return carry


def scores(products: jax.Array, scale: float, softcap: float | None) -> jax.Array:
    """Products q k^T (float32) -> scores in log-2 units: scale * product, or softcap * tanh(scale * product / softcap)."""
    if softcap is None:
        return products * (scale * LOG2E)
    return jnp.tanh(products * (scale / softcap)) * (softcap * LOG2E)


def allowed(first: jax.Array, last: jax.Array, key_start: jax.Array | int, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Bool `shape`: the query sees the key. `first`, `last` have length 1 along `axis`; `key_start` is the tile's first key."""
    keys = jax.lax.broadcasted_iota(jnp.int32, shape, axis % len(shape)) + key_start
    return (first <= keys) & (keys <= last)


def accumulate(
    s: jax.Array, mask: jax.Array | None, largest: jax.Array, total: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One step of the online softmax.

    Args:
      s: scores, float32.
      mask: bool as `s`; None: all pairs are visible.
      largest: largest score so far; `HIDDEN` at the start.
      total: sum of exp2(score - largest) so far.
      axis: of the keys.

    Returns:
      (weights of this tile, factor for what was summed before, largest, total).
    """
    if mask is not None:
        s = jnp.where(mask, s, HIDDEN)
    higher = jnp.maximum(largest, s.max(axis=axis, keepdims=True))
    weights = jnp.exp2(s - higher)
    if mask is not None:  # where a query has seen nothing yet, higher is HIDDEN and the difference 0
        weights = jnp.where(mask, weights, 0.0)
    factor = jnp.exp2(largest - higher)
    return weights, factor, higher, total * factor + weights.sum(axis=axis, keepdims=True)


def finish(summed: jax.Array, largest: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(output, natural log-sum-exp): 0 and -inf for a query that saw nothing."""
    nothing = total == 0
    total = jnp.where(nothing, 1.0, total)
    return summed / total, jnp.where(nothing, -jnp.inf, (largest + jnp.log2(total)) / LOG2E)


def gradients(
    s: jax.Array, mask: jax.Array | None, lse: jax.Array, dweights: jax.Array, delta: jax.Array, softcap: float | None
) -> tuple[jax.Array, jax.Array]:
    """Backward pass of a tile.

    Args:
      s: scores in log-2 units, recomputed.
      mask: as in `accumulate`.
      lse: log-sum-exp of the query in log-2 units, finite.
      dweights: dout v^T, as `s`.
      delta: rowsum(out * dout) of the query, minus the gradient of its lse.
      softcap: as in `scores`.

    Returns:
      (weights, gradient of scale * product), float32.
    """
    weights = jnp.exp2(s - lse)
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)
    ds = weights * (dweights - delta)
    if softcap is not None:
        tanh = s * (1 / (softcap * LOG2E))
        ds = ds * (1.0 - tanh * tanh)
    return weights, ds

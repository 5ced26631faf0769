"""Moments stored in fewer bytes between steps: bfloat16, or 8 bits with a scale for each block.

The step computes in float32: moments are decoded, updated and encoded again.

The 8-bit format is the dynamic data type of Dettmers et al. 2022 (arXiv 2110.02861, section 2): within a block of 256 values along
the last dimension, divided by the block's largest magnitude, a number is 10^-i times a fraction in [0.1, 1] with 6 - i (signed)
or 7 - i (unsigned) bits. Two departures: second moments are stored as their root, which doubles the range that 8 bits hold,
and what is not zero is never rounded to zero: a second moment of 0 beside a first moment would make an update of m / eps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

PRECISIONS = ("float32", "bfloat16", "int8")
BLOCK = 256


class Blocks(NamedTuple):
    """An array in 8 bits.

    Attributes:
      codes: uint8, the array's own shape.
      scale: float32 [..., ceil(last / BLOCK)], the largest magnitude of each block.
    """

    codes: jax.Array
    scale: jax.Array


def _table(signed: bool) -> np.ndarray:
    """float32 [256]: the value of each code, before its block's scale. Code 0 is zero; a signed format has the negatives from 128 on."""
    bits = 6 if signed else 7
    positive = []
    for i in range(bits, -1, -1):  # from the smallest magnitude up
        n = 2 ** (bits - i)
        positive.append((0.1 + 0.9 * (np.arange(n) + 0.5) / n) * 10.0**-i)
    values = np.concatenate(positive)
    table = [0.0, *values, 0.0, *(-values)] if signed else [0.0, *values]
    return np.array(table, np.float32)


def _by_block(x: jax.Array) -> jax.Array:
    """[..., n] -> [..., blocks, BLOCK], padded with zeros."""
    n = x.shape[-1]
    size = min(BLOCK, n)
    blocks = -(-n // size)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * size - n)])
    return padded.reshape(*x.shape[:-1], blocks, size)


def encode(x: jax.Array, signed: bool) -> Blocks:
    """A float array of one dimension or more in 8 bits; an unsigned one must not be negative."""
    blocks = _by_block(x.astype(jnp.float32))
    scale = jnp.max(jnp.abs(blocks), axis=-1)
    bits = 6 if signed else 7
    y = jnp.abs(blocks) / jnp.where(scale > 0, scale, 1.0)[..., None]
    i = jnp.clip(jnp.floor(-jnp.log10(jnp.maximum(y, 1e-30))), 0, bits).astype(jnp.int32)
    n = jnp.left_shift(1, bits - i)
    place = jnp.floor((y * jnp.float32(10.0) ** i - 0.1) / 0.9 * n).astype(jnp.int32)
    # Below exponent i lie 1 + 2 + ... + n/2 = n - 1 codes, and code 0 is zero.
    code = jnp.where(y > 0, n + jnp.clip(place, 0, n - 1), 0)
    if signed:
        code = jnp.where(blocks < 0, code + 128, code)
    codes = code.astype(jnp.uint8).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return Blocks(codes, scale)


def decode(blocks: Blocks, signed: bool) -> jax.Array:
    """Float32 of the codes' shape."""
    values = _by_block(jnp.asarray(_table(signed))[blocks.codes.astype(jnp.int32)]) * blocks.scale[..., None]
    return values.reshape(*blocks.codes.shape[:-1], -1)[..., : blocks.codes.shape[-1]]


def _codec(precision: str, name: str) -> tuple[Any, Any]:
    """(encode, decode) of one array of the moment `name` ("mu" or "nu")."""
    if precision == "bfloat16":
        return lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.float32)
    if name == "nu":
        return lambda x: encode(jnp.sqrt(x), False), lambda b: decode(b, False) ** 2
    return lambda x: encode(x, True), lambda b: decode(b, True)


def stored_as(precision: str, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, whose state's `mu` and `nu` (a named tuple's fields) are kept in `precision` between steps."""
    if precision == "float32":
        return inner

    def convert(state: Any, direction: int) -> Any:
        fields = [name for name in ("mu", "nu") if hasattr(state, name)]
        convert_one = {name: _codec(precision, name)[direction] for name in fields}
        return state._replace(
            **{
                name: jax.tree.map(convert_one[name], getattr(state, name), is_leaf=lambda x: isinstance(x, Blocks))
                for name in fields
            }
        )

    def init(params: Any) -> Any:
        return convert(inner.init(params), 0)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, new = inner.update(updates, convert(state, 1), params)
        return updates, convert(new, 0)

    return optax.GradientTransformation(init, update)

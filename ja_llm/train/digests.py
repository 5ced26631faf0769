"""Digests of a checkpoint's arrays: orbax keeps no checksum of the numbers, so a byte that changed on disk would be trained on.

The digest of an array is two sums modulo 2^32 over its elements' bits: of the bits, and of the bits times an odd number made of the
element's place. Sums of integers do not depend on their order, so the digest is the same on any mesh and number of
processes, and is computed where the array lies. It finds accidents, no forgers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.train.settings import name_of

_PIECE = 1 << 16  # elements that stay in the processor's cache: a training step waits for this
_WEIGHTS = 2 * np.arange(_PIECE, dtype=np.uint32) + np.uint32(1)


def digests(tree: Any) -> dict[str, list[int]]:
    """{name of the array: [sum, weighted sum]}."""
    named = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    if not named:
        return {}
    leaves = list(named.values())
    on_host = all(isinstance(leaf, np.ndarray) or _on_cpu(leaf) for leaf in leaves)
    sums = [_of_host(np.asarray(leaf)) for leaf in leaves] if on_host else _of_devices(leaves)
    return {name: [int(a), int(b)] for name, (a, b) in zip(named, sums, strict=True)}


def first_difference(tree: Any, stored: dict[str, list[int]]) -> str | None:
    """Name of the first array whose digest is not the stored one; arrays without a stored digest are taken as they are."""
    return next((name for name, value in digests(tree).items() if name in stored and stored[name] != value), None)


def _on_cpu(leaf: Any) -> bool:
    return leaf.is_fully_addressable and next(iter(leaf.devices())).platform == "cpu"


def _of_host(x: np.ndarray) -> tuple[int, int]:
    bits = np.ascontiguousarray(x).view(f"uint{8 * x.dtype.itemsize}") if x.dtype.itemsize < 8 else x.reshape(-1).view(np.uint32)
    bits = bits.reshape(-1)
    total = weighted = 0
    product = np.empty(_PIECE, np.uint32)
    for start in range(0, bits.size, _PIECE):
        part = bits[start : start + _PIECE].astype(np.uint32, copy=False)
        products = np.multiply(part, _WEIGHTS[: part.size], out=product[: part.size])
        # Sums of uint32 wrap, which is the modulus; a place in the piece is its place in the array less `start`.
        here = int(part.sum(dtype=np.uint32))
        total += here
        weighted += int(products.sum(dtype=np.uint32)) + 2 * start * here
    return total % 2**32, weighted % 2**32


def _of_devices(leaves: list[Any]) -> np.ndarray:
    spread = leaves[0].sharding
    if isinstance(spread, jax.sharding.NamedSharding):
        whole = jax.sharding.NamedSharding(spread.mesh, jax.sharding.PartitionSpec())
        return np.asarray(_sums(whole)(leaves).addressable_data(0))
    return np.asarray(_sums(None)(leaves))


@functools.lru_cache(maxsize=4)
def _sums(out: Any) -> Any:
    return jax.jit(lambda leaves: jnp.stack([_of_device(leaf) for leaf in leaves]), out_shardings=out)


def _of_device(x: jax.Array) -> jax.Array:
    """uint32 [2]; of an 8-byte type each half counts as an element, as on the host."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32 if x.dtype.itemsize >= 4 else f"uint{8 * x.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in range(bits.ndim - 1, -1, -1):
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.stack([bits.sum(dtype=jnp.uint32), (bits * (2 * place + 1)).sum(dtype=jnp.uint32)])

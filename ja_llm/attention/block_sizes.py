"""Tile lengths by implementation, device kind and bytes of a head: a table that a sweep on the device extends.

`python -m benchmarks.attention_sweep` measures candidates on the device that is there and writes its entry into
`block_sizes.json`, with the figures they were chosen by. Where a device has no entry, `_UNMEASURED` serves: sizes by
argument, not by measurement.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ja_llm.attention.flash import BlockSizes, Tiles

TABLE = Path(__file__).with_name("block_sizes.json")

_UNMEASURED: dict[str, BlockSizes] = {
    # Pieces of 2048 rows hide a DMA's latency; tiles of 512 waste little at documents of a thousand tokens.
    "tpu": BlockSizes(Tiles(512, 512, 4096), Tiles(512, 512, 2048), Tiles(512, 512, 2048)),
    # What a Hopper's or Ampere's registers and shared memory hold at head dimension 128.
    "triton": BlockSizes(Tiles(128, 64, warps=8, stages=3), Tiles(64, 64), Tiles(64, 64)),
    "xla": BlockSizes(Tiles(256, 256), Tiles(256, 256), Tiles(256, 256)),
}


def sizes(implementation: str, head_dim: int, kind: str | None = None, *, dtype: Any = "bfloat16") -> BlockSizes:
    """Tile lengths for a head dimension on a device kind (the one in use when None).

    The measured entry of the nearest head dimension from above is taken, else tiles that are shorter than the largest one's. Both are for
    two bytes an element; float32 takes the fast memory of a head dimension twice as large, and so that one's tiles.
    """
    from ja_llm.attention.registry import device_kind

    width = head_dim * jnp.dtype(dtype).itemsize // 2
    measured = _table().get(implementation, {}).get(device_kind() if kind is None else kind, {})
    if not measured:
        return _shorter(implementation, _UNMEASURED[implementation], width, 128)
    largest = max(int(w) for w in measured)
    found = from_json(measured[str(min((int(w) for w in measured if int(w) >= width), default=largest))]["sizes"])
    return _shorter(implementation, found, width, largest)


def _shorter(implementation: str, found: BlockSizes, width: int, fits: int) -> BlockSizes:
    """Beyond the head dimension that fits, a tile of the same length would not: half of it for twice that."""
    if implementation == "xla":
        return found
    while width > fits:
        found = BlockSizes(*(_halved(t, implementation) for t in found))
        fits *= 2
    return found


def _halved(t: Tiles, implementation: str) -> Tiles:
    if implementation == "tpu":  # keys stream through
        return t._replace(queries=max(t.queries // 2, 128), stream=t.stream // 2)
    return t._replace(queries=max(t.queries // 2, 16), keys=max(t.keys // 2, 16))


def to_json(value: BlockSizes) -> dict[str, Any]:
    """As the table holds it."""
    return {kernel: tiles._asdict() for kernel, tiles in value._asdict().items()}


def from_json(value: dict[str, Any]) -> BlockSizes:
    """Inverse of `to_json`."""
    return BlockSizes(**{kernel: Tiles(**tiles) for kernel, tiles in value.items()})


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))

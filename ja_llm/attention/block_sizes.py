"""Tile lengths by implementation, device kind and head dimension: a table that a sweep on the device extends.

`python -m benchmarks.attention_sweep` measures candidates on the device that is there and writes its entry into
`block_sizes.json`, with the figures they were chosen by. Where a device has no entry, `_UNMEASURED` serves: sizes by
argument, not by measurement.
"""

import functools
import json
from pathlib import Path
from typing import Any

from ja_llm.attention.flash import BlockSizes, Tiles

TABLE = Path(__file__).with_name("block_sizes.json")

_UNMEASURED: dict[str, BlockSizes] = {
    # Pieces of 2048 rows hide a DMA's latency; tiles of 512 waste little at documents of a thousand tokens.
    "tpu": BlockSizes(Tiles(512, 512, 4096), Tiles(512, 512, 2048), Tiles(512, 512, 2048)),
    # What a Hopper's or Ampere's registers and shared memory hold at head dimension 128.
    "triton": BlockSizes(Tiles(128, 64, warps=8, stages=3), Tiles(64, 64), Tiles(64, 64)),
    "xla": BlockSizes(Tiles(256, 256), Tiles(256, 256), Tiles(256, 256)),
}


def sizes(implementation: str, head_dim: int, kind: str | None = None) -> BlockSizes:
    """Tile lengths for a head dimension on a device kind (the one in use when None).

    The measured entry of the nearest head dimension from above (else the largest) is taken.
    """
    from ja_llm.attention.registry import device_kind

    measured = _table().get(implementation, {}).get(device_kind() if kind is None else kind, {})
    if not measured:
        return _narrower(implementation, head_dim)
    width = min((int(w) for w in measured if int(w) >= head_dim), default=max(int(w) for w in measured))
    return from_json(measured[str(width)]["sizes"])


def _narrower(implementation: str, head_dim: int) -> BlockSizes:
    """Beyond a head dimension of 128 a tile of the same length would not fit."""
    found = _UNMEASURED[implementation]
    if head_dim <= 128 or implementation == "xla":
        return found
    keys = 1 if implementation == "tpu" else 2
    return BlockSizes(*(t._replace(queries=t.queries // 2, keys=t.keys // keys, stream=t.stream // 2) for t in found))


def to_json(value: BlockSizes) -> dict[str, Any]:
    """As the table holds it."""
    return {kernel: tiles._asdict() for kernel, tiles in value._asdict().items()}


def from_json(value: dict[str, Any]) -> BlockSizes:
    """Inverse of `to_json`."""
    return BlockSizes(**{kernel: Tiles(**tiles) for kernel, tiles in value.items()})


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))

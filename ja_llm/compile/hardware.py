"""What a TPU chip has, in one table. Peak FLOP/s are `ja_llm.train.flops.PEAK_TFLOPS`, by the same device kinds.

Sources, read 2026-11: cloud.google.com/tpu/docs/v5e (819 GB/s, 1600 Gbps over 4 ports, 2D torus), /v6e (1600 GB/s, 3200 Gbps over 4
ports, 2D torus) and /v5p (2765 GB/s, 1200 GB/s in both directions over 6 ports, 3D torus). `usable_gib` of v5e is what libtpu 0.0.51's
compiler says it has of 16 (63 / 64 of them); v5p's is set to the same share of 95, v6e's a little lower than it of 32: neither has been
seen in a message here. Between slices, from the same pages: 6.4 Tbps of data-center network for the 256 chips of a v5e pod, 25.6 Tbps for
v6e's; v5p's page gives none, 6.25 GB/s a chip is assumed.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from ja_llm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
      platform_name: as topologies are named, e.g. "v5p".
      usable_gib: HBM that a program may use.
      hbm_bytes_per_second: HBM bandwidth.
      link_bytes_per_second: of one inter-chip link, in one direction.
      wraps: multiple that a dimension of the slice must have for its ends to be joined (a torus and no mesh).
      dcn_bytes_per_second: that a chip can send to other slices.
    """

    platform_name: str
    usable_gib: float
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    wraps: int
    dcn_bytes_per_second: float


CHIPS = {
    "v5e": Chip("v5e", 15.75, 819e9, 1600e9 / 8 / 4, 16, 6.4e12 / 8 / 256),
    "v5p": Chip("v5p", 95 * 63 / 64, 2765e9, 1200e9 / 2 / 6, 4, 6.25e9),
    "v6e": Chip("v6e", 31.25, 1600e9, 3200e9 / 8 / 4, 16, 25.6e12 / 8 / 256),
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
      name: as topologies name it, e.g. "h100".
      device_kind: as JAX names it.
      gib: memory, as nvidia-smi gives it; JAX takes three quarters of it unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
    """

    name: str
    device_kind: str
    gib: float


GPUS = {
    "a100-40": Gpu("a100-40", "NVIDIA A100-SXM4-40GB", 40.0),
    "a100": Gpu("a100", "NVIDIA A100-SXM4-80GB", 80.0),
    "h100": Gpu("h100", "NVIDIA H100 80GB HBM3", 79.6),
    "h200": Gpu("h200", "NVIDIA H200", 140.4),
}


def parse_gpus(text: str) -> tuple[Gpu, int, int] | None:
    """("h100:16x8") -> (its entry, 16 machines, 8 GPUs in each); None where it is no GPU of the table.

    Raises:
      UsageError: the shape is no pair.
    """
    name, _, shape = text.partition(":")
    if name not in GPUS:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", shape)
    if not match:
        raise UsageError(f"--topology {text}: give machines x GPUs in each, e.g. {name}:16x8.")
    return GPUS[name], int(match[1]), int(match[2])


def parse_topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """("v5p:4x4x4") -> (its chip, (4, 4, 4)).

    Raises:
      UsageError: it is no topology of the table.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", text)
    if not match or match[1] not in CHIPS:
        raise UsageError(
            f"--topology {text}: give GENERATION:SHAPE with one of {', '.join(CHIPS)}, e.g. v5e:16x16, v6e:16x16 or v5p:4x4x4 (chips), "
            f"or one of {', '.join(GPUS)} with machines x GPUs in each, e.g. h100:16x8."
        )
    return CHIPS[match[1]], tuple(map(int, match[2].split("x")))


def group_bandwidth(chip: Chip, shape: tuple[int, ...], coords: Any) -> float:
    """Bytes per second that one chip can send to the others of a collective's group, over all links that lie inside the group.

    Along a physical dimension that the group spans whole and that is joined to a ring, both directions carry; on a line the
    ends bound it to one. A group that spans several dimensions uses all of them (as XLA's ring strategies over several dimensions do).

    Args:
      chip: the generation.
      shape: chips along each dimension of the slice.
      coords: int [members, dimensions], where the group's chips stand.
    """
    spans = [len(set(column)) for column in np.asarray(coords)[:, : len(shape)].T]
    ways = sum(
        0 if span == 1 else 2 if span == size and size % chip.wraps == 0 else 1 for span, size in zip(spans, shape, strict=True)
    )
    return chip.link_bytes_per_second * max(ways, 1)

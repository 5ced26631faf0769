"""TPU slices by name and shape: chips, hosts, and what Google Cloud calls them.

Sources: Google Cloud, "TPU architecture" pages of each version (accelerator types, topologies, chips of a host) and "TPU runtime versions";
GKE, "About TPUs in GKE" (node labels, machine types).
"""

import dataclasses
import math
import re

from ja_llm.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Generation:
    """One TPU version.

    Attributes:
      label: value of GKE's node label cloud.google.com/gke-tpu-accelerator.
      prefix: of the accelerator type of a TPU VM; the number behind it counts cores (v4, v5p) or chips.
      cores: how many of what the number counts a chip has.
      runtime: runtime version of a TPU VM.
      dimensions: of a topology.
      single: topologies of more than four chips that one host can hold.
    """

    label: str
    prefix: str
    cores: int
    runtime: str
    dimensions: int
    single: tuple[str, ...] = ()


GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "v4", 2, "tpu-ubuntu2204-base", 3),
    "v5e": Generation("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite", 2, ("2x4",)),
    "v5p": Generation("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5", 3),
    "v6e": Generation("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e", 2, ("2x4",)),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice: `generation` ("v5p") and `shape` ("4x4x4")."""

    generation: str
    shape: str

    @property
    def facts(self) -> Generation:
        """Its version's entry."""
        return GENERATIONS[self.generation]

    @property
    def chips(self) -> int:
        """How many chips."""
        return math.prod(int(side) for side in self.shape.split("x"))

    @property
    def hosts(self) -> int:
        """How many machines, which is how many processes."""
        return 1 if self.chips <= 4 or self.shape in self.facts.single else self.chips // 4

    @property
    def accelerator(self) -> str:
        """Accelerator type of a TPU VM."""
        return f"{self.facts.prefix}-{self.chips * self.facts.cores}"


def parse_topology(text: str) -> Slice:
    """A slice, written as `ja-llm compile` takes it: v5p:4x4x4.

    Raises:
      UsageError: it is none.
    """
    name, _, shape = text.partition(":")
    if name not in GENERATIONS or not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", shape):
        raise UsageError(
            f"--topology {text!r}: it is written as VERSION:SHAPE, e.g. v5p:4x4x4 or v6e:16x16; versions are {', '.join(GENERATIONS)}."
        )
    found = Slice(name, shape)
    if len(shape.split("x")) != found.facts.dimensions:
        raise UsageError(f"--topology {text!r}: a shape of {name} has {found.facts.dimensions} sides.")
    if found.chips > 4 and found.chips % 4:
        raise UsageError(f"--topology {text!r}: {found.chips} chips do not fill hosts of four.")
    return found

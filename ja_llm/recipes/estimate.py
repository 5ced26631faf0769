"""What a recipe would take: chip-hours and days, from its FLOPs and an MFU that is assumed."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.launch.topology import parse_topology
from ja_llm.recipes import compiled
from ja_llm.recipes.catalogue import Recipe
from ja_llm.train.flops import peak_flops

# MaxText's published 45.46 % of Llama 3.1 8B at 8192 tokens on a v6e-256 counts attention whole (docs/reference/models/tiering.md); with the
# causal half of it, as here, that is 40.4 %. No TPU has been measured here.
MFU = 0.4

_KINDS = {"v5e": "TPU v5 lite", "v5p": "TPU v5p", "v6e": "TPU v6 lite"}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A recipe on one TPU slice.

    Attributes:
      topology: e.g. "v5p:4x4x4".
      accelerator: its name at Google Cloud, e.g. "v5p-128".
      chips: how many.
      chip_hours: of the whole run at the assumed MFU, all its `Published.runs`.
      days: on this slice.
      compiled: what the compiler said of the step (`ja_llm.compile.aot.compile_step`); None: not compiled.
    """

    topology: str
    accelerator: str
    chips: int
    chip_hours: float
    days: float
    compiled: Mapping[str, Any] | None

    @property
    def fits(self) -> bool | None:
        """None: not compiled."""
        return None if self.compiled is None else self.compiled["fits"]


def chip_hours(recipe: Recipe, topology: str, mfu: float = MFU) -> float:
    """Chip-hours = tokens x FLOPs a token / (peak FLOP/s of a chip x MFU) / 3600.

    Attention is counted half, in the FLOPs and so in the MFU; of experts those that a token goes through.

    Raises:
      UsageError: `mfu` is no share.
    """
    if not 0 < mfu <= 1:
        raise UsageError(f"--mfu {mfu}: give a share above 0 and up to 1, e.g. 0.4.")
    kind = types.SimpleNamespace(device_kind=_KINDS[parse_topology(topology).generation])
    peak = peak_flops(kind)
    assert peak is not None, f"no peak for {topology}"
    return recipe.published.runs * recipe.tokens * recipe.flops_per_token / (peak * mfu) / 3600


def hardware(recipe: Recipe, mfu: float = MFU) -> list[Hardware]:
    """A recipe on each slice that it names, in its order.

    Raises:
      UsageError: `mfu` is no share.
    """
    found = []
    for topology in recipe.published.hardware:
        place, hours = parse_topology(topology), chip_hours(recipe, topology, mfu)
        step = compiled.on(recipe.step, recipe.published, topology)
        said = compiled.result(step, topology)
        found.append(Hardware(topology, place.accelerator, place.chips, hours, hours / place.chips / 24, said))
    return found

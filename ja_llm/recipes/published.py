"""What a recipe's source says that the run itself does not need: its base, its tokens, the hardware that the file is written for."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import gin

from ja_llm.errors import UsageError

KNOWN_FROM = {
    "script": "its authors' own script or configuration",
    "notes": "third-party notes of the paper, or its abstract or page",
    "memory": "memory of the paper, not checked again",
    "assumption": "what matters is not known here; ours",
}
_UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Published:
    """Facts about a recipe; each file of gin_configs/recipes/ binds them.

    Attributes:
      known_from: where the settings (rates, schedule, batch, length, steps, loss) come from, see `KNOWN_FROM`.
      mixture_from: the same of the mixture: its sources, their shares, and where its stages begin.
      runs: how many such runs there are, with other seeds (they are averaged).
      base: Hugging Face name of the model that the run begins from; None: random parameters.
      tokens: that are read in all, as published, to the digits that are known, e.g. "251.7B".
      hardware: topology as `ja-llm compile` takes it -> what differs there from the file's own settings (`microbatches`,
        `remat_policy`, `mesh`). The first is the one that the file is written for.
    """

    tokens: str
    hardware: Mapping[str, Mapping[str, Any]]
    known_from: str
    mixture_from: str
    runs: int = 1
    base: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, str) or not re.fullmatch(r"\d+(\.\d+)?[MBT]", self.tokens):
            raise UsageError(f"Published.tokens is {self.tokens!r}; write a number and M, B or T, e.g. '251.7B'.")
        for name, value in (("known_from", self.known_from), ("mixture_from", self.mixture_from)):
            if value not in KNOWN_FROM:
                raise UsageError(f"Published.{name} is {value!r}; choose one of {', '.join(KNOWN_FROM)}.")
        if not self.hardware:
            raise UsageError("Published.hardware is empty; name a topology, e.g. {'v5p:4x4x4': {}}.")

    def agrees(self, tokens: int) -> bool:
        """Whether a number of tokens is `tokens` when it is rounded to the same digits."""
        number, unit = self.tokens[:-1], self.tokens[-1]
        digits = len(number.partition(".")[2])
        return f"{tokens / _UNITS[unit]:.{digits}f}" == number

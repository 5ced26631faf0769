"""What an expansion of any kind of tokenizer gives."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.vocab.base import Tokenizer


def check_counts(config: Mapping[str, Any]) -> None:
    """Raise UsageError, naming the first whole number of an expansion's settings that is below 1."""
    for name, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise UsageError(f"{name} is {value}; give a whole number from 1.")


@dataclasses.dataclass(frozen=True)
class Expansion:
    """An expanded tokenizer and where its new rows come from.

    Attributes:
      tokenizer: the base's pieces with ids unchanged, then the new ones.
      sources: sources[i] = ids that the base gives for the surface of new piece number i (id base size + i).
      base_size: number of ids of the base.
      config: the values that decided the pieces (arguments of the function that expanded).
      unreachable: trained pieces that were left out because nothing would be spelt with them, or the base has them as special ones.
    """

    tokenizer: Tokenizer
    sources: list[list[int]]
    base_size: int
    config: dict[str, Any]
    unreachable: list[str]

    @property
    def pieces(self) -> list[str]:
        """The new pieces in order of their ids."""
        return [self.tokenizer.id_to_piece(i) for i in range(self.base_size, self.tokenizer.vocab_size)]

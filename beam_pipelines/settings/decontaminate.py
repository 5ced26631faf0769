"""Settings of the stage `decontaminate`."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check
from ja_llm.text.ngrams import THRESHOLD


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Decontaminate:
    """What must not stand in the set, and what is done about a document that holds it.

    Attributes:
      items: files of evaluation items, JSON lines {"task", "item", "texts"} (`ja-llm corpus items` writes them).
      sets: finished document sets whose documents of `split` are items too, so that what an earlier version held out stays unseen.
      split: of those sets; "heldout" or "train".
      min_coverage: share of an item's characters in n-grams of the document from which on the document holds the item.
      ngram: characters of an n-gram after folding; None: 13 for items in Japanese, 40 for others.
      action: "drop" the document, or "cut" the sentences that the n-grams lie in.
    """

    items: Sequence[str] = ()
    sets: Sequence[str] = ()
    split: str = "heldout"
    min_coverage: float = THRESHOLD
    ngram: int | None = None
    action: str = "drop"

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("split", self.split, self.split in ("heldout", "train"), "'heldout' or 'train'"),
            ("min_coverage", self.min_coverage, 0 < self.min_coverage <= 1, "above 0 and at most 1"),
            ("ngram", self.ngram, self.ngram is None or self.ngram >= 1, "at least 1, or None"),
            ("action", self.action, self.action in ("drop", "cut"), "'drop' or 'cut'"),
        ]

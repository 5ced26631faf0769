"""Which test items stand in the training documents, and a measure on those that do and those that do not.

The index and its measure are `ja_llm/text/ngrams.py`'s, which the corpus job's decontamination shares.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import UsageError
from ja_llm.evaluation.statistics import Statistic, described
from ja_llm.text.ngrams import THRESHOLD, Index, fold


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found out about items.

    Attributes:
      coverage: item -> share of its characters that training documents have; items too short for an n-gram are left out.
      too_short: those items.
      lengths: characters of an n-gram, of each item.
    """

    coverage: dict[str, float]
    too_short: tuple[str, ...]
    lengths: dict[str, int]

    def flagged(self, threshold: float = THRESHOLD) -> set[str]:
        """Items whose coverage reaches the threshold."""
        return {item for item, share in self.coverage.items() if share >= threshold}


def search(items: Mapping[str, Sequence[str]], documents: Iterable[str], length: int | None = None) -> Found:
    """Look for test items in training documents.

    Args:
      items: name -> its texts (question, answers); n-grams do not reach from one text into the next.
      documents: texts of the training documents, read once.
      length: characters of an n-gram; None: `ngrams.JAPANESE` or `OTHER`, by the item's script.

    Raises:
      UsageError: `length` is below 1.
    """
    if length is not None and length < 1:
        raise UsageError(f"an n-gram of {length} characters is asked for; give at least 1.")
    index = Index(items, length)
    seen = index.new_marks()
    for document in documents if index else ():
        index.mark(fold(document), seen)
    coverage = index.coverage(seen)
    return Found({name: coverage[name] for name in items if name in coverage}, index.too_short, index.lengths)


def item_texts(task: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What stands for each item of a published set, by "task/item": what is asked (its notes' "asked") and its answers.

    Without shots, which are other items, and without a passage that a question is about, which may well be in an encyclopedia
    that a model read.
    """
    found: dict[str, list[str]] = {}
    for example in examples:
        meta = example["meta"]
        texts = found.setdefault(f"{task}/{meta.get('question', example['id'])}", [])
        texts += [text for text in (meta["asked"], example["targets"]) if text not in texts]
    return found


def parts(statistic: Statistic, items: Sequence[str], found: Found, threshold: float = THRESHOLD) -> dict[str, Any]:
    """A measure on the clean and on the flagged items.

    Args:
      statistic: its rows are of `items`, in their order.
      items: names in `found`.
      found: of `search`.
      threshold: see `Found.flagged`.

    Returns:
      {"n_gram": lengths, "threshold", "items", "flagged", "too_short": numbers, "clean" and "seen": `statistics.described` of the part, None
      for an empty one}. Items too short to be looked for count as clean.
    """
    flagged = found.flagged(threshold)
    mask = np.array([item in flagged for item in items])

    def part(chosen: np.ndarray) -> dict[str, Any] | None:
        return described(Statistic(statistic.rows[chosen], statistic.aggregate)) if chosen.any() else None

    short = set(found.too_short)
    return {
        "n_gram": sorted({found.lengths[item] for item in items}),
        "threshold": threshold,
        "items": len(items),
        "flagged": int(mask.sum()),
        "too_short": sum(item in short for item in items),
        "clean": part(~mask),
        "seen": part(mask),
    }

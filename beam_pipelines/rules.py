"""Rules on measured statistics: measure once, decide as often as thresholds change.

A thresholds dataclass names its rules: `min_X` keeps a text whose statistic X is at least the value, `max_X` one whose X
is at most it, None is no rule. `drop_on_limit` names rules that drop what stands on the value, too. The reason of a drop
is the language, X and which side: "ja_hiragana_share_low".
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.text import scripts

_SIDES = {"min": "low", "max": "high"}
ELLIPSIS = ("…", "・", "...", "‥", "。。。")


def failures(statistics: Mapping[str, float], thresholds: Any, lang: str) -> list[str]:
    """Reasons of all rules that the statistics break, in the order of the thresholds' fields.

    Raises:
      KeyError: a threshold names a statistic that was not measured.
    """
    broken = []
    on_limit = getattr(thresholds, "drop_on_limit", ())
    for name, side, statistic in rule_names(thresholds):
        limit = getattr(thresholds, name)
        if limit is None:
            continue
        value = statistics[statistic]
        if value == limit and name in on_limit:
            broken.append(f"{lang}_{statistic}_{_SIDES[side]}")
        elif side == "min" and value < limit:
            broken.append(f"{lang}_{statistic}_low")
        elif side == "max" and value > limit:
            broken.append(f"{lang}_{statistic}_high")
    return broken


def rule_names(thresholds: Any) -> list[tuple[str, str, str]]:
    """(field, "min" or "max", statistic) of each rule of a thresholds dataclass or class, in the order of its fields."""
    parts = [(field.name, *field.name.split("_", 1)) for field in dataclasses.fields(thresholds)]
    return [(name, side, statistic) for name, side, statistic in parts if side in _SIDES]


def decide(statistics: Mapping[str, float], thresholds: Any, lang: str) -> str | None:
    """The first broken rule's reason, or None to keep the text."""
    return next(iter(failures(statistics, thresholds, lang)), None)


def share(part: float, whole: float) -> float:
    """part / whole, and 0 of nothing."""
    return part / whole if whole else 0.0


def duplicate_shares(items: Sequence[str]) -> tuple[float, float]:
    """(share of items that repeat an earlier one, share of characters in them).

    Example:
      >>> duplicate_shares(["ab", "ab", "c", "ab"])
      (0.5, 0.5714285714285714)
    """
    repeats = [(item, n - 1) for item, n in Counter(items).items() if n > 1]
    characters = sum(len(item) for item in items)
    return share(sum(n for _, n in repeats), len(items)), share(sum(len(item) * n for item, n in repeats), characters)


@dataclasses.dataclass(frozen=True)
class Repeats:
    """The character n-grams of one length in a text.

    Attributes:
      n: their length.
      total: how many there are, repeated ones counted each time.
      distinct: how many different ones.
      repeated: how many of the different ones occur more than once.
      top: occurrences of the most frequent one.
      covered: characters that lie in an n-gram which occurred before, each counted once.
    """

    n: int
    total: int
    distinct: int
    repeated: int
    top: int
    covered: int


def ngram_repeats(text: str, longest: int) -> list[Repeats]:
    """Count the n-grams of 1 to `longest` characters.

    An n-gram can only repeat where its first n-1 characters do, so each length looks at the places that the one before left.

    Example:
      >>> ngram_repeats("あいあいあ", 2)[1]
      Repeats(n=2, total=4, distinct=2, repeated=2, top=2, covered=3)
    """
    characters = np.unique(scripts.code_points(text), return_inverse=True)[1].astype(np.int64)
    base = int(characters.max(initial=0)) + 1
    at, label = np.arange(len(characters)), np.zeros(len(characters), np.int64)
    found = []
    for n in range(1, longest + 1):
        inside = at + n <= len(characters)
        at, label = at[inside], label[inside]
        values, first, label, counts = np.unique(
            label * base + characters[at + n - 1], return_index=True, return_inverse=True, return_counts=True
        )
        total = max(0, len(characters) - n + 1)
        again = np.ones(len(at), bool)
        again[first] = False
        edges = np.zeros(len(characters) + 1, np.int64)
        edges[at[again]] += 1
        edges[at[again] + n] -= 1
        found.append(
            Repeats(
                n,
                total,
                total - len(at) + len(values),
                int((counts > 1).sum()),
                int(counts.max(initial=min(total, 1))),
                int((np.cumsum(edges) > 0).sum()),
            )
        )
        stay = counts[label] > 1
        at, label = at[stay], label[stay]
    return found

"""Rules on measured statistics: measure once, decide as often as thresholds change.

A thresholds dataclass names its rules: `min_X` keeps a text whose statistic X is at least the value, `max_X` one whose X
is at most it, None is no rule. The reason of a drop is the language, X and which side: "ja_hiragana_share_low".
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.text import scripts

ELLIPSIS = ("…", "・", "...", "‥", "。。。")


def failures(statistics: Mapping[str, float], thresholds: Any, lang: str) -> list[str]:
    """Reasons of all rules that the statistics break, in the order of the thresholds' fields.

    Raises:
      KeyError: a threshold names a statistic that was not measured.
    """
    broken = []
    for field in dataclasses.fields(thresholds):
        limit = getattr(thresholds, field.name)
        side, _, statistic = field.name.partition("_")
        if limit is None:
            continue
        value = statistics[statistic]
        if side == "min" and value < limit:
            broken.append(f"{lang}_{statistic}_low")
        elif side == "max" and value > limit:
            broken.append(f"{lang}_{statistic}_high")
    return broken


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


def top_ngram_share(text: str, n: int) -> float:
    """Count of the most frequent character n-gram / number of all n-grams (Swallow v1's code; Gopher counts characters).

    Example:
      >>> top_ngram_share("ああああ", 2), top_ngram_share("あいうえ", 2), top_ngram_share("あ", 2)
      (1.0, 0.3333333333333333, 0.0)
    """
    points = scripts.code_points(text).astype(np.uint64)
    count = len(points) - n + 1
    if count < 1:
        return 0.0
    ids = np.unique(points, return_inverse=True)[1].astype(np.uint64)
    base = np.uint64(int(ids.max()) + 1)
    value = np.zeros(count, np.uint64)
    for i in range(n):  # at most 2^16 distinct characters to the 4th power fit in 64 bits
        value = value * base + ids[i : i + count]
    return int(np.unique(value, return_counts=True)[1].max()) / count

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


def ngram_repeats(text: str, longest: int, covered_from: int = 1) -> list[Repeats]:
    """Count the n-grams of 1 to `longest` characters; `covered` only of those of `covered_from` and more, 0 of shorter ones.

    The places of the text are sorted once by the `longest` characters that stand there; those that share n of them then stand side
    by side. An n-gram can only repeat where its first n-1 characters do, so each length looks at the places that the one before left.

    Example:
      >>> ngram_repeats("あいあいあ", 2)[1]
      Repeats(n=2, total=4, distinct=2, repeated=2, top=2, covered=3)
    """
    at, padded = _sorted_places(text, longest)
    length = len(at)
    common = _common_prefixes(at, padded, longest)
    found = []
    for n in range(1, longest + 1):
        total = max(0, length - n + 1)
        starts = np.flatnonzero(common < n)  # of groups of places with the same n characters
        counts = np.diff(starts, append=len(at))
        repeated = counts[counts > 1]
        distinct = total - int(repeated.sum()) + len(repeated)
        covered = 0
        if n >= covered_from:
            stay = np.repeat(counts > 1, counts)
            at, common = at[stay], common[stay]
            starts = np.cumsum(repeated) - repeated
            common[starts] = 0
            covered = _covered(at, starts, repeated, n, length)
        found.append(Repeats(n, total, distinct, len(repeated), int(repeated.max(initial=min(total, 1))), covered))
    return found


def _covered(at: np.ndarray, starts: np.ndarray, counts: np.ndarray, n: int, length: int) -> int:
    """Characters in n-grams that occurred before: all places of each group but its first in the text."""
    if not len(starts):
        return 0
    again = at[at != np.repeat(np.minimum.reduceat(at, starts), counts)]
    edges = np.bincount(again, minlength=length + 1) - np.bincount(again + n, minlength=length + 1)
    return int(np.count_nonzero(np.cumsum(edges)))


def _sorted_places(text: str, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [characters]: places in order of the characters that stand there, int64: the characters as small numbers, 0 behind the end)."""
    characters = _numbered(scripts.code_points(text))
    bits = int(characters.max(initial=1)).bit_length()
    padded = np.concatenate([characters, np.zeros(longest, np.int64)])
    order = np.arange(len(characters))
    each = 63 // bits  # characters that fit in a key
    for start in reversed(range(0, longest, each)):
        key = np.zeros(len(characters), np.int64)
        for i in range(start, min(start + each, longest)):
            key = (key << bits) | padded[i : i + len(characters)]
        order = order[np.argsort(key[order], kind="stable")]
    return order, padded


def _numbered(points: np.ndarray) -> np.ndarray:
    """int64 [characters]: the characters numbered from 1 in order of their code points."""
    if points.max(initial=0) < 1 << 16:
        points = points.astype(np.uint16)  # numpy sorts these in linear time
    order = np.argsort(points, kind="stable")
    ordered, numbers = points[order], np.empty(len(points), np.int64)
    numbers[order] = np.cumsum(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(points)])
    return numbers


def _common_prefixes(at: np.ndarray, padded: np.ndarray, longest: int) -> np.ndarray:
    """int64 [places]: how many characters each place has in common with the one before it, at most `longest`; 0 for the first.

    What lies behind the end of the text is common with nothing.
    """
    common = np.zeros(len(at), np.int64)
    left, here, before = np.arange(1, len(at)), at[1:], at[:-1]
    for n in range(longest):
        characters = padded[here + n]
        same = (characters == padded[before + n]) & (characters > 0)
        left, here, before = left[same], here[same], before[same]
        common[left] = n + 1
    return common

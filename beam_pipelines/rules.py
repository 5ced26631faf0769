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
_KEY_BITS = 64  # of a sorting key, its sign included
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


def ngram_repeats(text: str, longest: int, covered_from: int = 2) -> list[Repeats]:
    """Count the n-grams of 2 to `longest` characters; `covered` only of those of `covered_from` and more, 0 of shorter ones.

    An n-gram can only repeat where its first n-1 characters do, so each length sorts the places that the one before left: by the group
    of their first n-1 characters, then by the n-th, then by place, all in one number, which numpy sorts fastest.

    Example:
      >>> ngram_repeats("あいあいあ", 2)[0]
      Repeats(n=2, total=4, distinct=2, repeated=2, top=2, covered=3)
    """
    points = scripts.code_points(text).astype(np.int64) + 1  # 0 is what lies behind the end: common with nothing
    length = len(points)
    padded = np.concatenate([points, np.zeros(longest, np.int64)])
    low, high = length.bit_length(), int(points.max(initial=0)).bit_length()
    bits = (high, high, low)
    at, group = np.arange(length), points
    found = []
    for n in range(2, longest + 1):
        total = max(0, length - n + 1)
        if not len(at):
            found.append(Repeats(n, total, total, 0, min(total, 1), 0))
            continue
        at, again = _sorted_places(group, padded[n - 1 :].take(at), at, bits)
        covered = _covered(at[again], n, length) if n >= covered_from else 0
        stay = again.copy()  # the members of groups of more than one
        stay[:-1] |= again[1:]
        at, first = at[stay], ~again[stay]
        starts = np.flatnonzero(first)
        distinct, repeated = total - len(at) + len(starts), len(starts)
        top = int(np.diff(starts, append=len(at)).max()) if repeated else min(total, 1)
        found.append(Repeats(n, total, distinct, repeated, top, covered))
        group = np.cumsum(first)
        bits = (low, high, low)
    return found


def _covered(again: np.ndarray, n: int, length: int) -> int:
    """Characters in n-grams that occurred before, which begin at the places `again`."""
    if not len(again):
        return 0
    begins = np.zeros(length, bool)
    begins[again] = True
    ascending = np.flatnonzero(begins)
    return int(np.minimum(ascending[1:] - ascending[:-1], n).sum()) + n


def _sorted_places(
    group: np.ndarray, characters: np.ndarray, at: np.ndarray, bits: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(int64 places sorted by group, character and place; bool: whether one has group and character of the one before it).

    At least one place; `bits` are enough for each of the three. Places ascend within a group.
    """
    _, high, low = bits
    again = np.empty(len(at), bool)
    again[0] = False
    if sum(bits) < _KEY_BITS:
        keys = (group << high) | characters
        keys <<= low
        keys |= at
        keys.sort()
        np.less(keys[1:] ^ keys[:-1], 1 << low, out=again[1:])
        keys &= (1 << low) - 1
        return keys, again
    order = np.lexsort((at, characters, group))  # a text of some million characters
    group, characters = group[order], characters[order]
    again[1:] = (group[1:] == group[:-1]) & (characters[1:] == characters[:-1])
    return at[order], again

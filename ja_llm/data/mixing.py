"""Mixing: which source each row of the endless order is of, so that every source has its share as exactly as whole rows allow.

The order is a pure function of the rates: row i is found without any row before it. It is divided into blocks of `Mixing.block` rows, the
smallest number of which every source has whole rows where there is one up to `LONGEST_BLOCK` (10 for 0.9 and 0.1, 6 for 2/3, 1/6
and 1/6); then all blocks are alike, and no source is ever a whole row ahead of or behind its share. Other rates (shares of tokens are divided
by how full a source's rows are) have blocks of 1,000 rows or more; at the end of each no source is a whole row off, counted from the
first row of all, and within a block none is two rows off.
"""

import functools
import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np

from ja_llm.errors import UsageError

# Rows of the longest block: its table takes 8 MB, and at worst two seconds to make.
LONGEST_BLOCK = 1 << 20
_SHORTEST_UNEVEN_BLOCK = 1000
_SCALE = 1 << 60
# What scaling rates, twice or so, may round of a share, relative to it. A looser bound would take shares for ratios of whole numbers that only
# lie near them, and 10^15 rows on a source would be rows off.
_ROUNDING = 2.0**-50


class Order(Protocol):
    """What a batch needs to know of a mixing.

    Attributes:
      shares: of each source its share of the rows.
      exact_after: no source is a whole row off its rate after every so many rows; None where that is not so.
    """

    shares: tuple[float, ...]

    @property
    def exact_after(self) -> int | None: ...

    def place(self, row: int) -> tuple[int, int]:
        """(source, how many rows of that source come before) of row `row`, from 0."""

    def counts(self, rows: int) -> list[int]:
        """Of the first `rows` rows how many are of each source."""


class Mixing:
    """An order in which `rates[i]` of the rows are of source i.

    Args:
      rates: positive numbers, in any scale.

    Attributes:
      shares: the rates, scaled to a sum of 1.
      block: rows in a block.
      even: whether every source has whole rows in a block, so that all blocks are alike.
      exact_after: see `Order`; 1 for even blocks, else a block.

    Raises:
      UsageError: a rate is not positive, or so small that its source would not have one row in `LONGEST_BLOCK`.
    """

    def __init__(self, rates: Sequence[float]):
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise UsageError(f"the rates {list(rates)} can't be mixed by; each must be a positive number.")
        total = math.fsum(rates)
        self.shares = tuple(rate / total for rate in rates)
        weights = _whole_numbers(self.shares)
        self.even = weights is not None
        weights = weights or [round(share * _SCALE) for share in self.shares]
        self._edges = [sum(weights[:i]) for i in range(len(weights) + 1)]
        self.block: int = (
            self._edges[-1] if self.even else max(_SHORTEST_UNEVEN_BLOCK, -(-self._edges[-1] // max(min(weights), 1)))
        )
        if self.block > LONGEST_BLOCK:
            raise UsageError(
                f"a rate of {min(rates):g} beside {max(rates):g} is less than one row in {LONGEST_BLOCK:,}; raise it, or leave that task out."
            )

        self.exact_after: int | None = 1 if self.even else self.block

    def place(self, row: int) -> tuple[int, int]:
        """See `Order`; O(1), and where a block is entered the making of its table, unless it is like one of the last ones."""
        block, at = divmod(row, self.block)
        before, table = self._block(block)
        source = int(table.sources[at])
        return source, before[source] + int(table.earlier[at])

    def counts(self, rows: int) -> list[int]:
        """See `Order`."""
        block, at = divmod(rows, self.block)
        if not at:
            return self._at_start(block)
        before, table = self._block(block)
        here = np.bincount(table.sources[:at], minlength=len(before))
        return [a + int(b) for a, b in zip(before, here, strict=True)]

    def _block(self, block: int) -> tuple[list[int], "_Table"]:
        """Rows of each source before a block, and its own order."""
        before = self._at_start(block)
        return before, _table(tuple(b - a for a, b in zip(before, self._at_start(block + 1), strict=True)))

    def _at_start(self, block: int) -> list[int]:
        """Rows of each source before a block: differences of the shares' running sums, each cut to whole rows.

        So they add up to the rows that there are, each is less than one off, and none shrinks from block to block, as a source has a row
        or more in a block.
        """
        rows, total = block * self.block, self._edges[-1]
        cuts = [rows * edge // total for edge in self._edges]
        return [b - a for a, b in zip(cuts, cuts[1:], strict=False)]


class GrainMixing:
    """The order of runs that began before there was `Mixing`: Grain's, which takes rates as whole multiples of a hundredth of the least.

    Args:
      rates: positive numbers; 0.7 and 0.3 are mixed as 233 and 100.
    """

    exact_after: int | None = None

    def __init__(self, rates: Sequence[float]):
        self._weights = [round(100 * rate / min(rates)) for rate in rates]
        self.shares = tuple(weight / sum(self._weights) for weight in self._weights)

    def place(self, row: int) -> tuple[int, int]:
        """See `Order`."""
        before, behind = _nested(row, self._weights), _nested(row + 1, self._weights)
        source = next(i for i, (a, b) in enumerate(zip(before, behind, strict=True)) if b > a)
        return source, before[source]

    def counts(self, rows: int) -> list[int]:
        """See `Order`; rounded shares, as those runs' later stages went on from them."""
        return [round(rows * weight / sum(self._weights)) for weight in self._weights]


# By the name that a run's data schedule has. A run of "exact" or "grain" began when rows that documents are cut into were taken for full, though the
# last one of each pass is not: its rates are shares of such rows. (Those of a best-fit plan never were.)
MIXINGS: dict[str, type[Mixing] | type[GrainMixing]] = {"tokens": Mixing, "exact": Mixing, "grain": GrainMixing}
MIXING = "tokens"  # of new runs


def _whole_numbers(shares: Sequence[float]) -> list[int] | None:
    """The smallest whole numbers in the ratio of the shares, to a float's precision, if their sum is at most `LONGEST_BLOCK`."""
    near = [Fraction(share).limit_denominator(LONGEST_BLOCK) for share in shares]
    period = math.lcm(*(fraction.denominator for fraction in near))
    close = all(abs(float(fraction) - share) <= _ROUNDING * share for fraction, share in zip(near, shares, strict=True))
    if not close or sum(near) != 1 or period > LONGEST_BLOCK:
        return None
    return [int(fraction * period) for fraction in near]


class _Table(NamedTuple):
    """One block: of each row its source, int32 [block], and how many rows of that source come earlier in the block, int32 [block]."""

    sources: np.ndarray
    earlier: np.ndarray


@functools.lru_cache(maxsize=16)
def _table(counts: tuple[int, ...]) -> _Table:
    """The order of a block with so many rows of each source, none of them ever a whole row off its share of the block."""
    block, some = sum(counts), [count for count in counts if count]
    rows = np.arange(block + 1)
    running = np.stack(_nested(rows, some))
    off = np.abs(running * block - rows * np.array(some)[:, None])
    order = np.argmax(np.diff(running), axis=0) if (off < block).all() else _earliest_deadline(some)
    sources = np.flatnonzero(counts).astype(np.int32)[order]
    earlier = np.empty(len(sources), np.int32)
    for source in range(len(counts)):
        mine = sources == source
        earlier[mine] = np.arange(np.count_nonzero(mine), dtype=np.int32)
    return _Table(sources, earlier)


def _nested(rows: Any, weights: Sequence[int]) -> list[Any]:
    """How many of the first `rows` rows (a number or an int64 array) are of each source, where each in turn takes its share, rounded up, of what
    those before it have left. (Grain mixes so.) Of two sources none is ever a whole row off; of more some may be.
    """
    rest, left, found = rows, sum(weights), []
    for weight in weights:
        behind = rest * (left - weight) // left
        found.append(rest - behind)
        rest, left = behind, left - weight
    return found


def _earliest_deadline(counts: Sequence[int]) -> np.ndarray:
    """Source of each row, int32 [sum(counts)]: of the sources that may have the next row the one that can wait least.

    With n sources of shares w, row j (from 0) of source i may come as row k (from 1) of all once k w_i - j >= 1 / (2 n - 2), and can wait until
    k w_i - j would exceed 1 - 1 / (2 n - 2); so no source is ever more than 1 - 1 / (2 n - 2) rows off (Tijdeman 1980, The chairman
    assignment problem, Discrete Mathematics 32).
    """
    rows, step = sum(counts), 2 * len(counts) - 2
    arriving: list[list[tuple[int, int]]] = [[] for _ in range(rows + 2)]
    for source, count in enumerate(counts):
        arriving[-(-rows // (step * count))].append((rows * (step - 1) // (step * count), source))
    waiting: list[tuple[int, int]] = []
    had = [0] * len(counts)
    order = np.empty(rows, np.int32)
    for k in range(1, rows + 1):
        for item in arriving[k]:
            heapq.heappush(waiting, item)
        _, source = heapq.heappop(waiting)
        order[k - 1] = source
        had[source] += 1
        if had[source] < counts[source]:
            place, count = step * had[source], counts[source]
            release = -(-rows * (place + 1) // (step * count))
            arriving[max(release, k + 1)].append((rows * (place + step - 1) // (step * count), source))
    return order

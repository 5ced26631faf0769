"""Rates by rule: in which shares the sources of a mixture are read, made from how much there is of each.

A mixture's own shares stand in `tasks/mixtures.py`; `RATES` of a run (and `Stage.rates`) may read the same stores in other shares: a dict, or
one of the rules here. Sizes are in any unit of text (tokens, rows of a packing plan), the budget in the same one.
"""

import dataclasses
import math
from collections.abc import Mapping

import gin

from ja_llm.errors import UsageError

Shares = dict[str, float]


class Rule:
    """A frozen dataclass that makes shares."""

    def __call__(self, sizes: Mapping[str, float], shares: Mapping[str, float], budget: float) -> Shares:
        """Shares of the sources, 1 in all.

        Args:
          sizes: of each source how much there is of it, above 0.
          shares: those of the mixture as it was cached, 1 in all.
          budget: how much will be read in all.

        Raises:
          UsageError: the rule can't be kept with these sources.
        """
        raise NotImplementedError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Temperature(Rule):
    """Shares in proportion to size^(1 / temperature) (Conneau and Lample 2019, arXiv 1901.07291, section 3.1, with alpha = 1 / temperature).

    With `max_epochs` no source is read more often than that: one that would be is read just so often, and what it gives up goes to the others
    in proportion to their size^(1 / temperature), until none is over. At high temperatures this is `UniMax`.

    Attributes:
      temperature: 1 for shares by size, larger ones for more even shares.
      max_epochs: how often a source may be read at most; None: any number of times, whatever the budget.
    """

    temperature: float
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or self.temperature <= 0:
            raise UsageError(f"Temperature.temperature is {self.temperature!r}; give a number above 0, 1 for shares by size.")
        if self.max_epochs is not None:
            _check_cap("Temperature", self.max_epochs)

    def __call__(self, sizes: Mapping[str, float], shares: Mapping[str, float], budget: float) -> Shares:
        """See `Rule`; without a cap the budget changes nothing."""
        largest = max(sizes.values())  # else a low temperature's powers overflow
        weights = {name: (size / largest) ** (1 / self.temperature) for name, size in sizes.items()}
        if self.max_epochs is None:
            return _normalised(weights)
        _check_budget("Temperature", sizes, budget, self.max_epochs)
        return _normalised(_capped(weights, {name: self.max_epochs * size for name, size in sizes.items()}, budget))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class UniMax(Rule):
    """As even as can be without reading any source more than so many times (Chung et al. 2023, arXiv 2304.09151, algorithm 1).

    From the smallest source on each gets an equal part of what is left of the budget, or `max_epochs` times its size where that is less.
    The algorithm says nothing of a budget that exceeds `max_epochs` times all sources; here it is refused.

    Attributes:
      max_epochs: how often a source may be read at most.
    """

    max_epochs: float

    def __post_init__(self) -> None:
        _check_cap("UniMax", self.max_epochs)

    def __call__(self, sizes: Mapping[str, float], shares: Mapping[str, float], budget: float) -> Shares:
        """See `Rule`."""
        _check_budget("UniMax", sizes, budget, self.max_epochs)
        left, chosen = float(budget), dict[str, float]()
        for done, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
            chosen[name] = min(left / (len(sizes) - done), self.max_epochs * sizes[name])
            left -= chosen[name]
        return _normalised({name: chosen[name] for name in sizes})


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Replay(Rule):
    """The mixture's own shares, but with so much of some sources in all: what a continual run rereads against forgetting.

    Attributes:
      sources: names of the replayed sources.
      share: theirs together; among themselves, and so do the others, they keep the proportions that the mixture has.
    """

    sources: tuple[str, ...]
    share: float

    def __post_init__(self) -> None:
        if isinstance(self.sources, str) or not self.sources:
            raise UsageError(f"Replay.sources is {self.sources!r}; give a tuple of names, e.g. ('web_en',).")
        if not _is_number(self.share) or not 0 <= self.share <= 1:
            raise UsageError(f"the replayed share (Replay.share, --share) is {self.share!r}; give a number from 0 to 1.")

    def __call__(self, sizes: Mapping[str, float], shares: Mapping[str, float], budget: float) -> Shares:
        """See `Rule`; the budget changes nothing. A source whose share is 0 is left out."""
        for name in self.sources:
            if name not in shares:
                raise UsageError(
                    f"the replayed sources (Replay.sources, --source) have {name!r}; the mixture has {', '.join(sorted(shares))}."
                )
        of_them = math.fsum(shares[name] for name in set(self.sources))
        of_others = math.fsum(rate for name, rate in shares.items() if name not in self.sources)
        if len(set(self.sources)) == len(shares):
            raise UsageError(
                "the replayed sources (Replay.sources, --source) are all of the mixture; at least one must be what is learnt."
            )
        found = {
            name: self.share * rate / of_them if name in self.sources else (1 - self.share) * rate / of_others
            for name, rate in shares.items()
        }
        return _normalised({name: rate for name, rate in found.items() if rate > 0})


def resolved(rates: Rule | Mapping[str, float], sizes: Mapping[str, float], shares: Mapping[str, float], budget: float) -> Shares:
    """Shares by a rule or as they are given; the arguments are those of `Rule.__call__`.

    Raises:
      UsageError: a source is named that there is not, a rate is below 0 or none is above, or a rule can't be kept.
    """
    if isinstance(rates, Rule):
        return rates(sizes, shares, budget)
    for name, rate in rates.items():
        if name not in sizes:
            raise UsageError(f"RATES names {name!r}; the mixture has {', '.join(sorted(sizes))}.")
        if not _is_number(rate) or rate < 0:
            raise UsageError(f"RATES of {name!r} is {rate!r}; give a share of the tokens, 0 or more.")
    kept = {name: float(rate) for name, rate in rates.items() if rate > 0}
    if not kept or not math.isclose(math.fsum(kept.values()), 1.0, abs_tol=1e-6):
        raise UsageError(f"RATES add up to {math.fsum(kept.values()):g}; shares of tokens add up to 1.")
    return kept


def check_rates(name: str, rates: object) -> None:
    """Refuse what can't be rates, by the name that was bound.

    Raises:
      UsageError: they are neither a rule, a dict nor None.
    """
    if rates is not None and not isinstance(rates, Rule | Mapping):
        shown = f"the class {rates.__name__} itself" if isinstance(rates, type) else repr(rates)
        raise UsageError(f"{name} is {shown}; give {{'task': share}}, a rule with brackets, e.g. @rates.UniMax(), or None.")


# What sums and products of a handful of floats may be off, relative to them.
_ROUNDING = 1e-12


def _check_cap(rule: str, epochs: object) -> None:
    if not _is_number(epochs) or epochs <= 0:  # type: ignore[operator]
        raise UsageError(f"{rule}.max_epochs is {epochs!r}; give a number above 0, e.g. 4.")


def _check_budget(rule: str, sizes: Mapping[str, float], budget: float, epochs: float) -> None:
    """Refuse a budget that no shares could keep under the cap."""
    there = math.fsum(sizes.values())
    if budget > epochs * there * (1 + _ROUNDING):
        raise UsageError(
            f"{rule}: {budget:,.0f} tokens are to be read, but {epochs:g} epochs of all sources are only {epochs * there:,.0f}; "
            "read less, allow more epochs, or add text."
        )


def _capped(weights: Mapping[str, float], most: Mapping[str, float], budget: float) -> dict[str, float]:
    """A budget in proportion to `weights`, none above its `most`: those that come to it first are filled first, the others share what is left."""
    left, chosen = float(budget), dict[str, float]()
    order = sorted(weights, key=lambda name: (math.inf if weights[name] == 0 else most[name] / weights[name], name))
    for done, name in enumerate(order):
        others = math.fsum(weights[other] for other in order[done:])
        # A weight may be too small for a float beside the largest; what is left when all others are full is its.
        chosen[name] = min(left * weights[name] / others if others else left, most[name])
        left -= chosen[name]
    return {name: chosen[name] for name in weights}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _normalised(values: Mapping[str, float]) -> Shares:
    total = math.fsum(values.values())
    return {name: value / total for name, value in values.items()}

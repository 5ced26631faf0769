"""Alarms of the forgetting monitor: when a rise of a probe's bits per byte is more than noise."""

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import gin
import numpy as np

from ja_llm.errors import UsageError
from ja_llm.train.settings import check_numbers, is_whole

_BOUNDS = ("relative_rise", "rise", "ceiling")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Alarm:
    """Bounds for the bits per byte of some domains.

    The rule. A bound is crossed at a probe where a one-sided t test over the probe's documents (`above_zero`) rejects "the domain is within
    the bound" at the level `false_alarms` / (probes of the run x domains x bounds) (Bonferroni); the alarm goes off where it was crossed at
    `patience` probes in a row. The documents are the same at every probe, so for a rise each is compared with itself at step 0, and what
    makes one document harder than another cancels. A run in which no domain comes past its bound therefore has an alarm with a probability
    of `false_alarms` at most, however the probes depend on each other, as far as the ratio over the documents is normal (docs/forgetting.md
    has what was measured with 64); far below the bound it is much less.

    Attributes:
      domains: patterns of the probes' names (tasks), e.g. ("web_en", "code*"). Of several alarms that fit a domain the first decides.
      relative_rise: most that bits per byte may rise above step 0, as a share of what they were there, e.g. 0.05; None: no such bound.
      rise: the same in bits per byte.
      ceiling: most that they may be, in bits per byte, whatever they were.
      false_alarms: probability of one or more false alarms in the whole run, of all its domains together.
      patience: probes in a row that must be past the bound.
      from_step: step from which on is judged: a stability gap that is to be let pass ends before.
      stop: whether the run is saved and ends when the alarm goes off.
    """

    domains: tuple[str, ...] = ("*",)
    relative_rise: float | None = None
    rise: float | None = None
    ceiling: float | None = None
    false_alarms: float = 0.01
    patience: int = 2
    from_step: int = 0
    stop: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if isinstance(self.domains, str) or not all(isinstance(name, str) for name in self.domains) or not self.domains:
            raise UsageError(f"Alarm.domains is {self.domains!r}; give a tuple of patterns, e.g. ('web_en',).")
        if not self.bounds or any(bound < 0 for bound in self.bounds.values()):
            raise UsageError(f"{self} has no bound; give relative_rise, rise or ceiling, 0 or more.")
        whole = is_whole(self.patience) and self.patience >= 1 and is_whole(self.from_step) and self.from_step >= 0
        if not whole or not 0 < self.false_alarms < 1:
            raise UsageError(
                f"{self} can't be used; patience is a whole number of 1 or more, from_step of 0 or more, false_alarms between 0 and 1."
            )

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {name: value for name in _BOUNDS if (value := getattr(self, name)) is not None}

    def crossed(self, rows: np.ndarray, base: np.ndarray | None, tests: int) -> str:
        """The bound that this probe is past, in words; "" where it is within all. Bits that are no finite number are past any.

        Args:
          rows: float64 [documents, 2], bits and bytes now.
          base: the same at step 0; None: not known, so only the ceiling is judged.
          tests: how many there are in the run, of all domains and bounds.
        """
        if not np.isfinite(rows).all():
            return "finite numbers"
        for name, bound in self.bounds.items():
            if name == "ceiling":
                excess = rows[:, 0] - bound * rows[:, 1]
            elif base is None:
                continue
            elif name == "rise":
                excess = rows[:, 0] - base[:, 0] - bound * rows[:, 1]
            else:
                excess = rows[:, 0] - (1 + bound) * base[:, 0]
            if above_zero(excess, rows[:, 1]) < self.false_alarms / tests:
                unit = "% above step 0" if name == "relative_rise" else "bits per byte" + " above step 0" * (name == "rise")
                return f"{100 * bound if name == 'relative_rise' else bound:g} {unit}"
        return ""


def ratio(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """sum(sums) / sum(sizes) and its standard error over documents, by the jackknife (Efron and Tibshirani 1993, eq. 11.5).

    A document that holds much of all bytes makes the error larger, as it should.

    Args:
      sums: float64 [n], e.g. the bits that each document has risen by.
      sizes: float64 [n], bytes.
    """
    count, value = len(sums), float(sums.sum() / sizes.sum())
    if count < 2:
        return value, 0.0
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    return value, float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))


def above_zero(sums: np.ndarray, sizes: np.ndarray) -> float:
    """p-value of "sum(sums) / sum(sizes) is not above 0 over all documents of the domain": one-sided, by Student's t with n - 1 degrees."""
    value, error = ratio(sums, sizes)
    if error <= 1e-12 * abs(value):  # all documents alike
        return 0.0 if value > 0 else 1.0
    from scipy import special

    return float(special.stdtr(len(sums) - 1, -value / error))


def rise(rows: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Bits per byte now minus those at step 0, and the standard error of that over the documents, each compared with itself.

    Args:
      rows: float64 [documents, 2], bits and bytes now.
      base: the same at step 0.
    """
    return ratio(rows[:, 0] - base[:, 0], rows[:, 1])


def alarm_of(domain: str, alarms: Iterable[Alarm]) -> Alarm | None:
    """The first alarm that fits a domain."""
    return next((alarm for alarm in alarms if any(fnmatch.fnmatchcase(domain, name) for name in alarm.domains)), None)


def check_alarms(alarms: Sequence[Alarm], domains: dict[str, int], steps: Iterable[int] = ()) -> None:
    """Refuse, before the run starts, what could never go off.

    Args:
      alarms: in their order.
      domains: probes' names and how many documents each has.
      steps: at which the run will probe.

    Raises:
      UsageError: a pattern fits no probe, or a probe has fewer documents than tell a rise from noise.
    """
    for alarm in alarms:
        for pattern in alarm.domains:
            if not fnmatch.filter(domains, pattern):
                there = ", ".join(sorted(domains)) or "none; see PROBES and train.eval_documents"
                raise UsageError(
                    f"Alarm.domains (KEPT of runs/monitored.gin) names {pattern!r}, which no probe fits; there are {there}."
                )
    for domain, tests in number_of_tests(alarms, domains, steps):
        judged = alarm_of(domain, alarms)
        if judged is not None and domains[domain] < (least := fewest_documents(judged.false_alarms / tests)):
            few = f"{domains[domain]} document{'s' if domains[domain] > 1 else ''}"
            raise UsageError(
                f"Alarm.domains covers {domain!r}, whose probe has {few}: with fewer than {least} even a clear rise can't be told from noise in a run "
                "of so many probes; raise train.eval_documents, give it more held-out documents, or leave it out of the alarm's domains."
            )


def fewest_documents(level: float) -> int:
    """Documents by which a rise is told at a level (of `above_zero`), as often as not, that varies by half of itself from one to the next.

    The t statistic of such a rise is about sqrt(n) / (1 / 2); it must be the level's quantile with n - 1 degrees of freedom.

    Example:
      >>> fewest_documents(0.01), fewest_documents(0.01 / 90)
      (5, 10)
    """
    from scipy import special

    return next(n for n in itertools.count(2) if 2 * math.sqrt(n) >= -special.stdtrit(n - 1, level))


def number_of_tests(alarms: Sequence[Alarm], domains: Iterable[str], steps: Iterable[int]) -> Iterator[tuple[str, int]]:
    """(domain, tests that share its alarm's `false_alarms`): probes that are judged x domains x bounds of that alarm."""
    judged = {domain: alarm_of(domain, alarms) for domain in domains}
    known = list(steps)
    for domain, alarm in judged.items():
        if alarm is not None:
            probes = sum(step >= alarm.from_step for step in known)
            yield domain, max(1, probes) * sum(other is alarm for other in judged.values()) * len(alarm.bounds)

"""The stability gap: how far, how long and how much a domain is forgotten when a run begins to learn something else. NumPy only.

De Lange, van de Ven and Tuytelaars (2023, arXiv:2205.13452) gave the name to the fall and recovery of what was known; Guo et al. (2024,
arXiv:2406.14833) saw it in continual pre-training and proposed what may shrink it. Both draw curves and define no figures for them, so these
are ours: a probe's bits per byte over the steps is taken as straight lines between the measured points, and its rise is what it has above
its value at step 0.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ja_llm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Gap:
    """What a curve of bits per byte says of forgetting; steps may be any unit of the horizontal axis.

    Attributes:
      baseline: its value at the first point.
      begins: where the curve leaves the baseline upward; None: it never rises by more than the tolerance.
      depth: greatest rise between there and the recovery (bits per byte); 0 without a gap.
      deepest: the step of that; None without a gap.
      recovers: where the curve is back at the baseline; None: not before its end, or there is no gap.
      length: steps from `begins` to `recovers`, or to the curve's end where it does not recover.
      area: integral of max(0, rise) over the whole curve (bits per byte x steps); of later rises, too.
      final: rise at the last point; below 0 where the domain was learnt.
    """

    baseline: float
    begins: float | None
    depth: float
    deepest: float | None
    recovers: float | None
    length: float
    area: float
    final: float


def stability_gap(points: Sequence[tuple[float, float]], tolerance: float = 0.0) -> Gap:
    """Measure the gap of one curve.

        depth  = max rise(t), t from begins to recovers         rise(t) = b(t) - b(t_0)
        length = recovers - begins
        area   = integral of max(0, rise(t)) dt                 over the straight lines between the points, exactly

    Args:
      points: (step, bits per byte), steps rising, the first before any update.
      tolerance: a rise that never exceeds it is no gap (it is in `area` all the same): the noise of the probe.

    Returns:
      The measures of the first gap, and of the whole curve.

    Raises:
      InputError: there is no point, steps do not rise, or a number is not finite.

    Example:
      >>> gap = stability_gap([(0, 1.0), (10, 1.4), (30, 1.0), (40, 0.9)])
      >>> gap.length, round(gap.depth, 9), round(gap.area, 9), round(gap.final, 9)
      (30.0, 0.4, 6.0, -0.1)
    """
    steps, rise, baseline = _rises(points)
    steps, rise = _with_crossings(steps, rise)
    area = float((0.5 * (np.maximum(rise[1:], 0) + np.maximum(rise[:-1], 0)) * np.diff(steps)).sum())
    final, end = float(rise[-1]), float(steps[-1])
    for first, last in _excursions(rise):
        deepest = first + int(np.argmax(rise[first : last + 1]))
        if rise[deepest] > max(tolerance, 0.0):
            recovers = float(steps[last]) if rise[last] <= 0 else None
            begins = float(steps[first])
            length = (end if recovers is None else recovers) - begins
            return Gap(baseline, begins, float(rise[deepest]), float(steps[deepest]), recovers, length, area, final)
    return Gap(baseline, None, 0.0, None, None, 0.0, area, final)


def _rises(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, float]:
    values = np.asarray(points, np.float64).reshape(-1, 2)
    if not len(values) or not np.isfinite(values).all() or (np.diff(values[:, 0]) <= 0).any():
        raise InputError(
            f"a curve of {len(values)} points has no gap to measure; give one or more (step, bits per byte), finite, in order of rising steps."
        )
    return values[:, 0], values[:, 1] - values[0, 1], float(values[0, 1])


def _with_crossings(steps: np.ndarray, rise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same curve with a point wherever a line crosses the baseline between two of them."""
    crosses = np.flatnonzero(rise[:-1] * rise[1:] < 0)
    share = rise[crosses] / (rise[crosses] - rise[crosses + 1])
    places = steps[crosses] + share * (steps[crosses + 1] - steps[crosses])
    return np.insert(steps, crosses + 1, places), np.insert(rise, crosses + 1, 0.0)


def _excursions(rise: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) index of each run above the baseline, with the points on it that it begins and ends at."""
    above = np.flatnonzero(rise > 0)
    found = []
    for part in np.split(above, np.flatnonzero(np.diff(above) > 1) + 1) if len(above) else []:
        found.append((int(part[0]) - 1, min(int(part[-1]) + 1, len(rise) - 1)))
    return found


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How a measure of one kind of run differs from that of another, over seeds that both have.

    Attributes:
      pairs: number of seeds.
      mean: mean of (ours - base).
      low: lower end of the 95 % interval of the mean.
      high: upper end.
      relative: mean of ours / mean of base - 1; None where the base's is 0.
    """

    pairs: int
    mean: float
    low: float
    high: float
    relative: float | None

    @property
    def verdict(self) -> str:
        """ "smaller" or "larger" where the interval is all on one side of 0, else "no clear difference"."""
        return "smaller" if self.high < 0 else "larger" if self.low > 0 else "no clear difference"


def paired_difference(ours: Sequence[float], base: Sequence[float]) -> PairedDifference:
    """Student's t interval of the mean difference of pairs (Student 1908): exact for normal differences, however few seeds there are.

    Args:
      ours: one figure a seed.
      base: those of the same seeds in the same order.

    Raises:
      InputError: there are fewer than two pairs, or not equally many of both.
    """
    if len(ours) != len(base) or len(ours) < 2:
        raise InputError(f"{len(ours)} and {len(base)} figures make no pairs; give the same seeds of both, two or more.")
    from scipy import stats

    differences = np.asarray(ours, np.float64) - np.asarray(base, np.float64)
    mean, count = float(differences.mean()), len(differences)
    half = float(stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    level = float(np.mean(base))
    return PairedDifference(count, mean, mean - half, mean + half, float(np.mean(ours)) / level - 1 if level else None)

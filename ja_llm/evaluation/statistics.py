"""How sure a measure is: standard errors, seeded bootstrap intervals, the suite's mean, and a paired test of two runs.

Every measure is a `Statistic`: rows of numbers, one row an item (a question, a text, a problem), and the name of the function
that turns rows into the measure. Items are what is drawn; so accuracy, BLEU and best_exact share one bootstrap. NumPy only.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError

_BLOCK = 64  # resamples drawn at once, so that memory stays at _BLOCK x items
RESAMPLES = 1000


def _mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def _ratio(rows: np.ndarray) -> float:
    """Sum over sum: bits of documents over their bytes."""
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def _bleu(rows: np.ndarray) -> float:
    """Corpus BLEU / 100 from sacrebleu's statistics of each text (its lengths, matches and n-grams), its defaults."""
    from sacrebleu.metrics.bleu import BLEU

    total = rows.sum(0)
    score = BLEU.compute_bleu(
        correct=total[2:6].tolist(), total=total[6:10].tolist(), sys_len=int(total[0]), ref_len=int(total[1]), smooth_method="exp"
    )
    return float(score.score) / 100


def _best_threshold(rows: np.ndarray) -> float:
    """SQuAD 2.0's best_exact or best_f1: the score under the threshold on the no-answer probability that suits the data best.

    Rows are (score, whether there is an answer, whether the prediction is not empty, no-answer probability). Begins with every
    question unanswered, then takes the predictions in, the least doubtful first (the official evaluation script's
    `find_best_thresh`, with the gold answers in hand: an upper bound, never below the share of unanswerable questions).
    """
    ordered = rows[np.argsort(rows[:, 3], kind="stable")]
    answerable = ordered[:, 1] > 0
    gains = np.where(answerable, ordered[:, 0], -(ordered[:, 2] > 0).astype(np.float64))
    return float((~answerable).sum() + max(0.0, gains.cumsum().max(initial=0.0))) / len(rows)


def _mean_of_runs(rows: np.ndarray) -> float:
    """The mean over runs of each one's sum over its count; rows are the runs' sums, then their counts. A run without a count has no part."""
    total = rows.sum(0)
    sums, counts = np.split(total, 2)
    return float((sums[counts > 0] / counts[counts > 0]).mean()) if (counts > 0).any() else 0.0


def _chrf(rows: np.ndarray) -> float:
    """Corpus chrF (0..100) from sacrebleu's statistics of each text, its defaults."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF()._compute_score_from_stats(rows.sum(0).astype(np.int64).tolist()).score)


AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {
    "mean": _mean,
    "ratio": _ratio,
    "bleu": _bleu,
    "best_threshold": _best_threshold,
    "mean_of_runs": _mean_of_runs,
    "chrf": _chrf,
}


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A measure before it is summed up.

    Attributes:
      rows: float64 [items, numbers an item], or [items]; kept as float64 with two axes.
      aggregate: name in AGGREGATES.
    """

    rows: Any
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows, np.float64)
        object.__setattr__(self, "rows", rows[:, None] if rows.ndim == 1 else rows)
        if not len(rows) or not np.isfinite(rows).all():
            raise JaLlmError("a measure has no item or is no number for one; a missing result is never counted as a value.")

    @property
    def value(self) -> float:
        """The measure over all items."""
        return AGGREGATES[self.aggregate](self.rows)


def replicates(statistic: Statistic, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Values of the measure over items drawn with replacement, float64 [resamples]."""
    rows, size = statistic.rows, len(statistic.rows)
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        picks = generator.integers(0, size, (count, size))
        if statistic.aggregate == "mean":
            values[start : start + count] = rows[picks, 0].mean(1)
        elif statistic.aggregate == "ratio":
            values[start : start + count] = rows[picks, 0].sum(1) / rows[picks, 1].sum(1)
        else:
            values[start : start + count] = [AGGREGATES[statistic.aggregate](rows[pick]) for pick in picks]
    return values


def standard_error(statistic: Statistic, drawn: np.ndarray) -> float:
    """Of a mean: sample deviation / sqrt(n) (0 for one item). Of anything else: the deviation of its `drawn` replicates."""
    if statistic.aggregate == "mean":
        values = statistic.rows[:, 0]
        return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(drawn.std(ddof=1))


def described(statistic: Statistic, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """{"value", "standard_error", "interval": [low, high]}, the 95 % percentile interval of the bootstrap."""
    drawn = replicates(statistic, seed, resamples)
    return {"value": statistic.value, "standard_error": standard_error(statistic, drawn), "interval": _interval(drawn)}


def suite_mean(statistics: Mapping[str, Statistic], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The unweighted mean of the tasks' measures, as `described` gives it: tasks are drawn independently of each other.

    Raises:
      JaLlmError: there is no task.
    """
    if not statistics:
        raise JaLlmError("there is no task to take a suite's mean of.")
    drawn = {name: replicates(s, _seed(name, seed), resamples) for name, s in statistics.items()}
    errors = np.array([standard_error(s, drawn[name]) for name, s in statistics.items()])
    return {
        "value": float(np.mean([s.value for s in statistics.values()])),
        "standard_error": float(np.sqrt((errors**2).sum()) / len(errors)),
        "interval": _interval(np.mean(list(drawn.values()), axis=0)),
    }


def paired(ours: Statistic, base: Statistic, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Difference ours - base on the same items, as `paired_suite` gives it.

    Raises:
      JaLlmError: the two are not of the same items or measure.
    """
    return paired_suite({"": ours}, {"": base}, seed, resamples)


def paired_suite(
    ours: Mapping[str, Statistic], base: Mapping[str, Statistic], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Difference of two runs' suite means on the same tasks and items.

    Returns:
      {"difference", "standard_error", "interval": [low, high], "p_value"}. The interval is of the paired bootstrap: both runs
      are drawn the same items. The p-value is two-sided, of approximate randomisation (Noreen 1989; Riezler and Maxwell 2005,
      figure 1): how often is the difference at least as large when each item's two answers are swapped by a coin?

    Raises:
      JaLlmError: the two have other tasks, items or measures.
    """
    _same_items(ours, base)
    difference = float(np.mean([ours[name].value - base[name].value for name in ours]))
    drawn, swapped = np.zeros(resamples), np.zeros(resamples)
    for name, a in ours.items():
        drawn += replicates(a, _seed(name, seed), resamples) - replicates(base[name], _seed(name, seed), resamples)
        swapped += _swapped(a, base[name], _seed(name, seed + 1), resamples)
    drawn, swapped = drawn / len(ours), swapped / len(ours)
    # What is exactly equal may differ in the last bit by the order of a sum.
    as_large = int((np.abs(swapped) >= abs(difference) - 1e-12).sum())
    return {
        "difference": difference,
        "standard_error": float(drawn.std(ddof=1)),
        "interval": _interval(drawn),
        "p_value": (as_large + 1) / (resamples + 1),
    }


def _same_items(ours: Mapping[str, Statistic], base: Mapping[str, Statistic]) -> None:
    if not ours or set(ours) != set(base):
        raise JaLlmError(f"the runs have not the same tasks ({', '.join(sorted(set(ours) ^ set(base))) or 'none'} in one alone).")
    for name, a in ours.items():
        b = base[name]
        if a.rows.shape != b.rows.shape or a.aggregate != b.aggregate:
            raise JaLlmError(f"{name}: the two runs were not measured on the same items; run both on the same data and limit.")


def _swapped(a: Statistic, b: Statistic, seed: int, resamples: int) -> np.ndarray:
    """Differences after each item's two rows were swapped by a coin, float64 [resamples]."""
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        coins = generator.integers(0, 2, (count, len(a.rows)), dtype=np.int8).astype(bool)
        if a.aggregate == "mean":
            gaps = a.rows[:, 0] - b.rows[:, 0]
            values[start : start + count] = np.where(coins, -gaps, gaps).mean(1)
            continue
        value = AGGREGATES[a.aggregate]
        for row, coin in enumerate(coins[:, :, None]):
            values[start + row] = value(np.where(coin, b.rows, a.rows)) - value(np.where(coin, a.rows, b.rows))
    return values


def _seed(name: str, seed: int) -> int:
    """A task's own seed, so that two tasks of a suite are not drawn alike."""
    return zlib.crc32(f"{seed}:{name}".encode())


def _interval(drawn: np.ndarray, level: float = 0.95) -> list[float]:
    return [float(end) for end in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])]


def bootstrap_interval(
    numerators: np.ndarray, denominators: np.ndarray | None = None, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators), items drawn with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.

    Args:
      numerators: float [n], one value an item (bits of a document, 0 or 1 for an answer).
      denominators: float [n] (bytes of a document); all ones when left out, which makes the ratio a mean.
      seed: of the generator (PCG64): equal input and seed give an equal interval.
      resamples: how many samples are drawn.
      level: share of the resamples inside the interval.

    Returns:
      (low, high). With a single item both are its value.
    """
    denominators = np.ones(np.shape(numerators)) if denominators is None else denominators
    drawn = replicates(Statistic(np.stack([numerators, denominators], axis=1), "ratio"), seed, resamples)
    low, high = _interval(drawn, level)
    return low, high


def proportion(hits: np.ndarray, seed: int = 0) -> dict[str, float | list[float]]:
    """Share of true values with its standard error sqrt(p (1 - p) / n) and its bootstrap interval."""
    hits = np.asarray(hits, np.float64)
    share = float(hits.mean())
    return {
        "value": share,
        "standard_error": float(np.sqrt(share * (1 - share) / hits.size)),
        "interval": list(bootstrap_interval(hits, seed=seed)),
    }

"""Uncertainty of a mean or a ratio of sums: standard error and seeded bootstrap intervals. NumPy only."""

import numpy as np

_BLOCK = 64  # resamples drawn at once, so that memory stays at _BLOCK x documents


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
    numerators = np.asarray(numerators, np.float64)
    denominators = np.ones_like(numerators) if denominators is None else np.asarray(denominators, np.float64)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        picks = generator.integers(0, numerators.size, (rows, numerators.size))
        ratios[start : start + rows] = numerators[picks].sum(1) / denominators[picks].sum(1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def proportion(hits: np.ndarray, seed: int = 0) -> dict[str, float | list[float]]:
    """Share of true values with its standard error sqrt(p (1 - p) / n) and its bootstrap interval."""
    hits = np.asarray(hits, np.float64)
    share = float(hits.mean())
    return {
        "value": share,
        "standard_error": float(np.sqrt(share * (1 - share) / hits.size)),
        "interval": list(bootstrap_interval(hits, seed=seed)),
    }

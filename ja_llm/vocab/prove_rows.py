"""The proof that new rows are what their rule says, computed without the code that made them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ja_llm.progress import track
from ja_llm.vocab.initialise import RowRule

_LISTED = 20
_BLOCK = 256  # new rows compared with the whole table at once
_COSINE = 1e-5  # float32's noise in a cosine over thousands of numbers


def prove_rows(
    add: Callable[..., None],
    name: str,
    table: np.ndarray,
    rows: np.ndarray,
    sources: Sequence[Sequence[int]],
    rule: RowRule,
    stream: int,
) -> None:
    """Check the new rows of one table.

    Args:
      add: called with (check's name, passed, reason, figures).
      name: "embedding" or "head".
      table: old rows [V, D].
      rows: new rows [N, D].
      sources: old ids of each new piece.
      rule: what the rows are said to be.
      stream: of "random": 0 for the embedding, 1 for the head.
    """
    error, wrong, limit = _PROOFS[rule.method](table, rows, sources, rule, stream)
    said = {"mean": "means", "frequency": "weighted_means", "nearest": "nearest_rows", "random": "random_rows"}[rule.method]
    is_not = {
        "mean": "the mean of their sources",
        "frequency": "the weighted mean of their sources",
        "nearest": "the old row nearest to the mean of their sources",
        "random": f"what seed {rule.seed} draws",
    }[rule.method]
    add(
        f"{name}_rows_are_{said}",
        not wrong,
        f"{len(wrong)} new rows are not {is_not}, e.g. new pieces {wrong[:_LISTED]}",
        max_abs_error=error if np.isfinite(error) else None,
        wrong=len(wrong),
        **limit,
    )


_Proof = tuple[float, list[int], dict[str, Any]]


def _prove_means(table: np.ndarray, rows: np.ndarray, sources: Sequence, rule: RowRule, stream: int) -> _Proof:
    """No element of a row may lie further from the float64 mean than the mean rounded to the table's dtype does."""
    worst, wrong = 0.0, []
    noise = 1e-12 * float(np.abs(table).max(initial=0))  # of summing in another order in float64
    for i, ids in enumerate(sources):
        weights = [1.0 if rule.method == "mean" else rule.counts.get(j, 0) + 1.0 for j in ids]
        mean = np.average([table[j].astype(np.float64) for j in ids], axis=0, weights=weights)
        error = np.abs(rows[i].astype(np.float64) - mean)
        allowed = np.abs(mean.astype(table.dtype).astype(np.float64) - mean) + noise
        worst = max(worst, float(error.max()))
        if not np.all(error <= allowed):  # not (<=): a NaN must fail
            wrong.append(i)
    return worst, wrong, {}


def _prove_nearest(table: np.ndarray, rows: np.ndarray, sources: Sequence, rule: RowRule, stream: int) -> _Proof:
    """Each row is an old one, bit for bit, and no other old row has a larger cosine to the mean."""
    old = {row.tobytes() for row in np.ascontiguousarray(table)}
    norms = np.linalg.norm(table.astype(np.float64), axis=1)
    wide = table.astype(np.float32)
    worst, wrong = 0.0, []
    for start in track(range(0, len(sources), _BLOCK), "prove nearest rows", "block", -(-len(sources) // _BLOCK)):
        block = sources[start : start + _BLOCK]
        means = np.stack([np.mean([table[j].astype(np.float64) for j in ids], axis=0) for ids in block])
        best = ((means.astype(np.float32) @ wide.T) / np.maximum(norms, 1e-30)).max(axis=1)
        for i, (mean, largest) in enumerate(zip(means, best, strict=True), start):
            row = rows[i].astype(np.float64)
            behind = (largest - row @ mean / max(float(np.linalg.norm(row)), 1e-30)) / max(float(np.linalg.norm(mean)), 1e-30)
            worst = max(worst, float(behind))
            if np.ascontiguousarray(rows[i]).tobytes() not in old or not behind <= _COSINE:
                wrong.append(i)
    return worst, wrong, {"of": "cosine"}


def _prove_random(table: np.ndarray, rows: np.ndarray, sources: Sequence, rule: RowRule, stream: int) -> _Proof:
    spread = float(np.sqrt(np.mean(np.square(table.astype(np.float64) - table.astype(np.float64).mean()))))
    drawn = np.random.default_rng([rule.seed, stream]).normal(0.0, 1.0, rows.shape) * spread
    error = np.abs(rows.astype(np.float64) - drawn)
    allowed = np.abs(drawn.astype(table.dtype).astype(np.float64) - drawn) + 1e-6 * spread
    wrong = [int(i) for i in np.flatnonzero(~np.all(error <= allowed, axis=1))]
    return float(error.max(initial=0)), wrong, {"standard_deviation": spread}


_PROOFS: dict[str, Callable[..., _Proof]] = {
    "mean": _prove_means,
    "frequency": _prove_means,
    "nearest": _prove_nearest,
    "random": _prove_random,
}

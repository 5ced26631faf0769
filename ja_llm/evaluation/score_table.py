"""Scores as a CSV file in the order of Swallow's tables, one row a model: ours, with published rows beside them where wanted."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ja_llm.errors import UsageError
from ja_llm.evaluation.report_data import PUBLISHED, published_name, read_runs
from ja_llm.evaluation.report_suites import headline_of, published_results
from ja_llm.files import atomic_write

_LANGUAGES = {"ja_mean": tuple(PUBLISHED)[:10], "en_mean": tuple(PUBLISHED)[10:]}
COLUMNS = ("model", "source", *PUBLISHED, *_LANGUAGES)


def write_table(runs: Sequence[str | Path], out: str | Path, *, published: bool = False) -> Path:
    """Write scores in 0..1; a cell is empty where nothing was measured, a mean where its ten tasks are not whole.

    Args:
      runs: model or run directories, or folders that `eval --out` wrote.
      out: the CSV file (UTF-8). Its columns are COLUMNS; "source" is the profile with its options, or the published table.
      published: put the rows of `published.rows()` below.

    Raises:
      UsageError: a directory is missing, or no run was measured on a published set.
    """
    rows = []
    for run in read_runs(runs):
        by_profile: dict[str, dict[str, float]] = {}
        for task, result in published_results(run).items():
            dot = headline_of(result)
            strict, mark = task.partition("#")[0].endswith("_strict"), "".join(task.partition("#")[1:])
            if dot is not None:
                by_profile.setdefault(("strict" if strict else "swallow") + mark, {})[published_name(task)] = dot.value
        rows += [_row(run.name, f"ja_llm, profile {profile}", scores) for profile, scores in by_profile.items()]
    if not rows:
        raise UsageError(f"{runs[0]}: no published set was measured there; run `ja-llm eval --suite swallow` first.")
    if published:
        from ja_llm.evaluation.published import rows as published_rows

        rows += [_row(row.model, row.source, row.scores) for row in published_rows()]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    out = Path(out)
    with atomic_write(out) as file:
        file.write(text.getvalue().encode("utf-8"))
    return out


def _row(model: str, source: str, scores: Mapping[str, float]) -> dict[str, str]:
    means = {
        name: sum(scores[task] for task in tasks) / len(tasks)
        for name, tasks in _LANGUAGES.items()
        if all(task in scores for task in tasks)
    }
    numbers = {**{task: score for task, score in scores.items() if task in PUBLISHED}, **means}
    return {"model": model, "source": source, **{name: f"{value:.4f}" for name, value in numbers.items()}}

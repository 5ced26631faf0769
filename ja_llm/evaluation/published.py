"""Published rows of Swallow's tables as data: what another evaluator saw, to set ours beside and to check the suite's mean with."""

import dataclasses
import functools
import importlib.resources
import json

from ja_llm.evaluation.statistics import Statistic, suite_mean


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One model in one published table.

    Attributes:
      model: as the table calls it.
      source: the table.
      scores: task -> score in 0..1, in the table's order. Only whole rows are kept.
      average: of the row, rounded to `digits`.
      average_is: "printed" in the source, or "recomputed" from the row's cells.
      digits: after the point, of scores and average.
    """

    model: str
    source: str
    scores: dict[str, float]
    average: float
    average_is: str
    digits: int

    @property
    def mean(self) -> float:
        """The row's mean by the evaluator's own suite mean; a published score is one item, so it says nothing on its error."""
        return suite_mean({task: Statistic([score]) for task, score in self.scores.items()}, resamples=2)["value"]


@functools.cache
def rows() -> tuple[PublishedRow, ...]:
    """All rows, table by table."""
    path = importlib.resources.files("ja_llm.evaluation") / "published.json"
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return tuple(
        PublishedRow(
            row["model"],
            table["source"],
            dict(zip(table["tasks"], row["scores"], strict=True)),
            row["average"],
            row["average_is"],
            table["digits"],
        )
        for table in tables
        for row in table["rows"]
    )

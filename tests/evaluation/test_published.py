"""The evaluator's own suite mean reproduces every published row's."""

import pytest

from ja_llm.evaluation.published import rows


@pytest.mark.parametrize("row", rows(), ids=lambda r: f"{r.model}-{len(r.scores)}-{next(iter(r.scores))}")
def test_published_means_are_reproduced(row):
    assert abs(row.mean - row.average) <= 10**-row.digits
    assert all(0 <= score < 1 for score in row.scores.values())


def test_the_table_is_whole():
    assert len(rows()) == 4 + 10 + 10 + 2 + 2
    assert {len(r.scores) for r in rows()} == {6, 8, 10}
    assert sum(r.average_is == "printed" for r in rows()) == 18
    qwen = next(r for r in rows() if r.model == "Qwen2.5-7B" and r.digits == 4)
    assert (qwen.scores["jmmlu"], qwen.scores["jhumaneval"], qwen.average) == (0.6337, 0.2665, 0.488)

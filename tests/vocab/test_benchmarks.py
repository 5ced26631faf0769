"""The vocabulary benchmarks' own arithmetic, and what their result files say of each part."""

import math

import pytest

from benchmarks.vocab_expansion import RESULT, about
from benchmarks.vocab_rows import RESULT as ROWS
from benchmarks.vocab_rows import difference
from ja_llm.files import read_json


@pytest.mark.parametrize(("seeds", "quantile"), [(5, 2.776), (12, 2.201), (31, 2.042)])  # a printed table of Student's t, 97.5 %
def test_students_interval_for_any_number_of_seeds(seeds, quantile):
    pairs = {str(n): {"mean": {"step_0": float(n % 3)}, "random": {"step_0": 1.0}} for n in range(seeds)}
    values = [n % 3 - 1.0 for n in range(seeds)]
    centre = sum(values) / seeds
    deviation = math.sqrt(sum((v - centre) ** 2 for v in values) / (seeds - 1))
    found = difference(pairs, "step_0")
    assert found["difference"] == pytest.approx(centre) and found["seeds"] == seeds
    assert found["interval"][1] - centre == pytest.approx(quantile * deviation / math.sqrt(seeds), rel=3e-4)


def test_each_part_says_what_it_was_made_of(document_set):
    found = about(document_set, "numpy")
    assert set(found) == {"documents", "software", "hardware"} and found["hardware"]["cores"] > 0 and "numpy" in found["software"]
    for part in (*read_json(RESULT, "result")["bases"].values(), read_json(ROWS, "result")["smollm2"]):
        assert len(part["documents"]) == 64 and part["software"]

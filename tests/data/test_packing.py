import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.data.packing import ConcatenateAndCut
from ja_llm.errors import JaLlmError

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def offsets_of(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


@settings(max_examples=200, deadline=None)
@given(sizes=lengths, length=st.integers(1, 17))
def test_every_pair_of_every_document_is_in_exactly_one_row(sizes, length):
    expected = [(d, p) for d, size in enumerate(sizes) for p in range(size - 1)]
    if not expected:
        with pytest.raises(JaLlmError, match="nothing to train on"):
            ConcatenateAndCut(offsets_of(sizes), length)
        return
    plan = ConcatenateAndCut(offsets_of(sizes), length)
    rows = [
        [(s.document, p) for s in plan.spans(r) for p in range(s.first_pair, s.first_pair + s.pairs)] for r in range(plan.rows)
    ]
    assert [pair for row in rows for pair in row] == expected
    assert all(len(row) == length for row in rows[:-1]) and 1 <= len(rows[-1]) <= length
    statistics = plan.statistics()
    assert statistics["padding"] == pytest.approx(1 - len(expected) / (plan.rows * length))
    in_rows = [{d for d, _ in row} for row in rows]
    assert statistics["documents_cut"] == sum(sum(d in row for row in in_rows) > 1 for d in range(len(sizes)))
    assert statistics["documents"] == sum(size > 1 for size in sizes)


def test_known_rows():
    # Documents of 4, 1, 3 and 6 tokens have 3, 0, 2 and 5 pairs.
    plan = ConcatenateAndCut(offsets_of([4, 1, 3, 6]), 4)
    assert [plan.spans(r) for r in range(plan.rows)] == [[(0, 0, 3), (2, 0, 1)], [(2, 1, 1), (3, 0, 3)], [(3, 3, 2)]]


def test_rows_outside_are_refused():
    plan = ConcatenateAndCut(offsets_of([4]), 2)
    for row in (-1, plan.rows):
        with pytest.raises(IndexError):
            plan.spans(row)


def test_fingerprint_follows_offsets_and_length():
    prints = {ConcatenateAndCut(offsets_of(s), n).fingerprint for s, n in [([4, 5], 4), ([5, 4], 4), ([4, 5], 8)]}
    assert len(prints) == 3
    assert ConcatenateAndCut(offsets_of([4, 5]), 4).fingerprint in prints

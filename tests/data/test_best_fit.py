import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.data.best_fit import BestFit
from ja_llm.errors import JaLlmError

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def offsets_of(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


@settings(max_examples=200, deadline=None)
@given(sizes=lengths, length=st.integers(1, 17), block=st.integers(1, 200))
def test_every_pair_is_in_one_row_and_only_long_documents_are_cut(sizes, length, block):
    expected = {(d, p) for d, size in enumerate(sizes) for p in range(size - 1)}
    if not expected:
        with pytest.raises(JaLlmError, match="nothing to train on"):
            BestFit(offsets_of(sizes), length, block_tokens=block)
        return
    plan = BestFit(offsets_of(sizes), length, block_tokens=block)
    seen = []
    for row in range(plan.rows):
        spans = plan.spans(row)
        assert 0 < sum(span.pairs for span in spans) <= length
        assert [span.document for span in spans] == sorted({span.document for span in spans})
        blocks = {int(offsets_of(sizes)[span.document]) // block for span in spans}
        assert len(blocks) == 1
        for span in spans:
            seen += [(span.document, span.first_pair + i) for i in range(span.pairs)]
            if sizes[span.document] - 1 <= length:
                assert span.pairs == sizes[span.document] - 1
    assert len(seen) == len(set(seen)) and set(seen) == expected
    said = plan.statistics()
    assert said["padding"] == pytest.approx(1 - len(expected) / (plan.rows * length))
    assert said["documents_cut"] == sum(size - 1 > length for size in sizes)


@settings(max_examples=100, deadline=None)
@given(sizes=lengths, length=st.integers(1, 17))
def test_the_rows_of_a_block_are_those_of_best_fit_decreasing_written_plainly(sizes, length):
    pieces = sorted((p for s in sizes if (p := (s - 1) % length)), reverse=True)
    rows = [length] * sum((s - 1) // length for s in sizes)
    for piece in pieces:
        fitting = [i for i, used in enumerate(rows) if used + piece <= length]
        if fitting:
            rows[max(fitting, key=lambda i: rows[i])] += piece
        else:
            rows.append(piece)
    if not rows:
        return
    plan = BestFit(offsets_of(sizes), length)
    assert sorted(sum(s.pairs for s in plan.spans(r)) for r in range(plan.rows)) == sorted(rows)


def test_a_plan_is_kept_and_used_again(tmp_path, monkeypatch):
    offsets = offsets_of(np.random.default_rng(0).integers(2, 30, 500))
    plan = BestFit(offsets, 32, tmp_path, block_tokens=1000)
    monkeypatch.setattr("ja_llm.data.best_fit._plan", lambda *_: pytest.fail("made again"))
    again = BestFit(offsets, 32, tmp_path, block_tokens=1000)
    assert [again.spans(r) for r in range(again.rows)] == [plan.spans(r) for r in range(plan.rows)]
    (next(tmp_path.iterdir()) / "starts.npy").write_bytes(b"x")
    with pytest.raises(JaLlmError, match="packing plan can't be read"):
        BestFit(offsets, 32, tmp_path, block_tokens=1000)


def test_little_padding_at_the_lengths_of_web_pages():
    sizes = np.random.default_rng(0).lognormal(6, 1, 4000).astype(int) + 2
    plan = BestFit(offsets_of(sizes), 4096)
    assert plan.statistics()["padding"] < 0.005
    assert plan.statistics()["documents_cut"] == (sizes - 1 > 4096).sum() < 100


def test_processes_that_write_one_plan_at_the_same_time_leave_it_whole(tmp_path, monkeypatch):
    """All processes of a run open the same cache at once; the second begins while the first is between its two files."""
    offsets, save, plans = offsets_of([5, 9, 3, 12, 7]), np.save, {}
    second_begun, first_done = threading.Event(), threading.Event()

    def open_plan(name):
        plans[name] = BestFit(offsets, 8, tmp_path)

    second = threading.Thread(target=open_plan, args=("second",))

    def slow(path, values):
        if path.name == "starts.npy" and threading.current_thread() is second:
            second_begun.set()
            first_done.wait(30)
        save(path, values)
        if path.name == "starts.npy" and threading.current_thread() is not second:
            second.start()
            second_begun.wait(30)

    monkeypatch.setattr(np, "save", slow)
    open_plan("first")
    (folder,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    before = os.stat(folder / "starts.npy").st_ino
    first_done.set()
    second.join(30)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == ["pieces.npy", "starts.npy"]
    assert os.stat(folder / "starts.npy").st_ino == before  # a plan that somebody reads stays
    for plan in (plans["second"], BestFit(offsets, 8, tmp_path)):
        assert [plan.spans(row) for row in range(plan.rows)] == [plans["first"].spans(row) for row in range(plans["first"].rows)]

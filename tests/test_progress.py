"""Progress says where work is, and within `passing` leaves nothing behind."""

import io
from types import SimpleNamespace

import pytest

from ja_llm.progress import Progress, passing, track


def lines(every, count=3):
    stream = io.StringIO()
    with Progress("count", count, "step", every=every, stream=stream) as progress:
        for _ in range(count):
            progress.update(1)
    return stream.getvalue().splitlines()


def test_work_ends_with_a_plain_line_where_there_is_no_terminal():
    assert len(lines(every=1000)) == 1 and lines(every=1000)[0].startswith("count: 3/3 steps")
    assert len(lines(every=0)) == 4


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.5, "(2.0/s)"), (20, "(0.1/s)"), (21, "(2.9/min)"), (1000, "(0.1/min)"), (1500, "(2.4/h)"), (1e9, "(0.0/s)")],
)
def test_a_slow_rate_is_told_by_the_minute_or_the_hour(monkeypatch, seconds, says):
    """One step in so many seconds."""
    now = iter([0.0, 0.0, 0.0, seconds])
    monkeypatch.setattr("ja_llm.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    stream = io.StringIO()
    progress = Progress("count", 2, "step", every=1e12, stream=stream)
    progress.update(1)
    progress.close()
    assert stream.getvalue() == f"count: 1/2 steps {says}\n"


def test_a_narrated_stage_shows_only_work_that_takes_long():
    with passing():
        assert lines(every=1000) == []
        assert lines(every=0)[-1].startswith("count: 3/3 steps"), "what was begun is ended"
    assert len(lines(every=1000)) == 1


def test_a_bar_vanishes_from_the_terminal_when_its_stage_tells_what_came_out():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    kept, gone = Terminal(), Terminal()
    with Progress("count", 1, "step", stream=kept) as progress:
        progress.update()
    with passing(), Progress("count", 1, "step", stream=gone) as progress:
        progress.update()
    assert kept.getvalue().endswith("\n") and gone.getvalue().split("\r")[-1].strip() == ""


def test_track_passes_its_items_through(capsys):
    assert list(track([1, 2], "count", "item")) == [1, 2]
    assert "count: 2/2 items" in capsys.readouterr().err

"""What the interchange benchmark calls cold is out of the system's cache, and its table says which figure meets the goal."""

import os

import pytest

from benchmarks import interchange_speed
from benchmarks.evaluation_tables import interchange_speed as table
from benchmarks.interchange_speed import chill, resident, summed, warm


def test_what_is_cold_is_out_of_the_cache_and_what_is_warm_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", os.fdatasync)  # the tests' own does nothing
    size = 5 * os.sysconf("SC_PAGESIZE") + 1
    for path in (tmp_path / "a", tmp_path / "deep" / "b"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        assert resident(path) == (6, 6)
    left = chill(tmp_path)
    if left == 1:
        pytest.skip("a file system in memory keeps everything")
    assert left == 0 and resident(tmp_path / "a") == (0, 6)
    warm(tmp_path)
    assert resident(tmp_path / "deep" / "b") == (6, 6)


def test_a_file_that_stays_in_the_cache_ends_a_cold_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(interchange_speed, "prepared", lambda *_: (lambda: None, False))
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"x")
    with pytest.raises(SystemExit, match="source: 100% of it stays in the system's cache"):
        interchange_speed.one("read", tmp_path, interchange_speed.config(1), 1, cold=True)
    assert "left_in_cache" not in interchange_speed.one("read", tmp_path, interchange_speed.config(1), 1)


def test_the_table_says_which_of_warm_and_cold_meets_the_goal():
    def found(**seconds):
        return {task: [{"seconds": value} for value in (value, 99 * value, value / 9)] for task, value in seconds.items()}

    tasks = {"read": 1.0, "copy": 3.0, "import": 4.0, "export": 2.0}
    value = summed(found(**tasks, save=1.5)) | {"memory_beyond_arrays_bytes": dict.fromkeys([*tasks, "save"], 1 << 20)}
    assert value["over_read"] == {"copy": 3.0, "import": 4.0, "export": 2.0, "save": 1.5}
    before = table({key: part for key, part in value.items() if key != "goal"})
    assert before.splitlines()[2] == "| read | 1.0 | 1.0 | 1 MiB |" and "Goal" not in before
    lines = table(value | {"cold": summed(found(**tasks | {"read": 4.0}))}).splitlines()
    assert "| import | 4.0 | 4.0 | 4.0 | 1.0 | 1 MiB |" in lines and "| save | 1.5 | 1.5 |  |  | 1 MiB |" in lines
    verdict = "warm import 4.0 (missed), warm export 2.0 (met), cold import 1.0 (met), cold export 0.5 (met)"
    assert lines[-1] == f"Goal, at most twice the time of `read`: {verdict}."

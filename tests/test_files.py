"""Nothing half-written looks finished; equal values have equal hashes."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from ja_llm.errors import JaLlmError
from ja_llm.files import (
    atomic_directory,
    atomic_write,
    canonical_json,
    lock_file,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JaLlmError, match="disk is full; free some space"), atomic_write(tmp_path / "big") as file:
        file.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all_and_a_killed_rest_is_removed(tmp_path):
    target = tmp_path / "set"
    (tmp_path / ".set.tmp").mkdir()
    (tmp_path / ".set.tmp" / "rest").write_text("of a killed run")
    with pytest.raises(ZeroDivisionError), atomic_directory(target) as folder:
        assert not (folder / "rest").exists()
        (folder / "part").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(target) as folder:
        (folder / "part").write_text("whole")
    assert (target / "part").read_text() == "whole"


def test_files_get_the_mode_that_open_would_give(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_hashes_do_not_depend_on_the_order_of_keys_and_are_sha256(tmp_path):
    assert canonical_json({"b": 1, "あ": [2]}) == '{"b":1,"あ":[2]}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}"])
def test_what_is_no_json_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(JaLlmError, match="can't be read as JSON"):
        read_json(tmp_path / "x.json", "manifest")
    with pytest.raises(JaLlmError, match="this manifest does not exist"):
        read_json(tmp_path / "y.json", "manifest")


def test_a_lock_that_is_let_go_in_time_is_taken_and_one_that_is_held_is_not(tmp_path):
    """As where a killed process leaves its lock for a moment to a child that it had just started."""
    path = tmp_path / "new" / "lock"
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(1)"
    path.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(JaLlmError, match="^taken$"):
            lock_file(path, JaLlmError("taken"), wait=0.1)
        begin = time.monotonic()
        held = lock_file(path, JaLlmError("taken"), wait=30)
        assert time.monotonic() - begin < 25
    with pytest.raises(JaLlmError, match="^taken$"):
        lock_file(path, JaLlmError("taken"), wait=0.1)
    held.close()
    lock_file(path, JaLlmError("taken"), wait=0).close()


def test_a_lock_in_a_folder_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaLlmError, match="file") as told:
        lock_file(tmp_path / "file" / "lock", JaLlmError("taken"))
    assert "taken" not in str(told.value)


def test_a_failed_folder_is_removed_also_while_someone_still_writes_into_it(tmp_path):
    ended = threading.Event()

    def write(folder):
        with contextlib.suppress(OSError):  # ends when the folder is gone
            for number in range(20_000):
                (folder / "deep" / str(number)).write_bytes(b"x")
        ended.set()

    with pytest.raises(ValueError, match="no more"), atomic_directory(tmp_path / "set") as folder:
        (folder / "deep").mkdir()
        threading.Thread(target=write, args=(folder,)).start()
        time.sleep(0.05)
        raise ValueError("no more")
    assert ended.wait(10) and list(tmp_path.iterdir()) == []

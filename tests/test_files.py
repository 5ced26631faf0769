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
    BackgroundSync,
    atomic_directory,
    atomic_write,
    canonical_json,
    first_directory,
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


@pytest.fixture
def to_disk(monkeypatch):
    """What goes to the disk and what is renamed, in order: ("sync", path, bytes) and ("rename", from, to)."""
    seen, fsync, turn = [], os.fsync, threading.Lock()

    def sync(number):
        fsync(number)
        with turn:
            seen.append(("sync", os.readlink(f"/proc/self/fd/{number}"), os.fstat(number).st_size))

    def renaming(real):
        def rename(source, target):
            real(source, target)
            seen.append(("rename", str(source), str(target)))

        return rename

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    monkeypatch.setattr(os, "rename", renaming(os.rename))
    return seen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says which file it is")
@pytest.mark.parametrize("make", [atomic_directory, first_directory])
def test_a_folder_and_all_in_it_is_on_the_disk_before_its_name_and_then_the_name(tmp_path, to_disk, make):
    with make(tmp_path / "set") as folder:
        (folder / "a" / "b").mkdir(parents=True)
        files = [folder / "part", folder / "a" / "part", folder / "a" / "b" / "empty"]
        for file in files:
            file.write_bytes(b"x" * len(str(file)) if file.name == "part" else b"")
    renamed = to_disk.index(("rename", str(folder), str(tmp_path / "set")))
    before, after = (
        {path: size for kind, path, size in part if kind == "sync"} for part in (to_disk[:renamed], to_disk[renamed:])
    )
    assert {path: before.get(str(path)) for path in files} == {path: len(str(path)) * (path.name == "part") for path in files}
    assert {str(folder), str(folder / "a"), str(folder / "a" / "b")} < before.keys()
    assert list(after) == [str(tmp_path)]


@pytest.mark.parametrize(("make", "earlier"), [(atomic_directory, False), (atomic_directory, True), (first_directory, False)])
def test_a_folder_whose_name_does_not_reach_the_disk_gives_its_place_back(tmp_path, monkeypatch, make, earlier):
    if earlier:
        with atomic_directory(tmp_path / "set") as folder:
            (folder / "part").write_text("old")
    real, names = os.fsync, tmp_path.stat().st_ino

    def failing(number):
        if os.fstat(number).st_ino == names:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(number)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(JaLlmError, match="set: Input/output error"), make(tmp_path / "set") as folder:
        (folder / "part").write_text("new")
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["old"] * earlier
    assert [path.name for path in tmp_path.iterdir()] == ["set"] * earlier


@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupt_just_after_a_rename_leaves_the_earlier_folder(tmp_path, monkeypatch, earlier):
    """At each rename in turn: a signal may come before the next line runs."""
    if earlier:
        with atomic_directory(tmp_path / "set") as folder:
            (folder / "part").write_text("old")
    real = os.replace
    for number in range(1 + earlier):
        renames = []

        def interrupted(source, target, number=number, renames=renames):
            real(source, target)
            renames.append(target)
            if len(renames) == number + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "set") as folder:
            (folder / "part").write_text("new")
            patch.setattr(os, "replace", interrupted)
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["set", "set/part"] * earlier
        assert not earlier or (tmp_path / "set" / "part").read_text() == "old"


def test_a_folder_that_a_killed_run_had_moved_aside_is_put_back_before_another_takes_its_place(tmp_path):
    kill = """
import os, sys
from pathlib import Path
from ja_llm.files import atomic_directory
real = os.replace
def killed(source, target):
    real(source, target)
    os._exit(9)
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("new")
    os.replace = killed
"""
    target = tmp_path / "set"
    with atomic_directory(target) as folder:
        (folder / "part").write_text("old")
    assert subprocess.run([sys.executable, "-c", kill, str(target)]).returncode == 9 and not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_directory(target):
        raise ZeroDivisionError
    assert (target / "part").read_text() == "old"
    with atomic_directory(target) as folder:
        (folder / "part").write_text("new")
    assert (target / "part").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_file_system_that_keeps_no_folders_is_left_alone_and_one_that_lost_a_file_is_not(tmp_path, monkeypatch):
    real = os.fsync

    def failing(mode):
        def fsync(number):
            if mode(os.fstat(number).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            real(number)

        return fsync

    monkeypatch.setattr(os, "fsync", failing(stat.S_ISDIR))
    with atomic_directory(tmp_path / "set") as folder:
        (folder / "part").write_text("x")
    monkeypatch.setattr(os, "fsync", failing(stat.S_ISREG))
    with pytest.raises(JaLlmError, match="other: Invalid argument"), atomic_directory(tmp_path / "other") as folder:
        (folder / "part").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("make", [atomic_directory, first_directory])
def test_a_folder_that_may_be_written_and_not_read_gets_a_new_one(tmp_path, monkeypatch, make):
    real = os.open

    def guarded(path, flags, *more, **named):
        if path == tmp_path and flags == os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", guarded)
    with make(tmp_path / "set") as folder:
        (folder / "part").write_text("x")
    assert (tmp_path / "set" / "part").read_text() == "x"


def test_files_that_go_to_the_disk_in_the_background_are_there_at_the_end_or_said_to_be_lost(tmp_path, monkeypatch):
    files, seen = [tmp_path / str(n) for n in range(3)], []
    for file in files:
        file.write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", lambda number: (time.sleep(0.02), seen.append(os.fstat(number).st_ino)))
    with BackgroundSync() as disk:
        for file in files:
            disk.add(file)
    assert seen == [file.stat().st_ino for file in files]
    monkeypatch.setattr(os, "fsync", lambda number: os.close(-1))
    with pytest.raises(OSError, match="Bad file descriptor"), BackgroundSync() as disk:
        disk.add(files[0])
    with pytest.raises(ZeroDivisionError), BackgroundSync() as disk:
        disk.add(files[0])
        raise ZeroDivisionError


def test_a_file_that_did_not_get_to_the_disk_is_told_when_the_next_one_is_sent_and_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", lambda number: None)
    disk = BackgroundSync()
    for _ in range(50):
        disk.add(tmp_path / "x")
        time.sleep(0.002)
    assert len(disk._jobs) < 25
    monkeypatch.setattr(os, "fsync", lambda number: os.close(-1))
    with pytest.raises(OSError, match="Bad file descriptor"):
        for _ in range(500):
            disk.add(tmp_path / "x")
            time.sleep(0.002)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.close()


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

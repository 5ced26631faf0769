"""Writing so that nothing half-written looks finished, and hashing so that equal content is known as equal.

Standard library only: every room may import it.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ja_llm.errors import JaLlmError, UsageError

_BLOCK = 1 << 20


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for binary writing; rename it to `path` only if the block succeeds.

    The data is fsynced before the rename, so after a crash `path` is either the old file or the whole new one. A place in a bucket
    (`ja_llm.storage`) is written by one put at the end.

    Raises:
      JaLlmError: the disk is full or the folder can't be written; `path` is untouched.
    """
    if "://" in str(path):
        from ja_llm.storage import in_bucket

        whole = io.BytesIO()
        yield whole
        with in_bucket(path):
            path.write_bytes(whole.getvalue())  # type: ignore[union-attr]
        return
    path = Path(path)
    with _as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with _as_sentence(path), os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        usual_mode(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def lock_file(path: str | os.PathLike, taken: JaLlmError, wait: float = 3.0) -> BinaryIO:
    """Lock a file for this process; the lock ends when what comes back is closed, or with the process.

    Args:
      path: created, with its folder, if it is not there.
      taken: raised if another process holds the lock and goes on holding it.
      wait: seconds for which a held lock is asked for again. A process that is killed while it starts a child leaves its lock with that
        child until the child has become another program.

    Raises:
      JaLlmError: `taken`, or the file can't be made or locked.
    """
    import fcntl  # not on Windows, where the rest of this file works

    path, end = Path(path), time.monotonic() + wait
    with _as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > end:
                    file.close()
                    raise taken from None
                time.sleep(0.05)


def shown(path: str | os.PathLike) -> str:
    """A path as a person here would write it: relative below the current folder, absolute elsewhere."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative


def usual_mode(path: str | os.PathLike) -> None:
    """Give a file the mode that open() would have given it; mkstemp and safetensors make it readable to its owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` only if the block succeeds.

    All of it goes to the disk before it is renamed, and so does the new name, so that a folder that stands there after a crash is whole.
    A leftover temporary folder of an earlier, killed run is removed. An existing `path` is replaced, or stays where this raises; one that
    a killed run had just moved aside is put back first.

    Raises:
      JaLlmError: the disk is full or the folder can't be written.
    """
    path = Path(path)
    temporary, old = path.parent / f".{path.name}.tmp", _aside(path)
    with _as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        _discard(temporary)
        _discard(old)
        temporary.mkdir()
    try:
        with _as_sentence(path):
            yield temporary
            sync_tree(temporary)
            _take_place(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _aside(path: Path) -> Path:
    """Where a folder is while another takes its place."""
    return path.parent / f".{path.name}.old"


def _take_place(temporary: Path, path: Path) -> None:
    """Rename a folder over another, which goes aside whole before, so that a kill never leaves half of it under its name."""
    old = _aside(path)
    if not temporary.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(temporary))
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:  # what stands where says what was done: an interrupt may come between a rename and any note of it
        if path.exists() and not temporary.exists():
            os.replace(path, temporary)
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    if old.exists():  # under a name that is never put back, because it may be cut short
        os.replace(old, temporary)
        with contextlib.suppress(OSError):
            _discard(temporary)


def _discard(path: Path) -> None:
    """Remove a folder, or what a user had in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Wait until every file and folder in `folder`, and itself, is on the disk.

    Raises:
      OSError: one is not, as where the disk is full.
    """
    paths = [Path(where) / name for where, _, names in os.walk(folder) for name in ("", *names)]
    with concurrent.futures.ThreadPoolExecutor(_SYNCED) as pool:  # many at a time become few writes of the file system's journal
        for _ in pool.map(_sync, (path for path in paths if not path.is_symlink())):
            pass


_SYNCED = 16


def _sync(path: Path) -> None:
    if os.name != "posix":  # elsewhere only what is open for writing can be waited for, and folders not at all
        return
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # one that may be written and not read: its names get to the disk without us
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # a file system that keeps no folders
            raise
    finally:
        os.close(number)


class BackgroundSync:
    """Sends files to the disk while the next ones are written; a file that waits for its turn is not kept open.

    As a context manager it is closed at the end of the block, and abandoned where that raises.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._jobs: list[concurrent.futures.Future] = []
        self._turn = threading.Lock()

    def add(self, path: Path) -> None:
        """Send a file that is whole, or what of it is written; may be called in several threads.

        Raises:
          OSError: one that was sent before did not get there.
        """
        with self._turn:
            for job in [job for job in self._jobs if job.done()]:
                job.result()  # one that failed stays for `close`
                self._jobs.remove(job)
            self._jobs.append(self._pool.submit(_sync, path))

    def __enter__(self) -> "BackgroundSync":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """Wait for all, and raise the first OSError of a file that did not get there."""
        self._pool.shutdown()
        for job in self._jobs:
            job.result()

    def abandon(self) -> None:
        """Leave those that wait for their turn where they are."""
        self._pool.shutdown(cancel_futures=True)


def _remove(folder: Path, patience_s: float = 5.0) -> None:
    """Remove a folder into which writers in the background, which the failure did not stop, may still be putting files."""
    end = time.monotonic() + patience_s
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > end:
            return
        time.sleep(0.02)


@contextlib.contextmanager
def first_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder of this process alone; rename it to `path` if the block succeeds and nobody was first.

    For what several processes may make at the same time, each alike: a `path` that is there is never replaced. What killed processes
    left is removed after a day.
    """
    path = Path(path)
    with _as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if left.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
    try:
        with _as_sentence(path):
            yield temporary
            if not path.is_dir():
                sync_tree(temporary)
                _take_free_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_free_place(temporary: Path, path: Path) -> None:
    """Rename a folder, unless another was first in this moment: a folder that holds something is not replaced."""
    try:
        os.rename(temporary, path)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        _sync(path.parent)
    except BaseException:
        os.rename(path, temporary)
        raise


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise os_error_sentence(error, path) from error


def os_error_sentence(error: OSError, path: str | os.PathLike, reading: bool = False) -> JaLlmError:
    """Turn an OSError met while writing (or `reading`) `path` into the sentence that a user sees."""
    if reading:
        if error.errno in (errno.EACCES, errno.EPERM):
            return JaLlmError(f"{path}: no permission to read this; ask its owner for it, or run as the user who wrote it.")
        return JaLlmError(
            f"{path}: this can't be read ({error.strerror or error}); look after the disk that it lies on, then run the same command again."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JaLlmError(
            f"{path}: the disk is full; free some space and run the same command again, it goes on from what is finished."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return JaLlmError(f"{path}: no permission to write here; choose another folder.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return JaLlmError(f"{path}: nothing can be written here ({error.strerror}); choose another folder.")
    return JaLlmError(f"{path}: {error.strerror or error}.")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare white space: equal values give equal text (and equal hashes)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def local_path(path: str | os.PathLike) -> Path:
    """The path, unless it names a remote store, which pathlib would take for a folder called `gs:`.

    Raises:
      UsageError: the path has a scheme.
    """
    if "://" in str(path):
        raise UsageError(f"{path}: only local folders can be used here; copy it here, or mount the bucket.")
    return Path(path)


def read_json(path: str | os.PathLike, what: str = "file") -> Any:
    """Read a JSON file.

    Raises:
      JaLlmError: it is missing, or is not JSON (cut off, wrong encoding).
    """
    try:
        held = path if hasattr(path, "read_bytes") else Path(path)  # a place in a bucket is no pathlib.Path
        return json.loads(held.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise JaLlmError(f"{path}: this {what} does not exist.") from None
    except (ValueError, OSError) as error:
        raise JaLlmError(f"{path}: this {what} can't be read as JSON ({error}).") from error


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

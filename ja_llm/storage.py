"""Where a run lies: a folder of this machine, or one in a bucket (gs://BUCKET/FOLDER).

A place in a bucket is an `etils.epath` path (over gcsfs, what orbax uses too), which has pathlib's methods, so that whoever reads or
writes small files need not know; checkpoints go to the bucket by orbax and TensorStore themselves. What differs stands here:

  - an object appears whole or not at all, so atomic writing is one put (`ja_llm.files.atomic_write`);
  - there is no file to append to: what grows is written on this machine and copied whole at each save (`Spool`);
  - there is no lock that ends with its process: a `Lease` is an object that its holder writes anew every few seconds.
"""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import local_path

BEAT = 5.0  # seconds between two signs of a lease's holder
SILENCE = 30.0  # seconds without one after which it is taken for dead


def is_remote(path: Any) -> bool:
    """Whether a place is in a bucket."""
    return str(path).startswith("gs://")


def place(path: str | os.PathLike) -> Path:
    """The place that a path or URL names; in a bucket not a pathlib.Path, but with its methods.

    Raises:
      UsageError: another kind of remote store, or the packages for buckets are not installed.
      JaLlmError: the bucket can't be read.
    """
    if not is_remote(path):
        return local_path(path)
    # etils would go to the bucket by TensorFlow where it is installed. It asks once, at the first path that anybody uses, on this machine's
    # disk too (orbax does), and remembers the answer.
    os.environ.setdefault("EPATH_USE_TF", "false")
    from etils import epath
    from etils.epath import gpath

    getattr(getattr(gpath, "_is_tf_installed", None), "cache_clear", lambda: None)()

    try:
        import fsspec
        import gcsfs  # noqa: F401
        import google.cloud.storage  # noqa: F401 (orbax asks it for the bucket's kind)
    except ImportError as error:
        raise UsageError(
            f"{path}: a bucket needs the package gcsfs, which is not installed; pip install 'ja_llm[gcp]'."
        ) from error
    # TensorStore and other processes write into what gcsfs would remember a listing of.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    found = cast(Path, epath.Path(path))
    _look(found)
    return found


@functools.cache
def _look(folder: Path) -> None:
    """Raise, once for each place, what is wrong with the bucket or our rights: `exists` only says no."""
    with in_bucket(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        next(iter(folder.iterdir()), None)


def absolute(path: str | os.PathLike) -> Path:
    """`place`, from the root."""
    found = place(path)
    return found if is_remote(found) else found.absolute()


@contextlib.contextmanager
def in_bucket(what: Any) -> Iterator[None]:
    """Turn what goes wrong with a bucket into a sentence."""
    try:
        yield
    except JaLlmError:
        raise
    except Exception as error:  # gcsfs, google.auth and aiohttp have kinds of their own
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise JaLlmError(
            f"{what}: the bucket can't be used ({said}); look at its name, your rights (gcloud auth application-default login) and the "
            "network, then run the same command again."
        ) from error


@contextlib.contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder of this machine to write files into, which stand in `folder` at the end of the block."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        with in_bucket(folder):
            for file in sorted(Path(temporary).iterdir()):
                (folder / file.name).write_bytes(file.read_bytes())


@contextlib.contextmanager
def read_folder(folder: Path) -> Iterator[Path]:
    """A folder of this machine with the files of `folder`, for the length of the block; in errors of ours it has `folder`'s name."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        with in_bucket(folder):
            for file in folder.iterdir() if folder.exists() else ():
                if not file.is_dir():
                    (Path(temporary) / file.name).write_bytes(file.read_bytes())
        try:
            yield Path(temporary)
        except JaLlmError as error:
            raise type(error)(str(error).replace(temporary, str(folder))) from error


def move(folder: Path, to: Path) -> None:
    """Give a folder another name; in a bucket each object is copied there and removed here."""
    if not is_remote(folder):
        to.parent.mkdir(exist_ok=True)
        os.replace(folder, to)
        return
    import fsspec

    with in_bucket(folder):
        fsspec.filesystem("gs").mv(str(folder), str(to), recursive=True)


class Spool:
    """The files of a run that grow: metrics.jsonl, TensorBoard's, a profile, W&B's.

    Attributes:
      folder: where they are written: the run directory itself, or for one in a bucket a folder of this machine, which begins with the
        metrics.jsonl and probes.json of the bucket and ends with the process.
    """

    def __init__(self, directory: Path):
        self._directory, self.folder = directory, directory
        self._mirrored: dict[str, tuple[int, int]] = {}
        if not is_remote(directory):
            return
        self.folder = Path(tempfile.mkdtemp(prefix="ja-llm-"))
        with in_bucket(directory):
            for name in ("metrics.jsonl", "probes.json"):
                if (kept := directory / name).exists():
                    (self.folder / name).write_bytes(kept.read_bytes())

    def mirror(self) -> None:
        """Copy what has grown into the bucket. Before each save, so that a checkpoint's metrics are there when it is."""
        if self.folder == self._directory:
            return
        with in_bucket(self._directory):
            for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
                name, state = file.relative_to(self.folder).as_posix(), (file.stat().st_size, file.stat().st_mtime_ns)
                if self._mirrored.get(name) != state:
                    (self._directory / name).write_bytes(file.read_bytes())
                    self._mirrored[name] = state

    def close(self) -> None:
        """Mirror a last time and remove the folder of this machine."""
        self.mirror()
        if self.folder != self._directory:
            shutil.rmtree(self.folder, ignore_errors=True)


_SELF = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"  # this process


class Lease:
    """A run directory in a bucket, taken for this process.

    The object says who holds it and how often he has said so. Whoever finds it waits until it is written anew (then it is taken) or
    has not been for `SILENCE` seconds (then its holder is dead). No clocks are compared. Two that take it in one moment see at their
    next look whose name stands there; the other ends. Buckets read what was written last, whoever asks.

    Args:
      path: of the object.
      taken: raised where another process holds it.
    """

    def __init__(self, path: Path, taken: JaLlmError):
        self._path, self._beats, self._ended = path, 0, threading.Event()
        with in_bucket(path):
            seen, deadline = self._read(), time.monotonic() + SILENCE
            if seen and not seen.startswith(_SELF):
                print(f"ja-llm: {path} has a holder; waiting {SILENCE:.0f} s for a sign of life.", file=sys.stderr, flush=True)
            while seen and not seen.startswith(_SELF):
                if time.monotonic() > deadline:
                    break
                time.sleep(1)
                if (now := self._read()) != seen and now:
                    raise taken
                seen = now
            self._write()
            time.sleep(1)
            if not self._read().startswith(_SELF):
                raise taken
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def _write(self) -> None:
        self._beats += 1
        self._path.write_text(f"{_SELF} {self._beats}")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(Exception):  # the next one may come through
                if not self._read().startswith(_SELF):
                    print(
                        f"ja-llm: {self._path}: another process has taken this run; this one ends.", file=sys.stderr, flush=True
                    )
                    os._exit(1)
                self._write()

    def close(self) -> None:
        """Give it back; a second time nothing happens."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._path.unlink()

"""Folders in buckets, worked on through copies on the machine's own disk: how stages run where workers share none (Dataflow).

A URL of any file system that Beam knows (gs://, s3://, hdfs://) is stood for by a path of this machine that spells it,

    /tmp/ja_llm-mirror-<token>/<scheme and bucket, escaped>/<the rest of the URL>

so that whoever is handed such a path finds the URL in it: stages hand paths on to workers as they do on one machine. `fetched` copies a file here
before it is read, `publish` copies one that was written to the bucket. Both do nothing with other paths. Files of a
stage do not change once they stand, so a copy is never stale; a run has a token of its own, and removes its copies at the end.
"""

import contextlib
import fnmatch
import functools
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ja_llm.errors import JaLlmError, UsageError

_ROOT = Path("/tmp")  # the same on the launching machine and in the workers' containers
_PREFIX = "ja_llm-mirror-"
_BLOCK = 1 << 20


def is_url(path: str | os.PathLike) -> bool:
    """Whether it names something in a bucket."""
    return "://" in os.fspath(path)


def root(token: str) -> Path:
    """Where the copies of a run lie."""
    return _ROOT / f"{_PREFIX}{token}"


@contextlib.contextmanager
def session() -> Iterator[str]:
    """A token for a run, whose copies on this machine go at the end."""
    token = secrets.token_hex(6)
    try:
        yield token
    finally:
        shutil.rmtree(root(token), ignore_errors=True)


def place(url: str, token: str) -> Path:
    """The path that stands for a URL, without a slash at its end.

    Example:
      >>> place("gs://bucket/corpus/", "ab").as_posix()
      '/tmp/ja_llm-mirror-ab/gs%3A%2F%2Fbucket/corpus'
    """
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.strip("/").partition("/")
    return root(token) / quote(f"{scheme}://{bucket}", safe="") / name


@functools.lru_cache(1 << 14)
def url_of(path: str | os.PathLike) -> str | None:
    """The URL that a path stands for; None for an ordinary path.

    Example:
      >>> url_of("/tmp/ja_llm-mirror-ab/gs%3A%2F%2Fbucket/corpus/.work"), url_of("/data/corpus")
      ('gs://bucket/corpus/.work', None)
    """
    parts = Path(path).parts
    for at, part in enumerate(parts[:-1]):
        if part.startswith(_PREFIX):
            return "/".join([unquote(parts[at + 1]), *parts[at + 2 :]])
    return None


def fetched(path: Path) -> Path:
    """The path itself; a file that only the bucket has is copied here first. One that is nowhere stays absent.

    Raises:
      JaLlmError: the bucket can't be read, or this disk is full.
    """
    url = url_of(path)
    if url is None or path.exists():
        return path
    with _sentence(url):
        if not _systems().exists(url):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.fetch")
        try:
            with _open(url) as source, open(temporary, "wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def publish(path: Path) -> None:
    """Copy a file that was written here to the bucket; objects appear whole or not at all.

    Raises:
      JaLlmError: the bucket can't be written.
    """
    url = url_of(path)
    if url is not None:
        with _sentence(url), _create(url) as target, open(path, "rb") as file:
            shutil.copyfileobj(file, target, _BLOCK)


def publish_tree(folder: Path, without: tuple[str, ...], last: str) -> None:
    """Copy the files below a folder to the bucket, that of the name `last` at the end; not those below the names `without`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.relative_to(folder).parts[0] not in without]
    for path in sorted(files, key=lambda path: path == folder / last):
        publish(path)


def size(path: Path) -> int:
    """Bytes of a file, without copying it.

    Raises:
      FileNotFoundError: it is not there.
    """
    url = url_of(path)
    if url is None:
        return path.stat().st_size
    return _entry(url).size_in_bytes


def identity(path: Path) -> tuple[int, str]:
    """(bytes, what the bucket says of a file's content and age), without reading it.

    Raises:
      FileNotFoundError: it is not there.
      JaLlmError: the bucket can't be read.
    """
    url = url_of(path) or os.fspath(path)
    entry = _entry(url)
    with _sentence(url):
        return entry.size_in_bytes, f"{_systems().checksum(url)}"


def stamp(path: Path) -> tuple[int, int]:
    """(bytes, when it was last written in nanoseconds) of a file in a bucket.

    Raises:
      FileNotFoundError: it is not there.
    """
    entry = _entry(url_of(path) or os.fspath(path))
    return entry.size_in_bytes, int((entry.last_updated_in_seconds or 0) * 1e9)


def matching(pattern: str, token: str) -> list[Path]:
    """The paths that stand for the files whose URLs match a pattern (`*` within a name, `**` across folders), sorted.

    Raises:
      JaLlmError: the bucket can't be read.
    """
    with _sentence(pattern):
        entries = _systems().match([pattern])[0].metadata_list
    return sorted(place(entry.path, token) for entry in entries if not entry.path.endswith("/"))


def names(folder: Path, pattern: str = "*") -> list[str]:
    """The sorted names of the files in a folder, here or in its bucket, that match a pattern."""
    url = url_of(folder)
    if url is None:
        return sorted(path.name for path in folder.glob(pattern) if path.is_file())
    with _sentence(url):
        entries = _systems().match([f"{url}/*"])[0].metadata_list
    found = [entry.path.rpartition("/")[2] for entry in entries]
    return sorted(name for name in found if name and fnmatch.fnmatchcase(name, pattern))


def anything(folder: Path) -> bool:
    """Whether the folder's bucket holds any file below it."""
    url = url_of(folder)
    with _sentence(url):
        return bool(_systems().match([f"{url}/**"], [1])[0].metadata_list)


def below(folder: Path) -> list[str]:
    """The names of all files below a folder in a bucket, relative to it."""
    url = url_of(folder)
    with _sentence(url):
        entries = _systems().match([f"{url}/**"])[0].metadata_list
    return sorted(entry.path[len(f"{url}/") :] for entry in entries)


def remove(folder: Path, relative: list[str]) -> None:
    """Remove files below a folder, here and in its bucket; those that are there."""
    url = url_of(folder)
    for name in relative:
        (folder / name).unlink(missing_ok=True)
    if url is not None and relative:
        with _sentence(url):
            there = [f"{url}/{name}" for name in relative if _systems().exists(f"{url}/{name}")]
            if there:
                _systems().delete(there)


class RemoteFile:
    """A small object with the methods of a path that `ja_llm.storage.Lease` asks for."""

    def __init__(self, path: Path):
        self._url = url_of(path) or os.fspath(path)

    def __str__(self) -> str:
        return self._url

    def read_text(self) -> str:
        """Its text.

        Raises:
          FileNotFoundError: it is not there.
        """
        if not _systems().exists(self._url):
            raise FileNotFoundError(self._url)
        with _open(self._url) as file:
            return file.read().decode()

    def write_text(self, text: str) -> None:
        """Write it anew."""
        with _create(self._url) as file:
            file.write(text.encode())

    def unlink(self) -> None:
        """Remove it."""
        _systems().delete([self._url])


def _entry(url: str) -> Any:
    with _sentence(url):
        found = _systems().match([url])[0].metadata_list
    if not found:
        raise FileNotFoundError(2, "No such file or directory", url)
    return found[0]


def _systems() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _open(url: str) -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    return _systems().open(url, compression_type=CompressionTypes.UNCOMPRESSED)


def _create(url: str) -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    if _systems().get_filesystem(url).has_dirs():
        with contextlib.suppress(OSError):
            _systems().mkdirs(url.rpartition("/")[0])
    return _systems().create(url, compression_type=CompressionTypes.UNCOMPRESSED)


@contextlib.contextmanager
def _sentence(url: str | None) -> Iterator[None]:
    """Turn what goes wrong with a bucket into a sentence."""
    from apache_beam.io.filesystem import BeamIOError

    try:
        yield
    except (JaLlmError, FileNotFoundError):
        raise
    except ValueError as error:  # Beam knows no file system of this scheme
        raise UsageError(
            f"{url}: Beam has no file system for it here; pip install 'apache-beam[gcp]' for gs://, [aws] for s3://."
        ) from error
    except Exception as error:  # Beam's file systems raise kinds of their own
        if isinstance(error, OSError) and not isinstance(error, BeamIOError):
            raise  # of this machine's disk
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise JaLlmError(
            f"{url}: the bucket can't be used ({said}); look at its name, your rights and the network, then run the same command again."
        ) from error

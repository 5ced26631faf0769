"""Reading Debian packages: an `ar` archive that holds `control.tar.*` and `data.tar.*`.

Format: deb(5). Only the standard library is needed for xz, gzip and bzip2; zstd members go through the `zstd` program.
"""

import contextlib
import dataclasses
import lzma
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ja_llm.errors import JaLlmError

_AR_MAGIC = b"!<arch>\n"
_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


class _Member:
    """The bytes of one ar member, as the read-only stream that tarfile wants."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left = file, size

    def read(self, n: int = -1) -> bytes:
        n = self._left if n < 0 else min(n, self._left)
        data = self._file.read(n)
        self._left -= len(data)
        return data


def _find_member(file: BinaryIO, prefix: str) -> tuple[str, int]:
    """Move to the first ar member whose name starts with `prefix`; its name and size."""
    if file.read(8) != _AR_MAGIC:
        raise tarfile.ReadError("it is no ar archive")
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith(prefix):
            if file.tell() + size > os.fstat(file.fileno()).st_size:  # a tar stream cut between members ends quietly
                raise tarfile.ReadError("it is cut off")
            return name, size
        file.seek(size + size % 2, 1)
    raise tarfile.ReadError(f"it has no {prefix}")


@contextlib.contextmanager
def _open_tar(path: Path, prefix: str) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:
        try:
            name, size = _find_member(file, prefix)
        except ValueError:
            raise tarfile.ReadError("a member's size is no number") from None
        if name.endswith(".zst"):
            with _zstd(file, size) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                yield tar
        else:
            compression = {".xz": "xz", ".gz": "gz", ".bz2": "bz2", ".tar": ""}.get(Path(name).suffix, "*")
            with tarfile.open(fileobj=_Member(file, size), mode=f"r|{compression}") as tar:  # type: ignore[call-overload]
                yield tar


@contextlib.contextmanager
def _zstd(file: BinaryIO, size: int) -> Iterator[BinaryIO]:
    program = shutil.which("zstd")
    if program is None:
        raise JaLlmError(f"{file.name}: this package is compressed with zstd; install the program `zstd` and try again.")
    import tempfile

    with tempfile.TemporaryFile() as packed, tempfile.TemporaryFile() as plain:
        shutil.copyfileobj(_Member(file, size), packed)  # type: ignore[misc]
        packed.seek(0)
        if subprocess.run([program, "-dc"], stdin=packed, stdout=plain, stderr=subprocess.DEVNULL, check=False).returncode:
            raise tarfile.ReadError("zstd can't unpack it")
        plain.seek(0)
        yield plain  # type: ignore[misc]


@contextlib.contextmanager
def _damage_as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise JaLlmError(
            f"{path}: this Debian package is damaged or not one ({error}); delete it and run the same command again."
        ) from error


@dataclasses.dataclass(frozen=True)
class Entry:
    """One member of a package's data archive.

    Attributes:
      path: path inside the package, without "./".
      mtime: seconds since 1970.
      body: the bytes of a regular file; None for a link.
      link: where a symbolic link points; "" for a file.
    """

    path: str
    mtime: int
    body: bytes | None
    link: str = ""


def entries(path: str | Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """Yield the regular files and symbolic links whose path is `wanted`, in archive order, one at a time in memory.

    Raises:
      JaLlmError: the package is damaged, or is packed with zstd and there is no `zstd` program.
    """
    path = Path(path)
    with _damage_as_sentence(path), _open_tar(path, "data.tar") as tar:
        for member in tar:
            name = member.name.removeprefix("./").strip("/")
            if not wanted(name):
                continue
            if member.issym():
                yield Entry(name, int(member.mtime), None, member.linkname)
            elif member.isfile() and (source := tar.extractfile(member)) is not None:
                yield Entry(name, int(member.mtime), source.read())


def control(path: str | Path) -> tuple[dict[str, str], int]:
    """The control fields of a package, and the newest time stamp (seconds since 1970) in its control archive.

    Reproducible builds set that time to the date of the package's changelog, so it is the same for everybody.
    """
    path = Path(path)
    with _damage_as_sentence(path), _open_tar(path, "control.tar") as tar:
        fields: dict[str, str] = {}
        newest = 0
        for member in tar:
            newest = max(newest, int(member.mtime))
            if member.name.removeprefix("./") == "control" and (source := tar.extractfile(member)):
                fields = parse_stanza(source.read().decode("utf-8", "replace"))
        return fields, newest


def parse_stanza(text: str) -> dict[str, str]:
    """One paragraph of `Field: value` lines; continuation lines (led by a blank) are joined with line breaks."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields

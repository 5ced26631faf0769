"""The files and folders that an input pattern names, what identifies them, and whether they stay what they were."""

import collections
import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import mirror
from beam_pipelines.inputs import syntax
from beam_pipelines.inputs.code import walk
from beam_pipelines.inputs.table import format_of
from beam_pipelines.settings.inputs import Inputs
from beam_pipelines.workspace import Unit
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import sha256_file, sha256_json


def find_inputs(patterns: Sequence[str], inputs: Inputs, token: str = "") -> list[Path]:
    """The inputs that the patterns name, each once, in order of name; folders where the kind is source code.

    A URL's files are named by the paths that stand for them in the mirror of the token (`mirror.py`).

    Raises:
      UsageError: there is no pattern, one that matches nothing, a file of a format that is not read, or a package is absent
        that the configuration needs.
    """
    if not patterns:
        raise UsageError("there is no input; name files with --input GLOB.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        pattern = os.fspath(pattern)
        if mirror.is_url(pattern):
            found |= {str(path): path for path in _in_bucket(pattern, inputs, token)}
            continue
        matches = [Path(match) for match in glob.glob(pattern, recursive=True)] + (
            [Path(pattern)] if Path(pattern).exists() else []
        )
        folders = [path for path in matches if path.is_dir()]
        matches = [path for path in matches if path.is_file() or (path.is_dir() and inputs.kind == "code")]
        if not matches and folders:
            raise UsageError(
                f"{pattern}: this is a folder; name the files in it ('{folders[0]}/*'), or choose --preset code to read it as source code."
            )
        if not matches:
            raise UsageError(
                f"{pattern}: no file matches; check the path, and quote the pattern so that the shell leaves it alone."
            )
        for path in matches:
            found[os.path.realpath(path)] = path
    files = [found[real] for real in sorted(found)]
    if len({mirror.url_of(path) is None for path in files}) > 1:
        raise UsageError("--input names files here and in a bucket; give one kind alone.")
    kinds = {format_of(str(path), inputs)[1] for path in files}
    if "code" in kinds and inputs.code.min_pylint_score is not None:
        syntax.require_pylint()
    return files


def require_apart(files: Sequence[Path], output: Path) -> None:
    """Refuse inputs that the job itself writes, or that it would write into: run again, it would take its own output for input.

    Args:
      files: as `find_inputs` gives them.
      output: the document set's folder, or the path that stands for one in a bucket.

    Raises:
      UsageError: an input lies in the output, or the output in a folder that is read.
    """
    place = _compared(output)
    for file in files:
        one, shown = _compared(file), mirror.url_of(file) or file
        if one.startswith(place):
            raise UsageError(
                f"{shown}: this input lies in the output folder ({mirror.url_of(output) or output}); choose an --output beside the "
                "input, or an --input pattern that leaves the output out."
            )
        if place.startswith(one):
            raise UsageError(
                f"{shown}: the output folder ({mirror.url_of(output) or output}) lies in this input; choose an --output beside it."
            )


def _compared(path: Path) -> str:
    return (os.fspath(path) if mirror.url_of(path) else os.path.realpath(path)).rstrip("/") + "/"


def _in_bucket(pattern: str, inputs: Inputs, token: str) -> list[Path]:
    if inputs.kind == "code":
        raise UsageError(f"{pattern}: folders of source code are read from this machine's disk only; copy them here first.")
    matches = mirror.matching(pattern, token)
    if not matches:
        raise UsageError(f"{pattern}: no file matches; check the URL, and quote the pattern so that the shell leaves it alone.")
    return matches


def units_of(files: Sequence[Path]) -> tuple[list[Unit], list[dict[str, Any]]]:
    """The units of input and the manifest's entries, in order of name (`names_of`).

    Raises:
      JaLlmError: a file can't be read.
    """
    found = []
    names = names_of([os.path.realpath(path) for path in files])
    for path in files:
        real = os.path.realpath(path)
        name = names[real]
        try:
            stamp = stamp_of(real)
            entry: dict[str, Any] = {"name": name, "bytes": stamp[0], _digest_name(real): content_hash(real)}
        except OSError as error:
            raise JaLlmError(f"{path}: this input can't be read ({error.strerror}); check its permissions.") from error
        digest = entry[_digest_name(real)]
        found.append((entry, Unit(sha256_json([digest, name])[:16], name, real, digest, stamp)))
    found.sort(key=lambda pair: str(pair[0]["name"]))
    return [unit for _, unit in found], [entry for entry, _ in found]


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Each path's name in the manifest: the file's own, with as many of the folders above it as tell it from others of that name.

    A unit's work is known by its content and its name, which stands in its documents: another input renames only those that
    are called as it is, wherever it lies.

    Example:
      >>> names_of(["/a/x.warc", "/b/x.warc", "/b/y.warc"])
      {'/a/x.warc': 'a/x.warc', '/b/x.warc': 'b/x.warc', '/b/y.warc': 'y.warc'}
    """
    parts = {path: [part for part in Path(path).parts if part != os.sep] for path in paths}
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(parts[path][-depth[path] :]) for path in paths}
        count = collections.Counter(names.values())
        alike = [path for path in paths if count[names[path]] > 1 and depth[path] < len(parts[path])]
        if not alike:
            return names
        for path in alike:
            depth[path] += 1


def stamp_of(path: str) -> tuple[int, int]:
    """(bytes, newest modification in nanoseconds) of a file or of all files of a folder: as long as it stays, nothing is hashed again."""
    if mirror.url_of(path):
        return mirror.stamp(Path(path))
    paths = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in walk(path)]
    stats = [os.stat(part) for part in paths]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def content_hash(path: str) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's sorted names with theirs; of a file in a bucket its size and the bucket's checksum."""
    if mirror.url_of(path):
        return "{} bytes, {}".format(*mirror.identity(Path(path)))
    if os.path.isfile(path):
        return sha256_file(path)
    digest = hashlib.sha256()
    for name in walk(path):
        digest.update(f"{name}\0{sha256_file(os.path.join(path, name))}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _digest_name(path: str) -> str:
    """How the manifest calls `content_hash`: the content of a file in a bucket is not read by the launching process."""
    return "checksum" if mirror.url_of(path) else "sha256"


def require_unchanged(unit: Unit) -> None:
    """Refuse what was read, if the input is no longer what it was when the job began.

    Raises:
      JaLlmError: it is not.
    """
    if not unit.sha256:
        return
    try:
        if stamp_of(unit.path) == tuple(unit.stamp) or content_hash(unit.path) == unit.sha256:
            return
    except OSError:
        pass
    raise JaLlmError(
        f"{mirror.url_of(unit.path) or unit.path}: this input changed or went while it was read; wait until nothing writes to it, then run the same command again."
    )

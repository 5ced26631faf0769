"""The files and folders that an input pattern names, what identifies them, and whether they stay what they were."""

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.inputs import syntax
from beam_pipelines.inputs.code import walk
from beam_pipelines.inputs.table import format_of
from beam_pipelines.settings.inputs import Inputs
from beam_pipelines.workspace import Unit
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import sha256_file, sha256_json


def find_inputs(patterns: Sequence[str], inputs: Inputs) -> list[Path]:
    """The inputs that the patterns name, each once, in order of name; folders where the kind is source code.

    Raises:
      UsageError: there is no pattern, one that matches nothing, a file of a format that is not read, or a package is absent
        that the configuration needs.
    """
    if not patterns:
        raise UsageError("there is no input; name files with --input GLOB.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        pattern = os.fspath(pattern)
        if "://" in pattern:
            raise UsageError(f"{pattern}: only files that this machine can open are read; copy or mount them first.")
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
    kinds = {format_of(str(path), inputs)[1] for path in files}
    if "code" in kinds and inputs.code.min_pylint_score is not None:
        syntax.require_pylint()
    return files


def units_of(files: Sequence[Path]) -> tuple[list[Unit], list[dict[str, Any]]]:
    """The units of input and the manifest's entries, in order of name; names are relative to the files' common folder.

    Raises:
      JaLlmError: a file can't be read.
    """
    root = Path(os.path.commonpath([os.path.realpath(path.parent) for path in files]))
    found = []
    for path in files:
        real = os.path.realpath(path)
        name = Path(real).relative_to(root).as_posix()
        try:
            stamp = stamp_of(real)
            entry: dict[str, Any] = {"name": name, "bytes": stamp[0], "sha256": content_hash(real)}
        except OSError as error:
            raise JaLlmError(f"{path}: this input can't be read ({error.strerror}); check its permissions.") from error
        found.append((entry, Unit(sha256_json([entry["sha256"], name])[:16], name, real, entry["sha256"], stamp)))
    found.sort(key=lambda pair: str(pair[0]["name"]))
    return [unit for _, unit in found], [entry for entry, _ in found]


def stamp_of(path: str) -> tuple[int, int]:
    """(bytes, newest modification in nanoseconds) of a file or of all files of a folder: as long as it stays, nothing is hashed again."""
    paths = [path] if os.path.isfile(path) else [os.path.join(path, name) for name in walk(path)]
    stats = [os.stat(part) for part in paths]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def content_hash(path: str) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's sorted names with theirs."""
    if os.path.isfile(path):
        return sha256_file(path)
    digest = hashlib.sha256()
    for name in walk(path):
        digest.update(f"{name}\0{sha256_file(os.path.join(path, name))}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
        f"{unit.path}: this input changed or went while it was read; wait until nothing writes to it, then run the same command again."
    )

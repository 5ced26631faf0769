"""The manifest contract: what stands beside every document set, token store and mixture.

A set is finished when its `manifest.json` exists; it is written last, atomically. A reader refuses a set whose
manifest is missing, incomplete or contradicted by its files, and says which. Manifests hold no clock times and no
absolute paths of outputs, so equal input and configuration give an equal manifest and an equal fingerprint.
"""

import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ja_llm import __version__
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, sha256_file, sha256_json, write_json

NAME = "manifest.json"
DOCUMENTS = "ja_llm.documents/1"
TOKENS = "ja_llm.tokens/2"
MIXTURE = "ja_llm.mixture/2"

_REQUIRED = ("schema", "job", "config", "config_hash", "inputs", "parents", "shards", "totals", "software")


def software(*packages: str) -> dict[str, str]:
    """Versions of ja_llm and of the named distributions that are installed."""
    versions = {"ja_llm": __version__}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def file_entry(path: str | os.PathLike, root: str | os.PathLike | None = None, **counts: int | str) -> dict[str, Any]:
    """Entry of a file: name relative to `root` (or its base name), bytes, sha256, and the given counts."""
    path = Path(path)
    name = path.relative_to(root).as_posix() if root else path.name
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path), **counts}


def write(
    root: str | os.PathLike,
    *,
    schema: str,
    job: str,
    config: dict[str, Any],
    inputs: list[dict[str, Any]],
    shards: list[dict[str, Any]],
    parents: Iterable[str] = (),
    totals: dict[str, Any] | None = None,
    packages: Iterable[str] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Write `root/manifest.json` and return it.

    Args:
      root: folder of the set.
      schema: DOCUMENTS, TOKENS, MIXTURE, or a job's own.
      job: what made the set, e.g. "corpus".
      config: every value that decides the content; its hash is noted.
      inputs: `file_entry` of each input file.
      shards: `file_entry` of each output file, names relative to `root`.
      parents: fingerprints of the sets this one was made from.
      totals: sums over the set.
      packages: distributions whose versions decide the content.
      **extra: anything else worth keeping (yields, reasons).
    """
    value = {
        "schema": schema,
        "job": job,
        "config": config,
        "config_hash": sha256_json(config),
        "inputs": inputs,
        "parents": sorted(parents),
        "shards": shards,
        "totals": totals or {},
        "software": software(*packages),
        **extra,
    }
    write_json(Path(root) / NAME, value)
    return value


# What each kind of set is known by besides its schema and configuration. Software and inputs' names are in none.
_IDENTITY = {
    DOCUMENTS: ("parents", "totals", "shards"),
    TOKENS: ("parents", "content"),  # hashes of the uncompressed arrays: the compressor's version changes the files alone
    MIXTURE: (),  # its configuration has rates, splits, vocabulary and the fingerprints of its stores
}


def fingerprint(value: dict[str, Any]) -> str:
    """Identity of a set's content, from its manifest: of documents, a token store or a mixture.

    Raises:
      JaLlmError: it is the manifest of something else.
    """
    schema = value.get("schema")
    if schema not in _IDENTITY:
        raise JaLlmError(
            f"a manifest of schema {schema!r} has no fingerprint; give that of a set of {', '.join(map(repr, _IDENTITY))}."
        )
    keep = {key: value[key] for key in ("schema", "config_hash", *_IDENTITY[schema])}
    if "shards" in keep:
        keep["shards"] = sorted((s["name"], s["sha256"]) for s in keep["shards"])
    return sha256_json(keep)


_AGAIN = {
    DOCUMENTS: "build the corpus again (`ja-llm corpus build`)",
    TOKENS: "make the cache again (`ja-llm cache`)",
    MIXTURE: "make the cache again (`ja-llm cache`)",
}


def _other(schema: Any, wanted: str) -> str:
    """What to do about a manifest of another schema: of another version, or of another kind."""
    if str(schema).rpartition("/")[0] != wanted.rpartition("/")[0]:
        return "give the folder of such a set"
    return f"another version of ja_llm wrote it, so {_AGAIN.get(wanted, 'run the job that makes it again')} into a new folder"


def path_in(root: str | os.PathLike) -> Path:
    """Path of the manifest in a set's folder.

    Raises:
      UsageError: the folder does not exist.
      JaLlmError: it has no manifest.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: this folder does not exist; check its name, or run the job that makes it first.")
    path = root / NAME
    if not path.exists():
        raise JaLlmError(
            f"{root}: there is no {NAME}, so this set is unfinished or not one of ours; run the job that makes it again."
        )
    return path


def read(root: str | os.PathLike, schema: str, verify: bool = False) -> dict[str, Any]:
    """Read and check `root/manifest.json`.

    Args:
      root: folder of the set.
      schema: the schema that the caller understands.
      verify: compare every shard's checksum too (reads all bytes); otherwise existence and size only.

    Raises:
      UsageError: the folder does not exist.
      JaLlmError: the manifest is missing, incomplete, of another schema, or its files differ from what it says.
    """
    root = Path(root)
    path = path_in(root)
    value = read_json(path, "manifest")
    missing = [key for key in _REQUIRED if key not in value] if isinstance(value, dict) else list(_REQUIRED)
    if missing:
        raise JaLlmError(f"{path}: the manifest is incomplete, it lacks {', '.join(missing)}; run the job that makes it again.")
    if value["schema"] != schema:
        raise JaLlmError(
            f"{path}: the schema is {value['schema']!r}, but {schema!r} is needed here; {_other(value['schema'], schema)}."
        )
    if value["config_hash"] != sha256_json(value["config"]):
        raise JaLlmError(f"{path}: the configuration was changed after the set was made; run the job that makes it again.")
    for shard in value["shards"]:
        file = root / shard["name"]
        if not file.exists():
            raise JaLlmError(f"{file}: the manifest names this file, but it is missing; run the job that makes it again.")
        if file.stat().st_size != shard["bytes"]:
            raise JaLlmError(
                f"{file}: {file.stat().st_size} bytes, but the manifest says {shard['bytes']}; run the job that makes it again."
            )
        if verify and sha256_file(file) != shard["sha256"]:
            raise JaLlmError(f"{file}: the checksum differs from the manifest's; run the job that makes it again.")
    return value

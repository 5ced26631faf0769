"""What a run's deduplication leaves for later runs: every bucket's hashes, and one document of each.

    OUTPUT/dedup_index/index.json     schema ja_llm.dedup_index/1: MinHash's settings, how many documents, the files
    OUTPUT/dedup_index/BBBB.index     INDEX rows (`buckets.py`) of bucket B, sorted by hash: 24 bytes a document and bucket

All documents that came to the deduplication are in it, also those that it or a later stage dropped (Doubri's rule: dropped
documents index their buckets). It holds hashes and ids and no text. A later run names it with `--against DIR`.
"""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import mirror
from beam_pipelines.buckets import INDEX, Tables
from beam_pipelines.minhash import VERSION
from beam_pipelines.settings.dedup import MinHash
from beam_pipelines.workspace import Stage, write_file
from ja_llm.errors import UsageError
from ja_llm.files import atomic_directory, read_json, sha256_file, sha256_json, write_json

NAME, FILE, SCHEMA = "dedup_index", "index.json", "ja_llm.dedup_index/1"


@dataclasses.dataclass(frozen=True)
class Index:
    """An index on disk; `rows` maps a bucket's file into memory."""

    folder: Path

    def rows(self, bucket: int) -> np.ndarray:
        """INDEX rows of a bucket, sorted by hash."""
        path = self.folder / f"{bucket:04d}.index"
        return np.memmap(path, INDEX, "r") if path.stat().st_size else np.zeros(0, INDEX)


def write(this: Stage, tables: Tables, links: Stage, settings: MinHash) -> None:
    """Join the index files of the tasks by bucket, in the stage's own folder."""
    names = [f"{bucket:04d}" for bucket in range(1 + settings.bands)]
    this.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with write_file(this.folder / f"{name}.index") as out:
            for part in mirror.names(links.folder, f"{name}-*.index"):  # ranges of hashes, ascending
                with open(mirror.fetched(links.folder / part), "rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
                mirror.remove(links.folder, [part])
    files = {f"{name}.index": sha256_file(this.folder / f"{name}.index") for name in names}
    write_json(this.folder / FILE, {"schema": SCHEMA, **_identity(settings), "documents": tables.documents, "files": files})
    mirror.publish(this.folder / FILE)


def publish(this: Stage, output: Path) -> None:
    """Put the index that the stage has written beside the documents; equal files are linked, not copied, where that is possible."""
    source = this.part("dedup_index").folder
    if not mirror.fetched(source / FILE).exists():
        shutil.rmtree(output / NAME, ignore_errors=True)
        return
    with atomic_directory(output / NAME) as folder:
        for path in (mirror.fetched(source / name) for name in mirror.names(source)):
            try:
                os.link(path, folder / path.name)
            except OSError:
                shutil.copyfile(path, folder / path.name)


def read(folder: str, settings: MinHash) -> Index:
    """The index of an earlier run.

    Args:
      folder: the run's document set, or the index itself.
      settings: of this run; they must be those of the earlier one.

    Raises:
      UsageError: there is no index, it is not whole, or it was made with other settings.
    """
    where, value = _open(folder)
    wanted = _identity(settings)
    other = [name for name in wanted if value.get(name) != wanted[name]]
    if other:
        raise UsageError(
            f"{folder}: its deduplication index was made with {other[0]} {value.get(other[0])}, this run has {wanted[other[0]]}; "
            "give both runs the same corpus.MinHash settings and version of ja_llm."
        )
    missing = [name for name in value["files"] if not (where / name).is_file()]
    if missing:
        raise UsageError(f"{folder}: its deduplication index lacks {missing[0]}; build that document set again.")
    return Index(where)


def fingerprint(folder: str) -> str:
    """What identifies an index: a run against another one is another run.

    Raises:
      UsageError: there is no index.
    """
    return sha256_json(_open(folder)[1])


def _open(folder: str) -> tuple[Path, dict[str, Any]]:
    for where in (Path(folder) / NAME, Path(folder)):
        if (where / FILE).is_file():
            value = read_json(where / FILE, "deduplication index")
            if isinstance(value, dict) and value.get("schema") == SCHEMA and isinstance(value.get("files"), dict):
                return where, value
    raise UsageError(
        f"{folder}: no deduplication index ({NAME}/{FILE}) is there; name the output of a corpus run with the stage 'dedup' "
        "that was built with corpus.Dedup.index = True."
    )


def _identity(settings: MinHash) -> dict[str, Any]:
    return {"minhash": dataclasses.asdict(settings), "version": VERSION}

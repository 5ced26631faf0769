"""Copies of a document set's shards in other formats: JSON lines in zstd, and Parquet.

The TFRecord shards are the set: every reader of this project takes them. A copy stands beside its shard under the same name with
another ending, holds the same documents in the same order with the same fields, and has the same bytes whenever it is made by the
same versions of the packages: one zstd frame of one thread, one Parquet row group every `ROWS` documents.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from beam_pipelines.workspace import Execution
from ja_llm import manifest
from ja_llm.documents import FIELDS, Document, read_documents
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_write, canonical_json, read_json, write_json

SHARD = ".tfrecord"
ROWS = 10_000  # documents a Parquet row group: some tens of MB of text
LEVEL = 6  # of zstd, in both formats: beyond it text gets a few per cent smaller and takes twice as long
COPIES = "copies.json"
PACKAGES = {"jsonl.zst": "zstandard", "parquet": "pyarrow"}


def write_jsonl(file: BinaryIO, documents: Iterable[Document]) -> None:
    """One document a line, its fields in the order of their names; `meta` is a string of JSON, as in the shard."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, threads=0)
    with compressor.stream_writer(file, closefd=False) as out:
        for document in documents:
            # A lone surrogate, which UTF-8 can't hold, is no part of a document (ja_llm/documents.py).
            out.write(canonical_json(dataclasses.asdict(document)).encode() + b"\n")


def write_parquet(file: BinaryIO, documents: Iterable[Document]) -> None:
    """One document a row, a string column a field, zstd; `lang` and `source` as dictionaries."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in FIELDS])
    repeated = ["lang", "source", "licence"]
    with parquet.ParquetWriter(file, schema, compression="zstd", compression_level=LEVEL, use_dictionary=repeated) as writer:
        rows: list[Document] = []
        for document in documents:
            rows.append(document)
            if len(rows) == ROWS:
                writer.write_table(_table(rows, schema), row_group_size=ROWS)
                rows = []
        if rows:
            writer.write_table(_table(rows, schema), row_group_size=ROWS)


def _table(rows: Sequence[Document], schema: Any) -> Any:
    import pyarrow as pa

    return pa.table({name: [getattr(row, name) for row in rows] for name in FIELDS}, schema=schema)


WRITERS: dict[str, Callable[[BinaryIO, Iterable[Document]], None]] = {"jsonl.zst": write_jsonl, "parquet": write_parquet}


def check(formats: Sequence[str]) -> list[str]:
    """The formats besides TFRecord, each once.

    Raises:
      UsageError: there is no such format, or its package is not installed.
    """
    import importlib.util

    wanted = [name for name in dict.fromkeys(formats) if name != "tfrecord"]
    for name in wanted:
        if name not in WRITERS:
            raise UsageError(f"--format {name}: there are tfrecord, {', '.join(WRITERS)}; give one of them.")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UsageError(f"--format {name}: the package {PACKAGES[name]} is not installed; pip install 'ja_llm[beam]'.")
    return wanted


def write_copies(
    directory: str | os.PathLike, formats: Sequence[str], beam_args: Sequence[str] = (), workers: int = 1
) -> list[dict[str, Any]]:
    """Write the copies of a finished set that are not there yet, remove those of formats not asked for, and note them in copies.json.

    Args:
      directory: of the document set.
      formats: of `WRITERS`; "tfrecord" is the set itself, and alone it means no copies. None at all: those that there are, made
        again where their shard has changed.
      beam_args: Beam's options.
      workers: local processes, 0 for one a core.

    Returns:
      An entry for each copy: name, bytes, sha256, documents, and the sha256 of the shard that it was made from.

    Raises:
      UsageError: an unknown format.
      JaLlmError: the set is not whole, or the disk is full.
    """
    folder = Path(directory)
    wanted = check(formats or _formats(folder))
    value = manifest.read(folder, manifest.DOCUMENTS)
    versions = manifest.software(*sorted({PACKAGES[name] for name in wanted}))
    held = _held(folder, versions)
    jobs = [(shard, name) for shard in value["shards"] for name in wanted]
    missing = [(shard, name) for shard, name in jobs if not _whole(folder, shard, held.get(copy_name(shard["name"], name)))]
    processes = Execution(beam_args, workers, documents=len(missing)).processes(each=1)
    if processes == 1 and not beam_args:
        for job in missing:
            _copy(job, folder)
    elif missing:
        from beam_pipelines.runner import run_pipeline

        def build(pipeline: Any) -> None:
            import apache_beam as beam

            _ = (
                pipeline
                | "Shards" >> beam.Create(missing, reshuffle=False)
                | "Spread" >> beam.Reshuffle()
                | "Copy" >> beam.Map(_copy_on_worker, folder)
            )

        run_pipeline(build, beam_args, processes)
    made = {id(job[0]): job[0] for job in missing}
    entries = []
    for shard, name in jobs:
        path = copy_name(shard["name"], name)
        if id(shard) in made or path not in held:
            counts: dict[str, Any] = {"documents": shard["documents"], "of": shard["sha256"]}
            entries.append(manifest.file_entry(folder / path, folder, **counts))
        else:
            entries.append(held[path])
    _remove_others(folder, {entry["name"] for entry in entries})
    if entries or (folder / COPIES).exists():
        write_json(folder / COPIES, {"documents": manifest.fingerprint(value), "software": versions, "copies": entries})
    return entries


def copy_name(shard: str, name: str) -> str:
    """The path of a shard's copy inside the set.

    Example:
      >>> copy_name("ja/train-00000-of-00001.tfrecord", "parquet")
      'ja/train-00000-of-00001.parquet'
    """
    return f"{shard.removesuffix(SHARD)}.{name}"


def _formats(folder: Path) -> list[str]:
    """The formats of an earlier call."""
    if not (folder / COPIES).exists():
        return []
    names = [entry["name"] for entry in read_json(folder / COPIES, "list of copies")["copies"]]
    return [name for name in WRITERS if any(copy.endswith(f".{name}") for copy in names)]


def _held(folder: Path, versions: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What an earlier call noted, by name; {} if there is nothing or other versions made it."""
    if not (folder / COPIES).exists():
        return {}
    value = read_json(folder / COPIES, "list of copies")
    same = all(value["software"].get(name, version) == version for name, version in versions.items())
    return {entry["name"]: entry for entry in value["copies"]} if same else {}


def _whole(folder: Path, shard: dict[str, Any], entry: dict[str, Any] | None) -> bool:
    path = folder / entry["name"] if entry else None
    return bool(entry and path and entry["of"] == shard["sha256"] and path.exists() and path.stat().st_size == entry["bytes"])


def _copy(job: tuple[dict[str, Any], str], folder: Path) -> None:
    shard, name = job
    with atomic_write(folder / copy_name(shard["name"], name)) as file:
        WRITERS[name](file, read_documents(folder / shard["name"]))


def _copy_on_worker(job: tuple[dict[str, Any], str], folder: Path) -> None:
    from beam_pipelines.runner import WorkerError

    try:
        _copy(job, folder)
    except JaLlmError as error:
        raise WorkerError(error) from error


def _remove_others(folder: Path, wanted: set[str]) -> None:
    for name in WRITERS:
        for path in folder.glob(f"*/*.{name}"):
            if path.relative_to(folder).as_posix() not in wanted:
                path.unlink()

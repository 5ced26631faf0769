"""The document set's TFRecord shards, the same bytes whatever the order, number and speed of the workers.

Beam's own TFRecord sink deals records from a random start, so a document's shard is a hash of its id here, a shard is
one group of a GroupByKey, sorted by id, written beside its name and renamed. What goes through the GroupByKey is where
a document stands, not its text: the writer reads that from the stages' files. Where those are in a bucket it is the document itself: a writer
would have to copy the files of all units there.

An id stands in a set once. Equal ids are one document (source, URL, date and raw content are equal) that the input holds twice: in two
files, or in a WARC file as two records. A deduplication drops the second; what a chain without one leaves of it meets here, in one
shard, and is counted as `duplicate_document`. `extract` has dropped those of one file of records (`duplicate_id`).
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import mirror, stage_files
from beam_pipelines.card.summary import Summary
from beam_pipelines.config import Corpus
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit
from ja_llm import manifest
from ja_llm.documents import Document, from_example, to_example, write_record
from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, os_error_sentence

VERSION = 3
NAME, DUPLICATE = "sink", "duplicate_document"

# id, unit key, which stage wrote its text last, byte offset in that stage's file of the unit, the document if the file is in a bucket
Place = tuple[str, str, int, int, bytes]


def shard_counts(split_stage: Stage, units: Sequence[Unit], shard_bytes: int) -> dict[tuple[str, str], int]:
    """Number of shards of each (language, split): as many as hold `shard_bytes` of text on average."""
    sizes: dict[tuple[str, str], int] = {}
    for unit in units:
        for _, lang, where, _, size in split_stage.result(unit)["placed"]:
            sizes[lang, where] = sizes.get((lang, where), 0) + size
    return {key: max(1, -(-size // shard_bytes)) for key, size in sorted(sizes.items())}


def shard_name(lang: str, where: str, number: int, count: int) -> str:
    """The shard's path inside the document set (docs/architecture.md)."""
    return f"{lang}/{where}-{number:05d}-of-{count:05d}.tfrecord"


def shard_of(document_id: str, count: int) -> int:
    """The shard that a document belongs to: its id is a hash already."""
    return int(document_id[:16], 16) % count


def run_all(
    this: Stage, output: Path, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution
) -> tuple[list[dict[str, Any]], Summary, list[dict[str, Any]]]:
    """Write the shards that are not there yet.

    Returns:
      (the manifest's entries of all, what their documents count up to, a tally a shard of what was written and what stood there already).
    """
    counts = shard_counts(before[-1], units, config.shard_bytes)
    names = [shard_name(lang, where, i, n) for (lang, where), n in counts.items() for i in range(n)]
    missing = {name for name in names if not _finished(this, output, name)}
    if missing:
        from beam_pipelines.runner import run_pipeline

        this.folder.mkdir(parents=True, exist_ok=True)

        def build(pipeline: Any) -> None:
            import apache_beam as beam

            every = pipeline | "Shards" >> beam.Create([(name, None) for name in sorted(missing)], reshuffle=False)
            places = (
                pipeline
                | "Units" >> beam.Create(list(units), reshuffle=False)
                | "Spread" >> beam.Reshuffle()
                | "Places" >> beam.FlatMap(places_of, before, counts)
                | "Missing only" >> beam.Filter(lambda item, names: item[0] in names, missing)
            )
            _ = (
                (every, places)
                | beam.Flatten()
                | "By shard" >> beam.GroupByKey()
                | "Write" >> beam.Map(_write, this, output, before, config)
            )

        run_pipeline(build, execution.beam_args, execution.shuffling())
    results, summary = [this.result(marker_name(name)) for name in names], Summary()
    for result in results:
        summary.merge(result["summary"])
    inner = ("files", "summary", "tally")
    return [{k: v for k, v in result.items() if k not in inner} for result in results], summary, [r["tally"] for r in results]


def marker_name(name: str) -> str:
    """The file name of a shard's marker."""
    return name.replace("/", "-")


def _finished(this: Stage, output: Path, name: str) -> bool:
    if not this.whole(marker_name(name)):
        return False
    entry, path = this.result(marker_name(name)), output / name
    if mirror.url_of(path):
        with contextlib.suppress(FileNotFoundError):
            return bool(mirror.size(path) == entry["bytes"])
        return False
    return path.exists() and manifest.file_entry(path, output)["sha256"] == entry["sha256"]


def places_of(unit: Unit, before: Sequence[Stage], counts: dict[tuple[str, str], int]) -> Iterator[tuple[str, Place]]:
    """(shard, place) of each of a unit's documents that are left."""
    written = stage_files.places(unit, before)
    for number, lang, where, document_id, _ in before[-1].result(unit)["placed"]:
        count, (index, offset) = counts[lang, where], written[number]
        carried = b""
        if mirror.url_of(before[index].folder):
            carried = to_example(stage_files.read_document(before[index].file(unit, ".tfrecord"), offset))
        yield shard_name(lang, where, shard_of(document_id, count), count), (document_id, unit.key, index, offset, carried)


def _write(group: tuple[str, Iterable[Place | None]], this: Stage, output: Path, before: Sequence[Stage], config: Corpus) -> None:
    from beam_pipelines.runner import WorkerError

    name, places = group
    try:
        write_shard(name, sorted(place for place in places if place is not None), this, output, before, config)
    except JaLlmError as error:
        raise WorkerError(error) from error
    except OSError as error:
        raise WorkerError(os_error_sentence(error, output / name)) from error


def write_shard(name: str, places: Sequence[Place], this: Stage, output: Path, before: Sequence[Stage], config: Corpus) -> None:
    """Write one shard and its marker; of places with one id the first is written."""
    lang, _, rest = name.partition("/")
    split = rest.partition("-")[0]
    tally, characters, summary = Tally.of(config), 0, Summary()
    written: Document | None = None
    with atomic_write(output / name) as file:
        for number, (_, unit, index, offset, carried) in enumerate(places):
            document = from_example(carried) if carried else None
            document = document or stage_files.read_document(before[index].file(unit, ".tfrecord"), offset)
            if written is not None and document.id == written.id:
                tally.drop_document(number, document, DUPLICATE, **origin(document), same_as=origin(written))
                continue
            written = document = dataclasses.replace(document, lang=lang)
            tally.keep(document.text, f"{lang}/{split}")
            characters += len(document.text)
            summary.add(document)
            write_record(file, to_example(document))
    mirror.publish(output / name)
    kept = sum(count[0] for count in tally.kept.values())
    counts: dict[str, int | str] = {"documents": kept, "characters": characters, "lang": lang, "split": split}
    entry = manifest.file_entry(output / name, output, **counts)
    this.finish(marker_name(name), {**entry, "summary": summary.to_json(), "tally": tally.to_json()})


def origin(document: Document) -> dict[str, Any]:
    """The input and the place in it that a document's metadata name."""
    meta = json.loads(document.meta)
    return {name: meta[name] for name in ("warc", "offset", "input", "place") if name in meta}

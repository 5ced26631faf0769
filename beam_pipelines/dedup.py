"""Stage 4: which documents are duplicates of an earlier-ranked one, over the whole corpus.

The rule is Doubri's (Swallow): a document is dropped if any of its buckets was seen in an earlier-ranked document,
dropped documents included. Rank: newer date first, then smaller id. So in every bucket the best-ranked document stays
and marks the others; no connected components, no iteration, and the result does not depend on any order of processing.
The hash of the whole text is one more bucket, so exact duplicates are found by it and named apart.

Writes `<unit>.json` with the unit's duplicates: {document number: [reason, number of the bucket, id of the better one]}.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from beam_pipelines.config import Corpus
from beam_pipelines.extract import read_unit
from beam_pipelines.language import read_languages
from beam_pipelines.workspace import Stage, Tally, Unit
from ja_llm.errors import JaLlmError
from ja_llm.files import os_error_sentence

VERSION = 1
EXACT, NEAR = "duplicate_exact", "duplicate_near"

# A member of a bucket: date, document id, unit key, number in the unit. (unit, number) names a document even where one
# capture stands in two files and the ids are equal.
Member = tuple[str, str, str, int]

# A bucket's key in the GroupByKey: bytes, because a key needs a deterministic coder and Beam's integers end at 63 bits.
_KEY = ">HQ"


def rank(member: Member) -> tuple[bytes, str, str, int]:
    """Sort key of a member: newest date first, then id, unit and number.

    Example:
      >>> min([("2023-01-01", "b", "u", 0), ("2024-01-01", "c", "u", 1), ("2024-01-01", "a", "u", 2)], key=rank)
      ('2024-01-01', 'a', 'u', 2)
    """
    date, *rest = member
    newest_first = bytes(255 - b for b in date.encode("utf-8")) + b"\xff"
    return newest_first, *rest  # type: ignore[return-value]


def mark(bucket: int, members: Iterable[Member]) -> Iterator[tuple[str, tuple[int, int, str]]]:
    """Mark all but the best of a bucket: (unit, (number, bucket, id of the best)). Goes over `members` twice, keeps one."""
    best = min(members, key=rank)
    for member in members:
        if tuple(member) != tuple(best):
            yield member[2], (member[3], bucket, best[1])


def _mark_key(group: tuple[bytes, Iterable[Member]]) -> Iterator[tuple[str, tuple[int, int, str]]]:
    return mark(struct.unpack(_KEY, group[0])[0], group[1])


def run_all(
    this: Stage,
    units: Sequence[Unit],
    extracted: Stage,
    languages: Stage,
    signed: Stage,
    config: Corpus,
    beam_args: Sequence[str],
    workers: int,
) -> None:
    """Find the duplicates among all units' documents in one pipeline; every unit's file is written at its end."""
    if all(this.whole(unit) for unit in units):
        return
    from beam_pipelines.runner import run_pipeline

    this.folder.mkdir(parents=True, exist_ok=True)

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        source = pipeline | "Units" >> beam.Create(list(units), reshuffle=False)
        marks = (
            source
            | "Spread" >> beam.Reshuffle()
            | "Buckets" >> beam.FlatMap(buckets, extracted, languages, signed, tuple(config.languages))
            | "Bucket" >> beam.GroupByKey()
            | "Mark" >> beam.FlatMap(_mark_key)
        )
        everyone = source | "Every unit" >> beam.Map(lambda unit: (unit.key, None))
        _ = (
            (marks, everyone)
            | beam.Flatten()
            | "By unit" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write, this, extracted, languages, config)
        )

    run_pipeline(build, beam_args, workers)


def buckets(unit: Unit, extracted: Stage, languages: Stage, signed: Stage, kept: Sequence[str]) -> Iterator[tuple[bytes, Member]]:
    """(bucket and hash, member) for each of a unit's documents in a kept language; bucket 0 is the text's own hash."""
    table = np.load(signed.file(unit, ".npy"))
    documents = zip(read_unit(extracted, unit), read_languages(languages, unit), table, strict=True)
    for number, (document, lang, row) in enumerate(documents):
        if lang in kept:
            member = (document.date, document.id, unit.key, number)
            for bucket, value in enumerate(row.tolist()):
                yield struct.pack(_KEY, bucket, value), member


def _write(group: tuple[str, Iterable[Any]], this: Stage, extracted: Stage, languages: Stage, config: Corpus) -> None:
    from beam_pipelines.runner import WorkerError

    unit, marks = group
    try:
        this.finish(unit, _unit_result(unit, marks, extracted, languages, config))
    except JaLlmError as error:
        raise WorkerError(error) from error
    except OSError as error:
        raise WorkerError(os_error_sentence(error, this.marker(unit))) from error


def _unit_result(
    unit: str, marks: Iterable[tuple[int, int, str] | None], extracted: Stage, languages: Stage, config: Corpus
) -> dict[str, Any]:
    # The text's hash is bucket 0, so an exact duplicate is called one whatever other buckets say.
    first: dict[int, tuple[int, str]] = {}
    for item in marks:
        if item is not None:
            number, bucket, better = item
            first[number] = min(first.get(number, (bucket, better)), (bucket, better))
    tally = Tally(config.samples, config.sample_characters, config.seed)
    duplicates = {}
    for number, (document, lang) in enumerate(zip(read_unit(extracted, unit), read_languages(languages, unit), strict=True)):
        if number in first:
            bucket, better = first[number]
            reason = NEAR if bucket else EXACT
            duplicates[str(number)] = [reason, bucket, better]
            tally.drop(reason, document.id, document.text, id=document.id, url=document.url, duplicate_of=better)
        elif lang in config.languages:
            tally.keep(len(document.text), lang)
    return {**tally.to_json(), "duplicates": duplicates}


def duplicates_of(this: Stage, unit: Unit | str) -> dict[int, list[Any]]:
    """The unit's duplicates by document number."""
    return {int(number): entry for number, entry in this.result(unit)["duplicates"].items()}

"""Which documents are duplicates of an earlier-ranked one, over the whole corpus.

The rule is Doubri's (Swallow): a document is dropped if any of its buckets was seen in an earlier-ranked document,
dropped documents included. Rank: newer date first, then smaller id. So in every bucket the best-ranked document stays
and marks the others; no connected components, no iteration, and the result does not depend on any order of processing.
The hash of the whole text is one more bucket, so exact duplicates are found by it and named apart.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from beam_pipelines import minhash
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import find, remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit
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


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Find the duplicates among all units' documents in one pipeline; every unit's file is written at its end."""
    from beam_pipelines.runner import run_pipeline

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        source = pipeline | "Units" >> beam.Create(list(units), reshuffle=False)
        marks = (
            source
            | "Spread" >> beam.Reshuffle()
            | "Buckets" >> beam.FlatMap(buckets, before)
            | "Bucket" >> beam.GroupByKey()
            | "Mark" >> beam.FlatMap(_mark_key)
        )
        everyone = source | "Every unit" >> beam.Map(lambda unit: (unit.key, None))
        _ = (
            (marks, everyone)
            | beam.Flatten()
            | "By unit" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write, this, before, config)
        )

    run_pipeline(build, execution.beam_args, execution.shuffling())


def buckets(unit: Unit, before: Sequence[Stage]) -> Iterator[tuple[bytes, Member]]:
    """(bucket and hash, member) for each of a unit's documents; bucket 0 is the text's own hash."""
    hashes = minhash.read_hashes(find(before, "minhash"), unit)
    for number, document, _ in remaining(unit, before):
        member = (document.date, document.id, unit.key, number)
        for bucket, value in enumerate(hashes[number]):
            yield struct.pack(_KEY, bucket, value), member


def _write(group: tuple[str, Iterable[Any]], this: Stage, before: Sequence[Stage], config: Corpus) -> None:
    from beam_pipelines.runner import WorkerError

    unit, marks = group
    try:
        this.finish(unit, _unit_result(unit, marks, before, config))
    except JaLlmError as error:
        raise WorkerError(error) from error
    except OSError as error:
        raise WorkerError(os_error_sentence(error, this.marker(unit))) from error


def _unit_result(
    unit: str, marks: Iterable[tuple[int, int, str] | None], before: Sequence[Stage], config: Corpus
) -> dict[str, Any]:
    # The text's hash is bucket 0, so an exact duplicate is called one whatever other buckets say.
    first: dict[int, tuple[int, str]] = {}
    for item in marks:
        if item is not None:
            number, bucket, better = item
            first[number] = min(first.get(number, (bucket, better)), (bucket, better))
    tally = Tally.of(config)
    for number, document, lang in remaining(unit, before):
        if number in first:
            bucket, better = first[number]
            reason = NEAR if bucket else EXACT
            tally.drop_document(number, document, reason, note=better, duplicate_of=better)
        else:
            tally.keep(document.text, lang)
    return tally.to_json()


STAGE = StageSpec("dedup", VERSION, lambda config: None, run_all=run_all, needs=("minhash",))

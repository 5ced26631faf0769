"""What the stages of the chain hand on to each other, and the one reader of it.

The first stage numbers a unit's documents. From there on a document is (unit, number), and each stage may

- drop it: `Tally.drop_document` notes it in the stage's marker,
- annotate it: a line `[number, {name: value}]` of `<unit>.jsonl` (`write_annotations`), in order of number,
- change it: a record of `<unit>.tfrecord`, its place in the marker under "changed" (`ChangedDocuments`).

A document at a point of the chain is what the last stage before it left, and remains unless one of them dropped it:
`remaining`. No stage opens another's files itself. `before` is the list of all earlier stages, the first one first.
"""

import contextlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from beam_pipelines.workspace import Stage, Unit, write_file
from ja_llm.documents import Document, from_example, to_example, write_record
from ja_llm.errors import JaLlmError

LANGUAGE = "language"  # the stage whose annotation "lang" is a document's language; without it `Document.lang` is


def find(before: Sequence[Stage], name: str) -> Stage:
    """The stage of this name.

    Raises:
      JaLlmError: it is not in the chain.
    """
    for stage in before:
        if stage.name == name:
            return stage
    raise JaLlmError(f"the chain has no stage {name!r} before this one; add it to corpus.Corpus.stages.")


def remaining(unit: Unit | str, before: Sequence[Stage]) -> Iterator[tuple[int, Document, str]]:
    """(number, document, language) of each document of the unit that no stage before dropped, in order of number."""
    for number, document, lang, _ in _read(unit, before, None):
        yield number, document, lang


def remaining_with(unit: Unit | str, before: Sequence[Stage], name: str) -> Iterator[tuple[int, Document, str, dict[str, Any]]]:
    """As `remaining`, with what the stage `name` said of the document ({} if it was not asked about it)."""
    return _read(unit, before, find(before, name))


def _read(
    unit: Unit | str, before: Sequence[Stage], annotated: Stage | None
) -> Iterator[tuple[int, Document, str, dict[str, Any]]]:
    gone = {number for stage in before for number, *_ in stage.result(unit)["drops"]}
    identified = next((stage for stage in before if stage.name == LANGUAGE), None)
    languages = by_number(annotations(unit, identified)) if identified else None
    values = by_number(annotations(unit, annotated)) if annotated else None
    with contextlib.ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for number, (index, offset) in enumerate(places(unit, before)):
            if number in gone:
                continue
            if index not in files:
                files[index] = stack.enter_context(open(before[index].file(unit, ".tfrecord"), "rb"))
            files[index].seek(offset)
            document = _read_record(files[index])
            lang = (languages(number) or {}).get("lang", "") if languages else document.lang
            yield number, document, lang, (values(number) or {}) if values else {}


def places(unit: Unit | str, before: Sequence[Stage]) -> list[tuple[int, int]]:
    """(index in `before` of the stage that wrote it last, byte offset in that stage's file) of each document by number."""
    found = [(0, offset) for offset in before[0].result(unit)["offsets"]]
    for index, stage in enumerate(before):
        for number, offset in stage.result(unit).get("changed", ()):
            found[number] = (index, offset)
    return found


def read_document(path: str | Path, offset: int) -> Document:
    """The document at a byte offset of a stage's TFRecord file."""
    with open(path, "rb") as file:
        file.seek(offset)
        return _read_record(file)


def _read_record(file: BinaryIO) -> Document:
    length = struct.unpack("<Q", file.read(12)[:8])[0]
    return from_example(file.read(length))


class ChangedDocuments:
    """Writes the documents that a stage changed; `places` belongs into the stage's result under "changed".

    Example:
      with changed_documents(this, unit) as changed:
          changed.write(number, document)
      return {**tally.to_json(), "changed": changed.places}
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.places: list[tuple[int, int]] = []

    def write(self, number: int, document: Document) -> None:
        """Append one; numbers must ascend."""
        self.places.append((number, self._file.tell()))
        write_record(self._file, to_example(document))


@contextlib.contextmanager
def changed_documents(this: Stage, unit: Unit | str) -> Iterator[ChangedDocuments]:
    """Open the unit's file of changed documents; it stands when the block has succeeded."""
    with write_file(this.file(unit, ".tfrecord")) as file:
        yield ChangedDocuments(file)


def write_annotations(this: Stage, unit: Unit | str, values: Iterable[tuple[int, dict[str, Any]]]) -> None:
    """Write what the stage says of each document: (number, {name: value}), numbers ascending."""
    with write_file(this.file(unit, ".jsonl")) as file:
        for entry in values:
            file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def annotations(unit: Unit | str, stage: Stage) -> Iterator[tuple[int, dict[str, Any]]]:
    """What `write_annotations` wrote."""
    with open(stage.file(unit, ".jsonl"), encoding="utf-8", errors="surrogatepass") as file:
        for line in file:
            number, values = json.loads(line)
            yield number, values


def by_number(pairs: Iterator[tuple[int, dict[str, Any]]]) -> Callable[[int], dict[str, Any] | None]:
    """Look annotations up by document number; the numbers asked for must ascend. None where there is none."""
    current = next(pairs, None)

    def at(number: int) -> dict[str, Any] | None:
        nonlocal current
        while current is not None and current[0] < number:
            current = next(pairs, None)
        return current[1] if current is not None and current[0] == number else None

    return at

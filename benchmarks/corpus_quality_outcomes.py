"""Where each record of a corpus job's input ended, for `corpus_quality.py`, read from what the stages left."""

import dataclasses
import json
from pathlib import Path

from beam_pipelines.stage_files import annotations
from beam_pipelines.trace import read_chain
from ja_llm.documents import read_documents

Key = tuple[str, int]  # name of the WARC file, offset of the record


@dataclasses.dataclass
class Outcome:
    """Where a record ended.

    Attributes:
      stage, reason: that dropped it; "" of a document that stays.
      better: id of the document for which it was dropped as a duplicate.
      id: of the document, "" of what never became one.
      text: as it was extracted.
      lang: by the language stage, "" of what did not reach it.
      compared: it reached the deduplication.
      place: unit of the job and number in it, of a document.
    """

    stage: str = ""
    reason: str = ""
    better: str = ""
    id: str = ""
    text: str = ""
    lang: str = ""
    compared: bool = False
    place: tuple[str, int] = ("", 0)


def outcomes(output: Path) -> dict[Key, Outcome]:
    """Where each record of the input ended, by file and offset; of places where several were lost, once."""
    stages, found = read_chain(output), {}
    for marker in sorted(stages[0].folder.glob("*.json")):
        unit = marker.stem
        results = {stage.name: stage.result(unit) for stage in stages}
        for reason, entries in results[stages[0].name]["samples"].items():
            for _, fields in entries:
                found[Path(fields.get("warc") or fields["input"]).name, fields["offset"]] = Outcome("extract", reason)
        documents = []
        for number, written in enumerate(read_documents(stages[0].file(unit, ".tfrecord"))):
            meta = json.loads(written.meta)
            documents.append(Outcome(id=written.id, text=written.text, place=(unit, number)))
            found[Path(meta["warc"]).name, meta["offset"]] = documents[-1]
        for stage in stages:
            if stage.name == "dedup":
                for document in documents:
                    document.compared = not document.reason
            for number, reason, *note in results[stage.name]["drops"]:
                documents[number].stage, documents[number].reason = stage.name, reason
                documents[number].better = note[0] if note else ""
            if stage.name == "language":
                for number, values in annotations(unit, stage):
                    documents[number].lang = values["lang"]
    return found

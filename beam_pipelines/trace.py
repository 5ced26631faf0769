"""One document on its way through the chain: what each stage measured, changed or dropped, and where it stands in the set.

What the stages left in `.work` tells it for every document, kept or dropped; without that folder only the set itself is asked.
"""

import difflib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import lost, mirror
from beam_pipelines.samples import DROPPED, read_samples
from beam_pipelines.sink import DUPLICATE, NAME, origin, shard_of
from beam_pipelines.stage_files import annotations, places, read_document
from beam_pipelines.workspace import WORK, Stage
from ja_llm import manifest
from ja_llm.documents import Document, read_documents
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json

CHAIN = "chain.json"  # in `.work`: names and keys of the stages that made the set, in order
_SHOWN = 500  # characters of the text
_HEX = set("0123456789abcdef")


def write_chain(work: Path, stages: Sequence[Stage]) -> None:
    """Note which folders of `.work` belong to the set: others may be of a run that was begun later."""
    write_json(work / CHAIN, {"stages": [[stage.name, stage.key] for stage in stages]})
    mirror.publish(work / CHAIN)


def read_chain(directory: str | os.PathLike) -> list[Stage]:
    """The stages that made a set, in order; [] if their files are gone."""
    work = Path(directory) / WORK
    if not (work / CHAIN).exists():
        return []
    stages = [Stage(name, key, work / f"{name}-{key}") for name, key in read_json(work / CHAIN, "list of stages")["stages"]]
    return stages if all(stage.folder.is_dir() for stage in stages) else []


def trace(directory: str | os.PathLike, wanted: str) -> str:
    """The way of each document with this id or URL, as text to read.

    Args:
      directory: of the document set.
      wanted: a document's id (32 hex digits), the URL as it was captured, or INPUT:PLACE of a record without one.

    Raises:
      UsageError: it is none of these.
      JaLlmError: there is no such document or page, or the set is not whole.
    """
    by_id = len(wanted) == 32 and set(wanted) <= _HEX
    if not by_id and set(wanted) <= _HEX:
        raise UsageError(f"{wanted}: give a document's id, which is 32 hex digits, or the URL of a page.")
    wanted = wanted if by_id else lost.bare_url(wanted)
    value = manifest.read(directory, manifest.DOCUMENTS)
    stages = read_chain(directory)
    found = [_way(unit, number, document, stages) for unit, number, document in _search(stages, wanted, by_id)]
    inside = {}
    for name in _shards_to_read(value, wanted, by_id):
        for position, document in _matching(Path(directory) / name, wanted, by_id):
            inside[document.id] = (document, f"{name}, document {position}")
    for document, rows in found:
        same = inside[document.id][0] if document.id in inside else document
        if origin(same) != origin(document) and not any(": dropped as " in row for row in rows):
            rows.append(f"{NAME}: dropped as {DUPLICATE} (the set holds that of {origin(same)})")
    parts = [_head(document, value) + "\n" + "\n".join(rows) for document, rows in found]
    for document, place in inside.values():
        if not stages:
            parts.append(f"{_head(document, value)}\n(the stages' files are gone, so only the set itself is told)")
        parts.append(f"in the set: {place}\n\n{document.text[:_SHOWN]}")
    if not by_id and stages:
        parts += [_never(directory, wanted, *drop) for drop in lost.search(stages[0], wanted)]
    if not parts:
        raise JaLlmError(_missing(directory, wanted, stages))
    return "\n\n".join(parts)


def _search(stages: Sequence[Stage], wanted: str, by_id: bool) -> Iterator[tuple[str, int, Document]]:
    """(unit, number, document as it was extracted) of every document that has this id or URL."""
    if not stages:
        return
    first = stages[0]
    for marker in sorted(first.folder.glob("*.json")):
        unit = marker.stem
        for number, document in _matching(first.file(unit, ".tfrecord"), wanted, by_id):
            yield unit, number, document


def _shards_to_read(value: dict[str, Any], wanted: str, by_id: bool) -> list[str]:
    """Names of the shards that can hold it: in a set of the corpus job an id says which one of each language and side."""
    groups: dict[tuple[str, str], list[str]] = {}
    for shard in value["shards"]:
        groups.setdefault((shard.get("lang", ""), shard.get("split", "")), []).append(shard["name"])
    if by_id and value.get("job") == "corpus":
        return [sorted(names)[shard_of(wanted, len(names))] for names in groups.values()]
    return [name for names in groups.values() for name in names]


def _matching(path: Path, wanted: str, by_id: bool) -> Iterator[tuple[int, Document]]:
    """(place in the file, document) of those with this id or URL. A file in which these bytes stand nowhere is not taken apart."""
    if not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        if held.find(wanted.encode("utf-8", "surrogatepass")) < 0:
            return
    for number, document in enumerate(read_documents(path)):
        if wanted == (document.id if by_id else document.url):
            yield number, document


def _way(unit: str, number: int, document: Document, stages: Sequence[Stage]) -> tuple[Document, list[str]]:
    """What each stage did to a document, up to the one that dropped it."""
    rows = []
    for index, stage in enumerate(stages):
        result = stage.result(unit)
        values = _annotated(unit, number, stage)
        if index == 0:
            rows.append(f"{stage.name}: document {number} of its file, {len(document.text)} characters")
        dropped = next((entry for entry in result["drops"] if entry[0] == number), None)
        if dropped is not None:
            note = f" ({dropped[2]})" if len(dropped) > 2 else ""
            rows.append(f"{stage.name}: dropped as {dropped[1]}{note}{_told(values)}")
            rows += ["", "the text as this stage saw it:", *_shown(document.text)]
            return document, rows
        if number in dict(result.get("changed", ())):
            after = read_document(stage.file(unit, ".tfrecord"), places(unit, stages[: index + 1])[number][1])
            rows += [
                f"{stage.name}: changed, {len(document.text)} -> {len(after.text)} characters",
                *_difference(document, after),
            ]
            document = after
            continue
        if index:
            rows.append(f"{stage.name}: kept{_told(values)}")
    return document, rows


def _annotated(unit: str, number: int, stage: Stage) -> dict[str, Any]:
    if not stage.file(unit, ".jsonl").exists():
        return {}
    return next((values for n, values in annotations(unit, stage) if n == number), {})


def _told(values: dict[str, Any]) -> str:
    return "".join(
        f"\n    {name} {value:.4g}" if isinstance(value, float) else f"\n    {name} {value}" for name, value in values.items()
    )


def _difference(before: Document, after: Document) -> list[str]:
    lines = difflib.unified_diff(before.text.split("\n"), after.text.split("\n"), "before", "after", n=0, lineterm="")
    rows = [f"    {line[:200]}" for line in list(lines)[2:]]
    return rows[:60] + ([f"    and {len(rows) - 60} lines more"] if len(rows) > 60 else [])


def _shown(text: str) -> list[str]:
    return [f"    {line}" for line in text[:_SHOWN].splitlines()]


def _head(document: Document, value: dict[str, Any]) -> str:
    meta = json.loads(document.meta)
    inputs = {entry["name"]: entry for entry in value["inputs"]}
    rows: dict[str, Any] = {
        "id": document.id,
        "url": document.url,
        "date": document.date,
        "language": document.lang,
        "source": document.source,
        "licence": document.licence or "not known",
        **meta,
        "warc_sha256": inputs.get(meta.get("warc") or meta.get("input", ""), {}).get("sha256", ""),
    }
    return "\n".join(f"{key:<12} {item}" for key, item in rows.items() if item != "")


def _never(directory: str | os.PathLike, wanted: str, reason: str, name: str, number: str) -> str:
    """What is known of a page that never became a document; more of it where it is among the samples."""
    place = f"{name} at {number}" if number else name
    rows = [wanted, f"extract: dropped as {reason} ({place}); it never became a document"]
    for entry in read_samples(directory, DROPPED).get(reason, []):
        if entry.get("url") == wanted and entry.get("warc", entry.get("input")) == name:
            rows += [f"    {key} {item}" for key, item in entry.items() if key not in ("url", "reason", "stage", "warc", "input")]
    return "\n".join(rows)


def _missing(directory: str | os.PathLike, wanted: str, stages: Sequence[Stage]) -> str:
    """Why there is nothing; without the stages' files, pages that never became documents are known by the samples only."""
    for reason, entries in read_samples(directory, DROPPED).items():
        for entry in entries:
            if wanted in (entry.get("id"), entry.get("url")):
                about = ", ".join(
                    f"{key} {item}" for key, item in entry.items() if key not in ("text", "id", "url", "reason", "statistics")
                )
                return f"{directory}: {wanted} was dropped as {reason} ({about}); it never became a document."
    if stages:
        return f"{directory}: there is no document or page {wanted} in what the stages left; write its URL as it was captured."
    return (
        f"{directory}: there is no document {wanted} in the set, and the files of the stages, which know what was dropped, are gone; "
        f"{Path(directory) / DROPPED} keeps samples only."
    )

"""Samples to read: of what was dropped or changed for a reason, and of what was kept."""

import heapq
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from ja_llm import manifest
from ja_llm.documents import Document, read_documents
from ja_llm.errors import UsageError

DROPPED, MODIFIED = "dropped", "modified"
_RULE = "-" * 80
_VALUE = 240  # characters of what stands beside a text, such as all its statistics


def read_samples(directory: str | os.PathLike, kind: str) -> dict[str, list[dict[str, Any]]]:
    """{reason: samples} that the job left, in the order of their seeded hash.

    Args:
      directory: of the document set.
      kind: DROPPED or MODIFIED.
    """
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for path in sorted((Path(directory) / kind).glob("*.jsonl"))
    }


def sample(directory: str | os.PathLike, reasons: Sequence[str] = (), number: int = 3, kept: int = 0, seed: int = 1) -> str:
    """Samples as text to read.

    Args:
      directory: of the document set.
      reasons: of dropping or changing; none for all that there are, unless `kept` is asked for.
      number: of samples a reason; the job kept as many as `corpus.Corpus.samples` says.
      kept: documents of the set to show besides: those with the smallest seeded hash of their id.
      seed: of that hash.

    Raises:
      UsageError: nothing was dropped or changed for a reason; names those that there are. Or a negative number.
      JaLlmError: the set is not whole.
    """
    if number < 0 or kept < 0:
        raise UsageError(f"--number {number} --kept {kept}: how many samples to show can't be negative; give 0 or more.")
    found = {DROPPED: read_samples(directory, DROPPED), MODIFIED: read_samples(directory, MODIFIED)}
    every = sorted({*found[DROPPED], *found[MODIFIED]})
    for reason in reasons:
        if reason not in every:
            near = [r for r in every if r.startswith(reason)]
            known = f"near ones are: {', '.join(near)}" if near else f"the reasons are: {', '.join(every) or 'none'}"
            raise UsageError(f"{directory}: there are no samples of {reason!r}; {known}.")
    wanted = reasons or ([] if kept else every)
    parts = []
    for reason in wanted:
        for kind, entries in found.items():
            if reason in entries:
                shown = entries[reason][:number]
                parts.append(f"{kind}: {reason} ({len(shown)} of {len(entries[reason])} samples)\n{_RULE}")
                parts += [_entry(entry) for entry in shown]
    parts += [_document(document) for document in _kept(directory, kept, seed)]
    return "\n\n".join(parts)


def _kept(directory: str | os.PathLike, number: int, seed: int) -> list[Document]:
    if number < 1:
        return []
    value = manifest.read(directory, manifest.DOCUMENTS)
    every = (document for shard in value["shards"] for document in read_documents(Path(directory) / shard["name"]))
    return heapq.nsmallest(number, every, key=lambda d: (xxhash.xxh64_intdigest(d.id.encode(), seed), d.id))


def _entry(entry: dict[str, Any]) -> str:
    texts = {name: entry[name] for name in ("text", "before", "after") if entry.get(name)}
    about = [
        f"{name}: {textwrap.shorten(str(value), _VALUE, placeholder=' …')}" for name, value in entry.items() if name not in texts
    ]
    for name, text in texts.items():
        about += [f"{name}:", *(f"    {line}" for line in str(text).splitlines())]
    return "\n".join(about)


def _document(document: Document) -> str:
    about = {"id": document.id, "url": document.url, "lang": document.lang, "characters": len(document.text)}
    return _entry({"kept": document.source, **about, "text": document.text[:500]})

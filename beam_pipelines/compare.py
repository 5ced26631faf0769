"""Two document sets side by side: configuration, input, yields, and which documents stand in one of them only."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.documents import read_documents

_SHOWN = 10


def compare(first: str | os.PathLike, second: str | os.PathLike) -> dict[str, Any]:
    """What differs between two sets.

    Args:
      first: folder of a document set; memory: some 200 bytes for each of its documents.
      second: another.

    Returns:
      "configuration", "software", "inputs": {name: [in the first, in the second]} of those that differ (None: absent);
      "yields": {stage: {reason: [documents, documents]}}, with "in" and "kept", of those that differ;
      "documents": numbers "same", "changed" (same id, another text, language or split), "only_first", "only_second", and
      "samples" of the last three: {kind: [{id, url, ...}]}.

    Raises:
      JaLlmError: a set is not whole.
    """
    a, b = (manifest.read(folder, manifest.DOCUMENTS) for folder in (first, second))
    return {
        "configuration": _changed(dict(_flat(a["config"])), dict(_flat(b["config"]))),
        "software": _changed(a["software"], b["software"]),
        "inputs": _changed(
            *({entry["name"]: entry.get("sha256", entry.get("checksum")) for entry in v["inputs"]} for v in (a, b))
        ),
        "yields": _yields(a, b),
        "documents": _documents(first, a, second, b),
    }


def format_comparison(value: Mapping[str, Any], first: str, second: str) -> str:
    """`compare` as text to read."""
    rows = [f"A = {first}", f"B = {second}"]
    for name in ("configuration", "software", "inputs"):
        rows += ["", f"{name}: {len(value[name])} differ" if value[name] else f"{name}: the same"]
        for key, (a, b) in list(value[name].items())[:50]:
            rows.append(f"  {key}: {_short(a)} -> {_short(b)}")
        if len(value[name]) > 50:
            rows.append(f"  and {len(value[name]) - 50} more")
    rows += ["", f"{'yields, documents':<50} {'A':>9} {'B':>9} {'B - A':>9}", "-" * 80]
    for stage, reasons in value["yields"].items():
        for reason, (a, b) in reasons.items():
            rows.append(f"{stage + ' ' + reason:<50} {a:>9} {b:>9} {b - a:>+9}")
    if not value["yields"]:
        rows.append("the same in every stage and for every reason")
    found = value["documents"]
    rows += ["", f"documents: {found['same']} the same, {found['changed']} with the same id but other text or place"]
    rows.append(f"           {found['only_first']} in A only, {found['only_second']} in B only")
    for kind, entries in found["samples"].items():
        rows += [f"  {kind}: {entry['id']} {entry['url']}" for entry in entries]
    return "\n".join(rows)


def _short(value: Any) -> str:
    if value is None:
        return "(absent)"
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [a.get(key), b.get(key)] for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def _yields(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    counts: list[dict[str, dict[str, int]]] = []
    for value in (a, b):
        counts.append(
            {
                table["stage"]: {
                    "in": table["in"]["documents"],
                    "kept": table["kept"]["documents"],
                    **{reason: count["documents"] for reason, count in table["dropped"].items()},
                }
                for table in value.get("yields", [])
            }
        )
    found = {}
    for stage in dict.fromkeys([*counts[0], *counts[1]]):
        mine, theirs = (table.get(stage, {}) for table in counts)
        differing = {key: [mine.get(key, 0), theirs.get(key, 0)] for key in dict.fromkeys([*mine, *theirs])}
        if differing := {key: pair for key, pair in differing.items() if pair[0] != pair[1]}:
            found[stage] = differing
    return found


def _places(directory: str | os.PathLike, value: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[int, str, str]]]:
    """(id, url, (hash of the text, language, split)) of every document."""
    import xxhash

    for shard in value["shards"]:
        for document in read_documents(Path(directory) / shard["name"]):
            text = xxhash.xxh3_64_intdigest(document.text.encode("utf-8", "surrogatepass"))
            yield document.id, document.url, (text, shard["lang"], shard["split"])


def _documents(first: str | os.PathLike, a: Mapping[str, Any], second: str | os.PathLike, b: Mapping[str, Any]) -> dict[str, Any]:
    mine = {identity: (url, place) for identity, url, place in _places(first, a)}
    counts = {"same": 0, "changed": 0, "only_first": 0, "only_second": 0}
    samples: dict[str, list[dict[str, str]]] = {"changed": [], "only in B": [], "only in A": []}

    def show(kind: str, identity: str, url: str) -> None:
        if len(samples[kind]) < _SHOWN:
            samples[kind].append({"id": identity, "url": url})

    for identity, url, place in _places(second, b):
        held = mine.pop(identity, None)
        if held is None:
            counts["only_second"] += 1
            show("only in B", identity, url)
        elif held[1] == place:
            counts["same"] += 1
        else:
            counts["changed"] += 1
            show("changed", identity, url)
    counts["only_first"] = len(mine)
    for identity in sorted(mine)[:_SHOWN]:
        show("only in A", identity, mine[identity][0])
    return {**counts, "samples": samples}

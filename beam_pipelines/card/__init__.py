"""The data card of a document set: `card.html` (one file, with plots) and `card.md`, from what lies in the set alone.

Equal sets give equal cards: no clock, no path of this machine. `card.json` holds the counts that both are written from.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.card import blocks
from beam_pipelines.card.sections import sections, title
from beam_pipelines.card.summary import Histograms, Summary, summarise
from beam_pipelines.samples import DROPPED, MODIFIED, read_samples
from ja_llm import manifest
from ja_llm.files import read_json, sha256_json, write_json, write_text

JSON, HTML, MARKDOWN = "card.json", "card.html", "card.md"
SCHEMA = "ja_llm.card/1"


def write_card(directory: str | os.PathLike, value: dict[str, Any] | None = None) -> Path:
    """Write the card of a finished set; returns the HTML file.

    Counts that the corpus job left (`card.json` of the same shards) are used; otherwise all documents are read.

    Args:
      directory: of the set.
      value: its manifest, if it is at hand.

    Raises:
      JaLlmError: the set is not whole.
    """
    folder = Path(directory)
    value = value or manifest.read(folder, manifest.DOCUMENTS)
    summary, scores = _counts(folder, value)
    found = {kind: read_samples(folder, kind) for kind in (DROPPED, MODIFIED)}
    parts = sections(value, summary, scores, found)
    head, below = (
        title(summary),
        f"What this document set holds, where it comes from, and what became of the rest. Set {manifest.fingerprint(value)[:16]}.",
    )
    write_text(folder / MARKDOWN, blocks.document(head, below, parts))
    write_text(folder / HTML, blocks.page(head, below, parts))
    return folder / HTML


def write_counts(directory: str | os.PathLike, shards: Sequence[dict[str, Any]], summary: Summary, scores: Histograms) -> None:
    """Leave `card.json`: counts of the set's documents, and histograms of the statistics of all that were measured.

    Args:
      directory: of the set.
      shards: the manifest's entries, by whose checksums the counts are known to be of this set.
      summary: of the documents.
      scores: of the statistics.
    """
    counts = {"schema": SCHEMA, "shards": _identity(shards), "summary": summary.to_json(), "scores": scores.to_json()}
    write_json(Path(directory) / JSON, counts)


def _identity(shards: Sequence[dict[str, Any]]) -> str:
    return sha256_json(sorted((shard["name"], shard["sha256"]) for shard in shards))


def _counts(folder: Path, value: dict[str, Any]) -> tuple[Summary, dict[str, Any]]:
    if (folder / JSON).exists():
        held = read_json(folder / JSON, "card's counts")
        if held.get("schema") == SCHEMA and held.get("shards") == _identity(value["shards"]):
            summary = Summary()
            summary.merge(held["summary"])
            return summary, held["scores"]
    return summarise(folder / shard["name"] for shard in value["shards"]), {}

"""Take out what evaluation will ask: documents, or sentences of them, that hold an item of an evaluation set or a held-out document.

An item is held where at least `min_coverage` of its characters lie in character n-grams that the document has, too, both folded (widths, kana,
case, punctuation, white space): the measure of `ja_llm/text/ngrams.py`, which the evaluation looks into the training documents with. Items
too short for an n-gram are not looked for, since so few characters stand in many documents by chance: how many of which task is said when
the run begins, in the manifest and on the card.
"""

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.settings.decontaminate import Decontaminate
from beam_pipelines.side_files import digests
from beam_pipelines.stage_files import changed_documents, remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm import manifest
from ja_llm.documents import read_documents
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.text.ngrams import JAPANESE, OTHER, Index, fold, too_short
from ja_llm.text.normalise import clean

VERSION = 1
REASON = "contaminated"
# What is cut whole: a sentence or a line, with its end.
_PASSAGE = re.compile(r"[^\n。．！？!?]*(?:[。．！？!?]+[」』）)\]】〉》”’]*\n*|\n+|$)")


def read_items(path: str | Path) -> dict[str, list[str]]:
    """Texts of each item of a file of evaluation items, by "task/item".

    Raises:
      UsageError: a line is not an item, or there is none.
    """
    items: dict[str, list[str]] = {}
    with open(path, encoding="utf-8", errors="strict") as lines:
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
                items[f"{value['task']}/{value['item']}"] = [str(text) for text in value["texts"]]
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"{path}, line {number}: this is no evaluation item; a line is a JSON object with task, item and texts."
                ) from None
    if not items:
        raise UsageError(f"{path}: this file holds no evaluation item; write it again with `ja-llm corpus items`.")
    return items


def set_items(root: str | Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """(name, [text]) of each document of a split of a finished document set, named "<folder>/<document id>".

    Raises:
      JaLlmError: the set is not whole.
      UsageError: it has no document of this split.
    """
    shards = [s for s in manifest.read(root, manifest.DOCUMENTS)["shards"] if s["split"] == split]
    if not shards:
        raise UsageError(f"{root}: this document set has no {split} documents; change corpus.Decontaminate.split.")
    for shard in shards:
        for document in read_documents(Path(root) / shard["name"]):
            yield f"{Path(root).resolve().name}/{document.id}", [document.text]


def load_items(settings: Decontaminate) -> dict[str, list[str]]:
    """All items that the settings name."""
    items: dict[str, list[str]] = {}
    for path in settings.items:
        items |= read_items(path)
    for root in settings.sets:
        items |= dict(set_items(root, settings.split))
    return items


def task_of(item: str) -> str:
    """The task of an item's name.

    Example:
      >>> task_of("jmmlu/anatomy/3")
      'jmmlu'
    """
    return item.partition("/")[0]


def cut(text: str, index: Index, min_coverage: float) -> tuple[str, dict[str, float]]:
    """The text without the sentences that hold an item, and the items with their coverage: nothing of it is left to be found."""
    found: dict[str, float] = {}
    while True:
        pieces = _PASSAGE.findall(text)
        folded = [fold(piece) for piece in pieces]
        whole = "".join(folded)
        here = index.found_in(whole, min_coverage)
        if not here:
            return text, found
        found |= here
        covered = index.covered(whole, list(here))
        ends = np.cumsum([len(piece) for piece in folded])
        starts = ends - [len(piece) for piece in folded]
        text = clean("".join(p for p, a, b in zip(pieces, starts, ends, strict=True) if not covered[a:b].any()))


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Drop or cut one unit's documents; the table "contaminated" counts hits by task."""
    settings = config.decontaminate
    index = _index(settings)
    tally = Tally.of(config)
    with changed_documents(this, unit) as changed:
        for number, document, lang in remaining(unit, before):
            if settings.action == "cut":
                text, found = cut(document.text, index, settings.min_coverage)
            else:
                text, found = "", index.found_in(fold(document.text), settings.min_coverage)
            for task in sorted({task_of(item) for item in found}):
                tally.count(REASON, task)
            if not found:
                tally.keep(document.text, lang)
            elif not text:
                tally.drop_document(number, document, REASON, note=", ".join(found), items=_rounded(found))
            else:
                after = dataclasses.replace(document, text=text)
                changed.write(number, after)
                tally.modify(document, after, [REASON], lang)
    return {**tally.to_json(), "changed": changed.places}


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {item: round(share, 4) for item, share in found.items()}


Key = tuple[tuple[str, ...], tuple[str, ...], str, int | None, tuple[str, ...]]  # the last: the contents


def _key(settings: Decontaminate) -> Key:
    contents = tuple(_files(settings).values())
    return tuple(settings.items), tuple(settings.sets), settings.split, settings.ngram, contents


@functools.cache
def _index_of(key: Key) -> Index:
    items, sets, split, ngram, _ = key
    return Index(load_items(Decontaminate(items=items, sets=sets, split=split)), ngram)


@functools.cache
def _not_looked_for(key: Key) -> tuple[dict[str, int], int]:
    """(items that are too short by task, all items)."""
    items, sets, split, ngram, _ = key
    held = load_items(Decontaminate(items=items, sets=sets, split=split))
    return dict(sorted(collections.Counter(map(task_of, too_short(held, ngram))).items())), len(held)


def _notices(config: Corpus) -> list[str]:
    by_task, items = _not_looked_for(_key(config.decontaminate))
    if not by_task:
        return []
    n = config.decontaminate.ngram
    size = f"{n}" if n else f"{JAPANESE} in Japanese, {OTHER} otherwise"
    told = ", ".join(f"{task} {count:,}" for task, count in by_task.items())
    return [
        f"{sum(by_task.values()):,} of {items:,} evaluation items are too short to be looked for ({told}): none of their texts has as many "
        f"letters and digits as an n-gram ({size}; corpus.Decontaminate.ngram)"
    ]


def _index(settings: Decontaminate) -> Index:
    """One index a worker process.

    Raises:
      JaLlmError: all items are too short to be looked for.
    """
    index = _index_of(_key(settings))
    if not index:
        raise JaLlmError(
            "no item of corpus.Decontaminate.items or .sets is as long as an n-gram; name files of evaluation items, or leave the stage out."
        )
    return index


def _files(settings: Decontaminate) -> dict[str, str]:
    if not settings.items and not settings.sets:
        raise UsageError(
            "the stage 'decontaminate' has nothing to look for; bind corpus.Decontaminate.items or .sets, or leave the stage out."
        )
    sets = {str(root): manifest.fingerprint(manifest.read(root, manifest.DOCUMENTS)) for root in settings.sets}
    return {**digests(settings.items), **sets}


def _values(config: Corpus) -> Any:
    return {**dataclasses.asdict(config.decontaminate), "items": (), "sets": ()}


STAGE = StageSpec("decontaminate", VERSION, _values, run, files=lambda config: _files(config.decontaminate), notices=_notices)

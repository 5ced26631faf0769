"""Training and held-out documents, and what held-out text shares with training.

The side is a seeded hash of the document's id, or of its group (package, else host; a document that has neither is a group by
itself, since one group of all of them would stand on one side). MinHash misses a long page that
contains a short one, so held-out documents are checked once more: the share of a document's distinct character n-grams
that stand anywhere in the training text (containment, Broder 1997) must not exceed the threshold.

The hashes of all held-out n-grams are one sorted array; each unit marks those that its training documents contain, and
the marks are united. Memory: 8 bytes a held-out n-gram, so the share held out of a large corpus must be small.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from beam_pipelines import mirror
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, Split
from beam_pipelines.hosts import host_of
from beam_pipelines.minhash import ngram_hashes
from beam_pipelines.stage_files import remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, write_file
from ja_llm.documents import Document
from ja_llm.text.normalise import squeeze

VERSION = 3
TRAIN, HELDOUT = "train", "heldout"
CONTAINED = "heldout_contained"
_ALL = "all.npy"


def group(document: Document) -> str:
    """The manual or site that a document belongs to: its package if it is known, else the URL's host, else the document alone."""
    package = json.loads(document.meta).get("package")
    if package not in (None, ""):
        return str(package)  # records of a user's may hold numbers
    return host_of(document.url) or document.id


def side(document: Document, settings: Split) -> str:
    """TRAIN or HELDOUT: a function of the document's id (or group) and the seed alone."""
    key = document.id if settings.split_by == "document" else group(document)
    value = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"), settings.seed)
    return HELDOUT if value < settings.heldout_share * 2.0**64 else TRAIN


def notices(totals: Mapping[str, Any], settings: Split) -> list[str]:
    """A sentence for each language of which a side is empty: what trains or measures on that side finds nothing.

    Args:
      totals: of the set, {lang: {side: {"documents": n}}} among them (`yields.make_totals`).
      settings: of this stage.
    """
    if not settings.heldout_share:
        return []
    where = (
        "corpus.Split.split_by = 'group' puts all pages of a site or manual on one side: 'document' is for few of them"
        if settings.split_by == "group"
        else f"there are few for corpus.Split.heldout_share = {settings.heldout_share:g}"
    )
    told = []
    for lang, sides in sorted(totals.items()):
        if isinstance(sides, Mapping) and len(sides) == 1:
            ((there, count),) = sides.items()
            what = "is held out" if there == TRAIN else "is left to train on"
            told.append(f"no document of language {lang} {what} ({count['documents']:,} on the other side); {where}")
    return told


def hashes(text: str, n: int) -> np.ndarray:
    """uint64, sorted: the distinct character n-grams of a text without its white space; other n give other hashes."""
    return np.unique(ngram_hashes(squeeze(text), n))


def run_all(this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution) -> None:
    """Collect what is held out, search the training text for it, decide."""
    if config.split.max_containment is None or config.split.heldout_share == 0:
        run_units(this, units, finish, (before, config, None), execution, light=True)
        return
    keys = sorted(unit.key for unit in units)
    collected, searched = this.part("heldout"), this.part("contained")
    run_units(collected, units, collect, (before, config), execution, light=True)
    unite(collected, keys)
    run_units(searched, units, search, (before, config, collected), execution)
    unite(searched, keys)
    run_units(this, units, finish, (before, config, searched), execution, light=True)


def collect(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Write `<unit>.npy`: the distinct n-grams of the unit's held-out documents."""
    tally = Tally.of(config)
    found = [np.zeros(0, np.uint64)]
    for _, document, lang in remaining(unit, before):
        tally.keep(document.text, lang)
        if side(document, config.split) == HELDOUT:
            found.append(hashes(document.text, config.split.ngrams[lang]))
    _save(this, unit, np.unique(np.concatenate(found)))
    return tally.to_json()


def search(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, collected: Stage) -> dict[str, Any]:
    """Write `<unit>.npy`: the held-out n-grams that stand in the unit's training documents."""
    tally = Tally.of(config)
    heldout = united(collected)
    seen = np.zeros(len(heldout), bool)
    lengths = sorted({config.split.ngrams[lang] for lang in config.languages})
    for _, document, lang in remaining(unit, before):
        tally.keep(document.text, lang)
        if len(heldout) and side(document, config.split) == TRAIN:
            for n in lengths:
                values = hashes(document.text, n)
                at = np.searchsorted(heldout, values)
                at[at == len(heldout)] = 0
                seen[at[heldout[at] == values]] = True
    _save(this, unit, heldout[seen])
    return tally.to_json()


def finish(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus, searched: Stage | None) -> dict[str, Any]:
    """Decide every document's side; the marker holds [number, language, side, id, bytes] of each that is left, and
    how many of them have which licence ("": none is known)."""
    tally = Tally.of(config)
    limit = config.split.max_containment
    shared = united(searched) if searched is not None else np.zeros(0, np.uint64)
    placed = []
    for number, document, lang in remaining(unit, before):
        where = side(document, config.split)
        if where == HELDOUT and limit is not None:
            values = hashes(document.text, config.split.ngrams[lang])
            contained = float(np.isin(values, shared, assume_unique=True).mean())
            if contained > limit:
                tally.drop_document(number, document, CONTAINED, containment=round(contained, 4))
                continue
        tally.keep(document.text, f"{lang}/{where}")
        tally.count("licences", document.licence)
        placed.append([number, lang, where, document.id, len(document.text.encode())])
    return {**tally.to_json(), "placed": placed}


def unite(this: Stage, units: Sequence[str]) -> None:
    """Write `all.npy`, the sorted union of all units' arrays, once."""
    if not mirror.fetched(this.folder / _ALL).exists():
        arrays = [np.zeros(0, np.uint64), *(np.load(this.file(unit, ".npy")) for unit in units)]
        with write_file(this.folder / _ALL) as file:
            np.save(file, np.unique(np.concatenate(arrays)))


def united(this: Stage) -> np.ndarray:
    """uint64, sorted: what `unite` wrote, mapped into memory."""
    return np.load(mirror.fetched(this.folder / _ALL), mmap_mode="r")


def _save(this: Stage, unit: Unit, values: np.ndarray) -> None:
    with write_file(this.file(unit, ".npy")) as file:
        np.save(file, values)


STAGE = StageSpec("split", VERSION, lambda config: config.to_json()["split"], run_all=run_all)

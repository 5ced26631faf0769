"""Duplicates, for `corpus_quality.py`: what the deduplication did to pairs of known Jaccard similarity (character 5-grams).

Similarity of the **documents** is that of the texts which the deduplication compares, as they were extracted. Similarity of the **pages** is
that of their reference main texts: pages that differ in a table alone, which extraction leaves out, are one document. Both are exact.

- pairs: documents of .95 and more of which both stay, and the same of pages. Of all pairs of documents that have a 5-gram in common, by
  similarity: how many share a band, so that one goes for the other, beside 1 - (1 - J^rows)^bands, summed over the pairs, and beside the
  spread of that count over bandings with other random hash functions, which `benchmarks/drawn_bandings.py` draws without our own code.
- documents, and pages, that go though no other is like them by .5, among all that none is like.
- planted pairs: how many go for each other, by similarity.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.buckets import Tables
from beam_pipelines.trace import read_chain
from benchmarks import page_truth
from benchmarks.corpus_quality_outcomes import Key, Outcome
from benchmarks.drawn_bandings import drawn_bandings, pairs_in_buckets
from benchmarks.page_truth import Page

ALIKE, UNLIKE = 0.95, 0.5
BINS = 10
DRAWS = 20
Sets = Mapping[Key, np.ndarray]
Pairs = Mapping[tuple[Key, Key], float]


def duplicates(
    pages: Sequence[Page], found: Mapping[Key, Outcome], near: Pairs, sets: Sets, output: Path, bands: int, rows: int
) -> dict[str, Any]:
    """The measures of one build.

    Args:
      pages: the labels.
      found: where each record ended.
      near: all pairs of pages from UNLIKE on, with their similarity.
      sets: n-grams of each page's reference main text.
      output: of the build.
      bands: of the comparison.
      rows: of a band.
    """
    arrived = sorted(key for key, outcome in found.items() if outcome.compared)
    ids = {found[key].id: key for key in arrived}
    documents = {key: page_truth.ngrams(found[key].text) for key in arrived}
    table, close = by_similarity(documents, joined(output, arrived, found), bands, rows)
    unlike = {name: sum(bin[name] for bin in table[: round(UNLIKE * BINS)]) for name in ("pairs", "joined", "expected")}
    of_pages = {pair: similarity for pair, similarity in near.items() if pair[0] in documents and pair[1] in documents}
    return {
        "documents": len(arrived),
        "dropped": sum(_duplicate(found[key]) for key in arrived),
        "pairs_by_similarity": {f"{i / BINS:.1f}": bin for i, bin in enumerate(table)},
        "pairs_unlike": unlike["pairs"],
        "unlike_joined": unlike["joined"],
        "unlike_joined_expected": round(unlike["expected"], 1),
        "unlike_joined_share": round(unlike["joined"] / max(1, unlike["pairs"]), 9),
        "of_documents": _kept_and_dropped(arrived, found, close, documents, ids),
        "of_pages": _kept_and_dropped([p.key for p in pages if p.text and p.key in documents], found, of_pages, documents, ids),
        "planted": _planted(pages, found, documents, sets, ids),
    }


def joined(output: Path, arrived: Sequence[Key], found: Mapping[Key, Outcome]) -> np.ndarray:
    """int64 [pairs, 2], i < j: the pairs of `arrived`, by place in it, that share a band in the files of the stage `minhash`."""
    stages = read_chain(output)
    signed = next(stage for stage in stages if stage.name == "minhash")
    tables = Tables.open(signed, [marker.stem for marker in stages[0].folder.glob("*.json")])
    at = {found[key].place: i for i, key in enumerate(arrived)}
    numbers = [(unit, int(number)) for i, unit in enumerate(tables.units) for number in tables.ranks(i)["number"]]
    places = np.array([at[place] for place in numbers], np.int64)
    entries = [np.load(tables.folder / f"{unit}.npy") for unit in tables.units]
    codes = []
    for band in range(1, len(entries[0])):  # bucket 0 is that of equal texts
        hashes = np.concatenate([part[band]["hash"] for part in entries])
        members = np.concatenate([first + part[band]["row"] for first, part in zip(tables.first, entries, strict=False)])
        codes.append(pairs_in_buckets(hashes, places[members], len(arrived)))
    both = np.unique(np.concatenate(codes))
    return np.stack([both // max(1, len(arrived)), both % max(1, len(arrived))], axis=1)


def by_similarity(documents: Sets, together: np.ndarray, bands: int, rows: int) -> tuple[list[dict[str, Any]], Pairs]:
    """(for each of BINS ranges of similarity: pairs that have an n-gram in common, joined ones, as many as the theory expects and as other
    bandings of the same documents join, with their standard deviation; the pairs from UNLIKE on).

    Args:
      documents: sorted by key.
      together: `joined`.
      bands: of the theory, 1 - (1 - J^rows)^bands (Leskovec, Rajaraman and Ullman 2014, section 3.4.2).
      rows: of a band.
    """
    keys, sets = list(documents), list(documents.values())
    pairs, expected, close, codes, bins = np.zeros(BINS, np.int64), np.zeros(BINS), {}, [], []
    for i, j, similarity in page_truth.sharing_pairs(sets):
        places = np.minimum((similarity * BINS).astype(np.int64), BINS - 1)
        pairs += np.bincount(places, minlength=BINS)
        expected += np.bincount(places, 1 - (1 - similarity**rows) ** bands, minlength=BINS)
        codes.append(i.astype(np.int64) * len(sets) + j)
        bins.append(places)
        near = similarity >= UNLIKE
        found = zip(i[near].tolist(), j[near].tolist(), similarity[near].tolist(), strict=True)
        close.update({(keys[a], keys[b]): value for a, b, value in found})
    every, of = np.concatenate(codes), np.concatenate(bins)
    order = np.argsort(every)
    every, of = every[order], of[order]

    def counted(found: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(every, found), len(every) - 1)
        return np.bincount(np.where(every[at] == found, of[at], 0), minlength=BINS)  # 0: no n-gram in common

    counts = counted(together[:, 0] * len(sets) + together[:, 1])
    drawn = np.array([counted(found) for found in drawn_bandings(sets, bands, rows, DRAWS)])
    return [
        {
            "pairs": int(pairs[i]),
            "joined": int(counts[i]),
            "expected": round(float(expected[i]), 3),
            "drawn_mean": round(float(drawn[:, i].mean()), 2),
            "drawn_deviation": round(float(drawn[:, i].std(ddof=1)), 2),
        }
        for i in range(BINS)
    ], close


def _kept_and_dropped(
    keys: Sequence[Key], found: Mapping[Key, Outcome], near: Pairs, documents: Sets, ids: Mapping[str, Key]
) -> dict[str, Any]:
    """Pairs of which both stay though they are alike, and what goes though nothing is like it, by the similarities `near`."""
    alike = [pair for pair, similarity in near.items() if similarity >= ALIKE]
    missed = [pair for pair in alike if not any(_duplicate(found[key]) for key in pair)]
    neighboured = {key for pair in near for key in pair}
    alone = [key for key in keys if key not in neighboured]
    falsely = [key for key in alone if _duplicate(found[key])]
    return {
        "pairs_alike": len(alike),
        "both_kept": len(missed),
        "both_kept_share": round(len(missed) / max(1, len(alike)), 5),
        "some_both_kept": [[*map(list, pair), round(near[pair], 4)] for pair in missed[:20]],
        "unlike_all": len(alone),
        "unlike_dropped": len(falsely),
        "unlike_dropped_share": round(len(falsely) / max(1, len(alone)), 5),
        # Of the documents that went for each other.
        "unlike_dropped_by_similarity": dict(
            _histogram(_of_documents(documents, key, ids.get(found[key].better)) for key in falsely)
        ),
        "some_unlike_dropped": [[list(key), found[key].reason, list(ids.get(found[key].better, ()))] for key in falsely[:20]],
    }


def _of_documents(documents: Sets, a: Key, b: Key | None) -> float:
    return page_truth.jaccard(documents[a], documents[b]) if b is not None and b in documents else 0.0


def _histogram(values: Iterator[float]) -> list[tuple[str, int]]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[f"{min(int(value * BINS), BINS - 1) / BINS:.1f}"] += 1
    return sorted(counts.items())


def _planted(
    pages: Sequence[Page], found: Mapping[Key, Outcome], documents: Sets, sets: Sets, ids: Mapping[str, Key]
) -> dict[str, Any]:
    """The twin's pairs: [one went for the other, pairs] by similarity of the documents, and those that are unlike by either similarity."""
    curve: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    unlike = {"documents": [0, 0], "pages": [0, 0]}
    for page in pages:
        if page.of is None or page.lost or not page.text or page.key not in documents or page.of not in documents:
            continue
        similarity = page_truth.jaccard(documents[page.key], documents[page.of])
        went = any(_duplicate(found[a]) and ids.get(found[a].better) == b for a, b in ((page.key, page.of), (page.of, page.key)))
        cells = [curve[f"{min(int(similarity * 20), 19) / 20:.2f}"]]
        cells += [unlike["documents"]] * (similarity < UNLIKE)
        cells += [unlike["pages"]] * (page_truth.jaccard(sets[page.key], sets[page.of]) < UNLIKE)
        for cell in cells:
            cell[0] += went
            cell[1] += 1
    return {
        "by_similarity": dict(sorted(curve.items())),
        **{f"unlike_{name}": count for name, (_, count) in unlike.items()},
        **{f"unlike_{name}_dropped": went for name, (went, _) in unlike.items()},
        "unlike_dropped_share": round(unlike["documents"][0] / max(1, unlike["documents"][1]), 5),
    }


def _duplicate(outcome: Outcome) -> bool:
    return outcome.stage == "dedup"

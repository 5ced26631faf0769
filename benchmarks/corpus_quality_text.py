"""Extracted beside reference main texts, for `corpus_quality.py`: shares of character 5-grams (sets, without white space).

- by label: the shares of extracted and reference text that the other has too. A page in another charset is also compared with its own
  undamaged page: is it the same text?
- of the Japanese pages as they are: F1 with the whole reference, with the reference outside tables (which the job leaves out by its
  setting), and the same of what trafilatura gives by itself with the setting, from the same bytes.
"""

import logging
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import http
from benchmarks import page_truth
from benchmarks.corpus_quality_outcomes import Key, Outcome
from benchmarks.page_truth import Page

LEAST = 50  # 5-grams of a reference that says something


def shares(text: str, reference: np.ndarray) -> tuple[float, float]:
    """(precision, recall): of the text's 5-grams, how many the reference has; of the reference's, how many the text has."""
    grams = page_truth.ngrams(text)
    both = page_truth.shared(grams, reference)
    return both / len(grams), both / len(reference)


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 of nothing."""
    return 2 * precision * recall / max(precision + recall, 1e-9)


def text_similarity(pages: Sequence[Page], found: Mapping[Key, Outcome], sets: Mapping[Key, np.ndarray]) -> dict[str, Any]:
    """Shares of the reference's and of the extracted text's 5-grams that the other has, by label and content."""
    groups, same = defaultdict(list), defaultdict(list)
    for page in pages:
        outcome = found.get(page.key)
        if outcome is None or not outcome.id or not page.content or len(sets[page.key]) < LEAST:
            continue
        groups[f"{page.label} [{page.content}]"].append(shares(outcome.text, sets[page.key]))
        original = found.get(page.of) if page.of else None
        if original is not None and original.id:
            same[f"{page.label} [{page.content}]"].append(page_truth.squeeze(original.text) == page_truth.squeeze(outcome.text))
    table = {}
    for name, found_shares in sorted(groups.items()):
        precision, recall = zip(*found_shares, strict=True)
        both = [f1(*entry) for entry in found_shares]
        table[name] = {
            "pages": len(both),
            "median_precision": round(statistics.median(precision), 4),
            "median_recall": round(statistics.median(recall), 4),
            "median_f1": round(statistics.median(both), 4),
            "share_f1_from_0.8": round(statistics.fmean(value >= 0.8 for value in both), 4),
            "same_as_undamaged": round(statistics.fmean(same[name]), 4) if same[name] else None,
        }
    return table


def main_texts(warcs: Sequence[Path], originals: Sequence[Page], found: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Median F1 of the Japanese HTML pages that the job made documents of, ours and trafilatura's own, by reference.

    Args:
      warcs: files of the collection.
      originals: their pages, with `prose`.
      found: where each ended.
    """
    import trafilatura

    wanted = {page.key: page for page in originals if page.content == "ja" and page.label == "text/html"}
    scores: dict[str, list[float]] = defaultdict(list)
    own = 0
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # trafilatura tells of each page that it can't read
    for path in warcs:
        for record in page_truth.responses(path):
            key = path.name, record.offset
            page, outcome = wanted.get(key), found.get(key)
            if page is None or outcome is None or not outcome.id:
                continue
            references = {"whole": page_truth.ngrams(page.text), "outside tables": page_truth.ngrams(page.prose)}
            if min(map(len, references.values())) < LEAST:
                continue
            html = http.decoded_body(http.parse_response(record.block), 10_000_000).decode("utf-8", "replace")
            theirs = trafilatura.extract(html, include_comments=False, include_tables=False) or ""
            own += bool(theirs)
            for name, reference in references.items():
                scores[f"ours, {name}"].append(f1(*shares(outcome.text, reference)))
                scores[f"trafilatura, {name}"].append(f1(*shares(theirs, reference)) if theirs else 0.0)
    logging.disable(disabled)
    medians = {name: round(statistics.median(values), 4) for name, values in scores.items()}
    return {"pages": len(scores["ours, whole"]), "with a text of trafilatura's": own, "median_f1": medians}

"""The tables of docs/corpus.md from benchmarks/results/corpus_quality.json; `python -m benchmarks.readme_tables` puts them there."""

from collections import Counter
from typing import Any

from benchmarks import damaged_twin

_SETS = {"debian_docs": "Debian's documentation and its damaged twin", "labelled": "labelled WARC set"}
_FIGURES = {
    "unaccounted": ("records without a place", "{:.0f}", "{:.0f}"),
    "alike_both_kept": ("pairs of Jaccard ≥ .95, both kept", "{:.2%}", "≤ {:.0%}"),
    "unlike_joined": ("pairs of Jaccard < .5 with a 5-gram in common, taken for duplicates", "{:.5%}", "≤ {:.1%}"),
    "unlike_dropped": ("documents dropped as duplicates though no other is ≥ .5 alike", "{:.2%}", "≤ {:.1%}"),
    "planted_unlike_dropped": ("planted pairs of Jaccard < .5, one dropped for the other", "{:.2%}", "≤ {:.1%}"),
    "language_precision": ("language, precision", "{:.4f}", "≥ {}"),
    "language_recall": ("language, recall", "{:.4f}", "≥ {}"),
}


def table(value: dict[str, Any]) -> str:
    """Bounded figures, then pairs by similarity, then what became of each kind of damage, then similarity of texts."""
    if value["twin"]["version"] != damaged_twin.VERSION:
        return "The figures are of an earlier version of the damaged twin: `python -m benchmarks.corpus_quality` measures them anew.\n"
    return "\n\n".join([bounded(value), pairs(value), pages(value), damages(value), texts(value), main_texts(value)])


def bounded(value: dict[str, Any]) -> str:
    """Each figure beside its bound, for every build."""
    builds = _builds(value)
    lines = [
        f"| | bound | {' | '.join(f'{_SETS[name]}, {preset}' for name, preset in builds)} |",
        "|---|---|" + "---|" * len(builds),
    ]
    for figure, (words, form, bound) in _FIGURES.items():
        cells = []
        for name, preset in builds:
            number = form.format(value["figures"][name][preset][figure])
            cells.append(f"{number}{_of(value[name][preset], figure)}" if value["met"][name][preset][figure] else f"**{number}**")
        lines.append(f"| {words} | {bound.format(value['bounds'][figure])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _builds(value: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, preset) for name in _SETS if name in value["figures"] for preset in value["figures"][name]]


def pairs(value: dict[str, Any]) -> str:
    """Pairs of documents by similarity: joined, expected by the theory, and the spread of the count over other hash functions."""
    builds = _builds(value)
    lines = [
        f"| pairs by Jaccard similarity: taken for duplicates of all (expected ± deviation over drawn bandings) | {' | '.join(f'{_SETS[n]}, {p}' for n, p in builds)} |",
        "|---|" + "---|" * len(builds),
    ]
    tables = [value[name][preset]["duplicates"]["pairs_by_similarity"] for name, preset in builds]
    for low in tables[0]:
        cells = [
            f"{t[low]['joined']:,} of {t[low]['pairs']:,} ({t[low]['expected']:,.1f} ± {t[low]['drawn_deviation']:,.1f})"
            for t in tables
        ]
        lines.append(f"| {low.lstrip('0') or '0'} to {float(low) + 0.1:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pages(value: dict[str, Any]) -> str:
    """What is known besides the bounded figures: pages that are unlike while their documents are alike, and languages by the extracted text."""
    rows: dict[str, list[str]] = {}
    for name, preset in _builds(value):
        part = value[name][preset]
        unlike, planted, lang = part["duplicates"]["of_pages"], part["duplicates"]["planted"], part["language"]
        for words, cell in (
            (
                "pages dropped as duplicates though no other's reference text is ≥ .5 alike",
                f"{unlike['unlike_dropped']:,} of {unlike['unlike_all']:,}",
            ),
            (
                "of these, extracted texts ≥ .5 alike",
                f"{sum(n for low, n in unlike['unlike_dropped_by_similarity'].items() if float(low) >= 0.5):,}",
            ),
            (
                "planted pairs whose reference texts are < .5 alike, one dropped for the other",
                f"{planted['unlike_pages_dropped']} of {planted['unlike_pages']}",
            ),
            (
                "pages taken for Japanese wrongly, by what their extracted text is",
                _told(lang["taken_for_japanese_by_content_of_text"]),
            ),
            ("Japanese pages missed, by what their extracted text is", _told(lang["missed_by_content_of_text"])),
        ):
            rows.setdefault(words, []).append(cell)
    heads = " | ".join(f"{_SETS[n]}, {p}" for n, p in _builds(value))
    return "\n".join(
        [
            f"| not bounded | {heads} |",
            "|---|" + "---|" * len(_builds(value)),
            *(f"| {w} | {' | '.join(c)} |" for w, c in rows.items()),
        ]
    )


def _told(counts: dict[str, int]) -> str:
    return (
        ", ".join(f"{content or 'too short'} {n}" for content, n in sorted(counts.items(), key=lambda entry: -entry[1])) or "none"
    )


def _of(part: dict[str, Any], figure: str) -> str:
    """How many it was counted on."""
    duplicates, language = part["duplicates"], part["language"]
    counts = {
        "unaccounted": part["losses"]["records"],
        "alike_both_kept": duplicates["of_pages"]["pairs_alike"],
        "unlike_joined": duplicates["pairs_unlike"],
        "unlike_dropped": duplicates["of_documents"]["unlike_all"],
        "planted_unlike_dropped": duplicates["planted"]["unlike_documents"],
        "language_precision": language["pages"],
        "language_recall": language["japanese"],
    }
    return f" of {counts[figure]:,}"


def damages(value: dict[str, Any]) -> str:
    """Where the damaged twin's records ended under swallow_v2."""
    part = value["debian_docs"]["swallow_v2"]
    lines = ["| what was done to the page (swallow_v2) | records | became documents | others |", "|---|---|---|---|"]
    for label, counts in part["losses"]["by_label"].items():
        if label.startswith(("text/", "application/", "scattered", "a stretch")):  # the undamaged ones, and the planted pairs
            continue
        lost = Counter({place: n for place, n in counts.items() if place.startswith(("extract", "in a", "UN"))})
        rest = ", ".join(f"{place.removeprefix('extract: ')} {n}" for place, n in lost.most_common())
        total = sum(counts.values())
        lines.append(f"| {label} | {total} | {total - lost.total()} | {rest} |")
    return "\n".join(lines)


def texts(value: dict[str, Any]) -> str:
    """Extracted beside reference main text."""
    lines = [
        "| extracted text beside the reference main text (medians over pages) | pages | precision | recall | F1 | same text as the undamaged page |",
        "|---|---|---|---|---|---|",
    ]
    for name in (name for name in _SETS if name in value["figures"]):
        for label, found in value[name]["swallow_v2"]["text"].items():
            if found["pages"] < 20 or label.startswith(("scattered", "a stretch", "edit_")):
                continue
            same = "" if found["same_as_undamaged"] is None else f"{found['same_as_undamaged']:.1%}"
            cells = " | ".join(f"{found[key]:.3f}" for key in ("median_precision", "median_recall", "median_f1"))
            lines.append(f"| {label}{' (labelled set)' if name == 'labelled' else ''} | {found['pages']:,} | {cells} | {same} |")
    return "\n".join(lines)


def main_texts(value: dict[str, Any]) -> str:
    """F1 of ours and of trafilatura's own, by reference."""
    found, medians = value["main_text"], value["main_text"]["median_f1"]
    lines = [
        f"| {found['pages']:,} Japanese HTML pages, median F1 | with the reference main text | with the reference outside tables |",
        "|---|---|---|",
    ]
    for name, words in (("ours", "swallow_v2"), ("trafilatura", "trafilatura alone, same setting (no comments, no tables)")):
        lines.append(f"| {words} | {medians[f'{name}, whole']:.3f} | {medians[f'{name}, outside tables']:.3f} |")
    return "\n".join(lines)

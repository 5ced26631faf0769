"""The tables of docs/corpus.md from benchmarks/results/corpus_quality.json; `python -m benchmarks.readme_tables` puts them there."""

from collections import Counter
from typing import Any

_SETS = {"debian_docs": "Debian's documentation and its damaged twin", "labelled": "labelled WARC set"}
_FIGURES = {
    "unaccounted": ("records without a place", "{:.0f}", "{:.0f}"),
    "alike_both_kept": ("pairs of Jaccard ≥ .95, both kept", "{:.2%}", "≤ {:.0%}"),
    "unlike_dropped": ("dropped as duplicates though no other is ≥ .5 alike", "{:.2%}", "≤ {:.1%}"),
    "language_precision": ("language, precision", "{:.4f}", "≥ {}"),
    "language_recall": ("language, recall", "{:.4f}", "≥ {}"),
}


def table(value: dict[str, Any]) -> str:
    """Bounded figures, then what became of each kind of damage, then similarity of texts."""
    return "\n\n".join([bounded(value), damages(value), texts(value)])


def bounded(value: dict[str, Any]) -> str:
    """Each figure beside its bound, for every build."""
    builds = [(name, preset) for name in _SETS if name in value["figures"] for preset in value["figures"][name]]
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


def _of(part: dict[str, Any], figure: str) -> str:
    """How many it was counted on."""
    duplicates, language = part["duplicates"], part["language"]
    counts = {
        "unaccounted": part["losses"]["records"],
        "alike_both_kept": duplicates["pairs_alike"],
        "unlike_dropped": duplicates["documents_unlike_all"],
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

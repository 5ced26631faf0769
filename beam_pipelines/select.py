"""Stages 5 and 6: measure every remaining document once, then decide by thresholds.

Measuring writes `<unit>.jsonl` (a line a document: its statistics, or null if it was dropped before); deciding reads it,
so that a changed threshold repeats nothing but the decision. The marker of the decision holds the kept documents' numbers.
"""

import json
from collections.abc import Iterator
from typing import Any

from beam_pipelines import dedup, filters_en, filters_ja, rules
from beam_pipelines.config import Corpus
from beam_pipelines.extract import read_unit
from beam_pipelines.language import read_languages
from beam_pipelines.workspace import Stage, Tally, Unit, write_file
from ja_llm.documents import Document

VERSIONS = [filters_ja.VERSION, filters_en.VERSION]
_MEASURE = {"ja": filters_ja.measure, "en": filters_en.measure}


def remaining(
    unit: Unit, extracted: Stage, languages: Stage, deduplicated: Stage, config: Corpus
) -> Iterator[tuple[int, Document, str | None]]:
    """(number, document, language) of a unit's documents; the language is None if the document was dropped before."""
    duplicates = dedup.duplicates_of(deduplicated, unit)
    for number, (document, lang) in enumerate(zip(read_unit(extracted, unit), read_languages(languages, unit), strict=True)):
        yield number, document, lang if lang in config.languages and number not in duplicates else None


def measure(unit: Unit, this: Stage, extracted: Stage, languages: Stage, deduplicated: Stage, config: Corpus) -> dict[str, Any]:
    """Measure the documents of one unit that are neither duplicates nor in another language."""
    tally = Tally(0, 0, config.seed)
    with write_file(this.file(unit, ".jsonl")) as file:
        for _, document, lang in remaining(unit, extracted, languages, deduplicated, config):
            statistics = _MEASURE[lang](document.text) if lang else None
            if lang:
                tally.keep(len(document.text), lang)
            file.write(json.dumps(statistics).encode() + b"\n")
    return tally.to_json()


def decide(
    unit: Unit, this: Stage, extracted: Stage, languages: Stage, deduplicated: Stage, measured: Stage, config: Corpus
) -> dict[str, Any]:
    """Apply the thresholds to one unit's statistics."""
    thresholds = {"ja": config.japanese, "en": config.english}
    tally = Tally(config.samples, config.sample_characters, config.seed)
    kept: list[tuple[int, str]] = []
    all_reasons: dict[str, int] = {}
    with open(measured.file(unit, ".jsonl"), encoding="utf-8") as lines:
        for line, (number, document, lang) in zip(
            lines, remaining(unit, extracted, languages, deduplicated, config), strict=True
        ):
            if lang is None:
                continue
            statistics = json.loads(line)
            broken = rules.failures(statistics, thresholds[lang], lang)
            for reason in broken:
                all_reasons[reason] = all_reasons.get(reason, 0) + 1
            if broken:
                values = {key: round(value, 4) for key, value in statistics.items()}
                tally.drop(
                    broken[0], document.id, document.text, id=document.id, url=document.url, all_reasons=broken, statistics=values
                )
            else:
                tally.keep(len(document.text), lang)
                kept.append((number, lang))
    return {**tally.to_json(), "kept_numbers": kept, "all_reasons": all_reasons}

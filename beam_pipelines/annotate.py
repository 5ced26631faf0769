"""Every statistic of a document, measured once; `select` decides by thresholds as often as they change."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from beam_pipelines import expressions, filters_en, filters_ja
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining, write_annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit

VERSION = 1


def measure(text: str, lang: str, config: Corpus) -> dict[str, float]:
    """The statistics of a text in its language; a language without statistics of its own has none."""
    if lang == "ja":
        return filters_ja.measure(text, config.statistics) | expressions.measure(text, config.expressions)
    return filters_en.measure(text) if lang == "en" else {}


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Measure the documents of one unit."""
    tally = Tally.of(config)

    def measured() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document, lang in remaining(unit, before):
            tally.keep(document.text, lang)
            yield number, measure(document.text, lang, config)

    write_annotations(this, unit, measured())
    return tally.to_json()


STAGE = StageSpec(
    "annotate",
    VERSION,
    lambda config: [
        filters_ja.VERSION,
        filters_en.VERSION,
        dataclasses.asdict(config.statistics),
        expressions.values(config.expressions),
    ],
    run,
    files=lambda config: expressions.files(config.expressions),
    packages=expressions.PACKAGES,
    drops=False,
)

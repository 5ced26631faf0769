"""Every statistic of a document, measured once; `select` decides by thresholds as often as they change."""

from collections.abc import Iterator, Sequence
from typing import Any

from beam_pipelines import expressions, filters_en, filters_ja
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining, write_annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit

VERSION = 1
MEASURE = {"ja": filters_ja.measure, "en": filters_en.measure}


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Measure the documents of one unit; a language without statistics of its own has none."""
    tally = Tally.of(config)

    def measured() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document, lang in remaining(unit, before):
            tally.keep(document.text, lang)
            statistics = MEASURE[lang](document.text) if lang in MEASURE else {}
            if lang == "ja":
                statistics |= expressions.measure(document.text, config.expressions)
            yield number, statistics

    write_annotations(this, unit, measured())
    return tally.to_json()


STAGE = StageSpec(
    "annotate",
    VERSION,
    lambda config: [filters_ja.VERSION, filters_en.VERSION, expressions.values(config.expressions)],
    run,
    files=lambda config: expressions.files(config.expressions),
    packages=expressions.PACKAGES,
    drops=False,
)

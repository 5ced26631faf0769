"""Histograms of what the chain's stages said of each document, of those too that were dropped later.

A pass over the stages' annotations, unit by unit, that opens no document.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.card.summary import Histograms
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import LANGUAGE, annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, stage

NAME, VERSION = "scores", 1
_LIGHT = 100_000  # documents whose annotations this process reads in some seconds, the time that a worker takes to start


def collect(
    work: Path, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution
) -> tuple[Stage, Histograms]:
    """(the stage's files, the histograms of the whole); units that were counted before are not read again."""
    this = stage(work, NAME, VERSION, None, before[-1:])
    light = execution.documents is not None and execution.documents < _LIGHT
    run_units(this, units, count, (list(before), config), execution, light=light)
    whole = Histograms()
    for unit in units:
        whole.merge(this.result(unit)["scores"])
    return this, whole


def count(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Count one unit's annotations by language; the language stage's own are only looked up."""
    histograms = Histograms()
    identified = next((s for s in before if s.name == LANGUAGE), None)
    languages = {number: values["lang"] for number, values in annotations(unit, identified)} if identified else {}
    for other in before:
        if other is not identified and other.file(unit, ".jsonl").exists():
            for number, values in annotations(unit, other):
                lang = languages.get(number, "")
                if not identified or lang in config.languages:
                    histograms.add(lang, {name: v for name, v in values.items() if not isinstance(v, bool | str)})
    return {**Tally.of(config).to_json(), "scores": histograms.to_json()}

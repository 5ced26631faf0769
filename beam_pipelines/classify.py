"""Score every document by text classifiers; `top_share` cuts by the scores of those that survive the rules.

Swallow v2's way (its page): fastText trained on academic articles of Wikipedia against crawled pages, on CPUs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from beam_pipelines import classifier
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining, write_annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm.errors import UsageError

VERSION = 1


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Score one unit's documents; annotates {name of the model: score}."""
    tally = Tally.of(config)
    settings = config.classify
    worth = tuple(sorted(settings.label_values.items()))
    models = {name: classifier.load(path, worth) for name, path in sorted(settings.models.items())}

    def scored() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document, lang in remaining(unit, before):
            tally.keep(document.text, lang)
            if lang in settings.languages:
                yield number, {name: model.score(document.text) for name, model in models.items()}

    write_annotations(this, unit, scored())
    return tally.to_json()


def _values(config: Corpus) -> list[Any]:
    settings = config.classify
    return [sorted(settings.models), dict(settings.label_values), list(settings.languages)]


def _files(config: Corpus) -> dict[str, str]:
    if not config.classify.models:
        raise UsageError(
            "the stage 'classify' has no model: bind corpus.Classify.models = {'NAME': 'PATH.bin'}, or take the stage out."
        )
    return {path: f"{name} {classifier.identity(path)}" for name, path in sorted(config.classify.models.items())}


STAGE = StageSpec("classify", VERSION, _values, run, files=_files, packages=classifier.PACKAGES, drops=False)

"""Decide by thresholds on what `annotate` measured: a changed threshold repeats nothing but this and what follows."""

from collections.abc import Sequence
from typing import Any

from beam_pipelines import expressions, rules
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import remaining_with
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit

VERSION = 1


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Apply the thresholds to one unit's statistics; a document is dropped for the first rule that it breaks."""
    thresholds = {"ja": config.japanese, "en": config.english}
    tally = Tally.of(config)
    for number, document, lang, statistics in remaining_with(unit, before, "annotate"):
        broken = rules.failures(statistics, thresholds[lang], lang) if lang in thresholds else []
        broken += expressions.failures(statistics, config.expressions, lang)
        for reason in broken:
            tally.count("broken_rules", reason)
        if broken:
            values = {key: round(value, 4) for key, value in statistics.items()}
            tally.drop_document(number, document, broken[0], all_reasons=broken, statistics=values)
        else:
            tally.keep(document.text, lang)
    return tally.to_json()


STAGE = StageSpec(
    "select",
    VERSION,
    lambda config: [*(config.to_json()[name] for name in ("japanese", "english")), config.expressions.ng_share_from],
    run,
    needs=("annotate",),
    light=True,
)

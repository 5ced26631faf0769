"""Copy annotations into the documents' metadata, for what comes after the corpus: sampling by cluster size or by score.

The final set says of each document what `corpus.Corpus.carried` names, e.g. meta["classify.education"] = 0.93. Every document
is written once more for it, so the stage stands last before `split`, where the fewest are left.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.stage_files import annotations, by_number, changed_documents, find, remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm.documents import meta_json

VERSION = 1


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Write one unit's documents with what was said of them; a value that a document has not is left out."""
    tally = Tally.of(config)
    wanted = [(name, *name.split(".", 1)) for name in config.carried]
    tables = {stage: by_number(annotations(unit, find(before, stage))) for _, stage, _ in wanted}
    with changed_documents(this, unit) as changed:
        for number, document, lang in remaining(unit, before):
            said = {stage: at(number) or {} for stage, at in tables.items()}
            values = {name: said[stage][key] for name, stage, key in wanted if key in said[stage]}
            meta = meta_json(**{**json.loads(document.meta), **values})
            changed.write(number, dataclasses.replace(document, meta=meta))
            tally.keep(document.text, lang)
    return {**tally.to_json(), "changed": changed.places}


STAGE = StageSpec("carry", VERSION, lambda config: list(config.carried), run, drops=False)

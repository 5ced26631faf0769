"""The stages that a preset can name in `corpus.Corpus.stages`. A new one is a module of its own and a line here."""

from beam_pipelines import annotate, decontaminate, dedup, extract, hosts, language, minhash, modify, select, split
from beam_pipelines.chain import StageSpec

_MODULES = (extract, language, minhash, dedup, annotate, select, modify, hosts, decontaminate, split)

STAGES: dict[str, StageSpec] = {module.STAGE.name: module.STAGE for module in _MODULES}

"""The stages that a preset can name in `corpus.Corpus.stages`. A new one is a module of its own and a line here."""

from beam_pipelines import annotate, dedup, extract, language, lines, minhash, select, split
from beam_pipelines.chain import StageSpec

_MODULES = (extract, language, minhash, dedup, lines, annotate, select, split)

STAGES: dict[str, StageSpec] = {
    spec.name: spec for spec in (dedup.URL_STAGE, dedup.EXACT_STAGE, *(module.STAGE for module in _MODULES))
}

"""The stages that a preset can name in `corpus.Corpus.stages`. A new one is a module of its own and a line here."""

from beam_pipelines import annotate, dedup, extract, language, lines, minhash, select, split
from beam_pipelines.chain import StageSpec

_SPECS = (
    extract.STAGE,
    language.STAGE,
    dedup.URL_STAGE,
    dedup.EXACT_STAGE,
    minhash.STAGE,
    dedup.STAGE,
    lines.STAGE,
    annotate.STAGE,
    select.STAGE,
    split.STAGE,
)

STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _SPECS}

"""The stages that a preset can name in `corpus.Corpus.stages`. A new one is a module of its own and a line here."""

from beam_pipelines import (
    annotate,
    carry,
    classify,
    decontaminate,
    dedup,
    exact_dedup,
    extract,
    host_cap,
    hosts,
    language,
    lines,
    minhash,
    modify,
    select,
    split,
    top_share,
    url_dedup,
)
from beam_pipelines.chain import StageSpec

_MODULES = (
    extract,
    language,
    url_dedup,
    exact_dedup,
    minhash,
    dedup,
    lines,
    annotate,
    classify,
    select,
    top_share,
    modify,
    hosts,
    host_cap,
    decontaminate,
    carry,
    split,
)

STAGES: dict[str, StageSpec] = {module.STAGE.name: module.STAGE for module in _MODULES}

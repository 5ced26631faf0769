"""The stages that a preset can name in `corpus.Corpus.stages`. A new one is a module of its own and a line here, or, outside of this
package, a call of `register` in a module that is imported by `--module` or by gin's `import` (docs/corpus.md)."""

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
from ja_llm.errors import UsageError

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


def register(spec: StageSpec) -> None:
    """Make a stage known by its name. Its `run` must be a function of a module that every worker can import.

    Raises:
      UsageError: another stage has this name.
    """
    there = STAGES.get(spec.name)
    if there is not None and _origin(there) != _origin(spec):
        raise UsageError(f"a corpus stage named {spec.name!r} is there already ({_origin(there)[0]}); choose another name.")
    STAGES[spec.name] = spec


def _origin(spec: StageSpec) -> tuple[str, str]:
    """(module, name) of the function that it runs: a module may be imported twice."""
    function = spec.run or spec.run_all
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")

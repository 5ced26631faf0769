"""The chain of stages: a preset's list of names, walked from the first to the last.

A stage is a module that ends in `STAGE = StageSpec(...)`; `beam_pipelines/stages.py` lists the modules. What a stage may
do to a document and how it reads what is left of them: `stage_files.py`. A stage's key hashes its own values and the
stage before it, so that a changed value repeats that stage and those after it, and no other.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.config import Corpus
from beam_pipelines.tally import records_in, sampling
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, stage
from ja_llm import manifest, progress
from ja_llm.errors import UsageError

FIRST, LAST = "extract", "split"


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One kind of stage.

    Attributes:
      name: in `corpus.Corpus.stages`, in the yields and of its folder.
      version: changes when its code gives other results for equal values.
      values: the values of the configuration that decide its result (JSON types).
      run: `run(unit, this, before, config) -> result` for one unit on a worker, `result` being `Tally.to_json()` and what
        else its readers need. Give this, or
      run_all: `run_all(this, units, before, config, execution)` for a stage over the whole corpus; it finishes every unit
        (`Stage.finish`). Its key hashes the input files too.
      files: files beside the input that it reads, by the name that the configuration gives, with a digest of their contents; called
        before anything runs, so that a path that is wrong is told at once.
      packages: distributions whose versions decide its result; a function of the configuration where that decides which do.
      needs: stages that must stand somewhere before it.
      notices: what the configuration leaves out that one would expect of the stage, a sentence each; said when a run begins, in the
        manifest and on the data card.
      drops: whether it can drop or modify documents; one that only signs or measures is not in the table of yields.
      light: it only looks up what stages before it wrote, and is run in this process without Beam.
      close: called with the configuration in this process when the stage has run.
    """

    name: str
    version: int
    values: Callable[[Corpus], Any]
    run: Callable[[Unit, Stage, Sequence[Stage], Corpus], dict[str, Any]] | None = None
    run_all: Callable[[Stage, Sequence[Unit], Sequence[Stage], Corpus, Execution], None] | None = None
    files: Callable[[Corpus], dict[str, str]] | None = None
    packages: tuple[str, ...] | Callable[[Corpus], tuple[str, ...]] = ()
    needs: tuple[str, ...] = ()
    notices: Callable[[Corpus], list[str]] | None = None
    drops: bool = True
    light: bool = False
    close: Callable[[Corpus], None] | None = None

    def packages_of(self, config: Corpus) -> tuple[str, ...]:
        """The distributions whose versions decide its result with this configuration."""
        return self.packages(config) if callable(self.packages) else self.packages


def specs(config: Corpus) -> list[StageSpec]:
    """The stages of the configuration, in its order.

    Raises:
      UsageError: an unknown name, one named twice, or a stage before another that it needs.
    """
    from beam_pipelines.stages import STAGES

    names = list(config.stages)
    if unknown := [name for name in names if name not in STAGES]:
        raise UsageError(
            f"corpus.Corpus.stages names {unknown[0]!r}; the stages are {', '.join(STAGES)}; --module imports a stage of your own."
        )
    if names[:1] != [FIRST] or names[-1:] != [LAST]:
        raise UsageError(
            f"corpus.Corpus.stages = {names}: the first must be {FIRST!r} and the last {LAST!r}; change this binding."
        )
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"corpus.Corpus.stages names {name!r} twice; take one out.")
        for needed in STAGES[name].needs:
            if needed not in names[:place]:
                raise UsageError(f"corpus.Corpus.stages has {name!r} without {needed!r} before it; put it there.")
    return [STAGES[name] for name in names]


def packages(config: Corpus) -> tuple[str, ...]:
    """The distributions whose versions decide the set."""
    return ("apache-beam", "numpy", *(name for spec in specs(config) for name in spec.packages_of(config)))


def side_files(config: Corpus) -> dict[str, str]:
    """Digests of the files beside the input that the stages read: what of them decides the set.

    Raises:
      UsageError: one does not exist, or is not what its stage needs.
      JaLlmError: one can't be read.
    """
    return {name: digest for spec in specs(config) if spec.files for name, digest in spec.files(config).items()}


def notices(config: Corpus) -> list[str]:
    """What the stages have to say of the configuration before anything runs: a sentence each."""
    return [notice for spec in specs(config) if spec.notices for notice in spec.notices(config)]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A chain that was walked to its end: the stages' files, and how many records each of them processed in this run."""

    specs: list[StageSpec]
    stages: list[Stage]
    processed: dict[str, int]


def stages_of(config: Corpus, units: Sequence[Unit], work: Path) -> list[Stage]:
    """The folders that the chain's stages have for these inputs and values; nothing is run.

    Raises:
      UsageError: as `specs`.
    """
    found: list[Stage] = []
    for spec in specs(config):
        deciding = spec.packages_of(config)
        values = [spec.values(config), manifest.software(*deciding) if deciding else None]
        if spec.files:
            values.append(sorted(spec.files(config).values()))
        if not found:
            values.append(list(sampling(config)))  # every marker holds samples
        if spec.run_all:
            values.append(sorted(unit.key for unit in units))
        found.append(stage(work, spec.name, spec.version, values, found[-1:]))
    return found


def walk(config: Corpus, units: Sequence[Unit], work: Path, execution: Execution) -> Finished:
    """Run every stage over the units that it has not finished.

    Raises:
      UsageError: as `specs`.
      JaLlmError: the disk is full, or a unit could not be processed for a reason that a user can mend.
    """
    wanted, stages = specs(config), stages_of(config, units, work)
    processed: dict[str, int] = {}
    for place, (spec, this) in enumerate(zip(wanted, stages, strict=True)):
        processed[spec.name] = _run(spec, this, units, stages[:place], config, execution)
        if not place:
            execution = dataclasses.replace(execution, documents=sum(len(this.result(unit)["offsets"]) for unit in units))
    return Finished(wanted, stages, processed)


def _run(
    spec: StageSpec, this: Stage, units: Sequence[Unit], before: Sequence[Stage], config: Corpus, execution: Execution
) -> int:
    """Run one stage; returns the records that it processed now."""
    pending = [unit for unit in units if not this.whole(unit)]
    if not pending:
        return 0
    this.folder.mkdir(parents=True, exist_ok=True)
    if spec.run_all:
        spec.run_all(this, units, list(before), config, execution)
        pending = list(units)
    elif spec.run:
        run_units(this, units, spec.run, (list(before), config), execution, light=spec.light)
    if spec.close:
        spec.close(config)
    return sum(records_in(this.result(unit)) for unit in pending)


def say_processed(finished: Finished) -> None:
    """One line on stderr: the records that each stage processed in this run, 0 for what was there already."""
    if progress.quiet():
        return
    told = ", ".join(f"{name} {count}" for name, count in finished.processed.items())
    print(f"records processed in this run: {told}", file=sys.stderr)

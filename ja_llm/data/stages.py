"""Stages: other mixtures from other steps on, each a cache of its own; and what all of them together read of each source.

A member that two stages share (the same store, cut into the same rows) goes on in the later stage where the earlier one had come to,
so that a document comes again only after all others have.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from ja_llm.data.batches import Batch, BatchSource, ReadAhead
from ja_llm.data.mixing import MIXING
from ja_llm.data.rates import Rule, check_rates
from ja_llm.data.schedule import DataSchedule, Position
from ja_llm.errors import UsageError
from ja_llm.files import local_path


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stage:
    """From `from_step` on read the mixture in `cache_dir` (output of `ja-llm cache`).

    Attributes:
      cache_dir: the cache.
      from_step: the training step that reads it first, 1 or more.
      mixture_or_task_name: the name that the cache was made for, which is checked; None takes any.
      rates: other shares than the cache's, as RATES.
    """

    cache_dir: str
    from_step: int
    mixture_or_task_name: str | None = None
    rates: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.cache_dir, str | os.PathLike) or not str(self.cache_dir):
            raise UsageError(f"Stage.cache_dir is {self.cache_dir!r}; give a folder that `ja-llm cache` wrote.")
        if not isinstance(self.from_step, int) or isinstance(self.from_step, bool) or self.from_step < 1:
            raise UsageError(f"Stage.from_step is {self.from_step!r}; give a whole number of 1 or more.")
        check_rates("Stage.rates", self.rates)


def check_begins(mixture: str, stages: Sequence[Stage], steps: int) -> None:
    """Refuse a stage that a run never comes to.

    Args:
      mixture: of the first stage.
      stages: the later ones.
      steps: training steps in all.

    Raises:
      UsageError: the first such stage, where it would begin, and where the run ends.
    """
    for number, stage in enumerate(stages, 2):
        if stage.from_step >= steps:
            name = stage.mixture_or_task_name
            of = f"{name} in {stage.cache_dir}" if name else stage.cache_dir
            raise UsageError(
                f"stage {number} of this run ({of}) begins at step {stage.from_step}, but the last step of its {steps} is {steps - 1}, so that nothing but "
                f"{mixture if number == 2 else 'what comes before'} would be learnt; raise TRAIN_STEPS, let the stage begin earlier, or leave it out."
            )


class StagedBatches:
    """Batches of a run by its training steps.

    Args:
      cache_dir: cache of the first stage.
      stages: the later ones, in order.
      length: tokens in a row.
      batch_size: rows in the global batch.
      seed: decides the order of rows.
      packing: see `BatchSource`.
      stored: the run's own schedule, of its ledger; what it has read or skipped stays.
      from_step: the step that the run goes on from; later stages may still be changed.
      mixing: see `BatchSource`; None: the stored schedule's, that of new runs where there is none.
      rates: of the first stage; see `BatchSource`.
      steps: training steps in all, for rules of rates that depend on how much is read.
      subset_tokens: see `BatchSource`; of tasks of the first stage, in every stage that has them.
      repeat_filter: see `BatchSource`; in every stage.

    Attributes:
      repeat_filter: as given.
      schedule: the data schedule in force.
      fingerprint: of the first stage's data. Later stages stand in the schedule: they may be added while a run goes on.
      licences: {licence: documents} of all stages.
      contents: of each stage {"from_step", "shares": {task: share of the training tokens}, "row_tokens": {task: how many of a row's tokens are
        of it, on average}, "documents": {set: fingerprint}}.

    Raises:
      UsageError: stages are not in order, are of another vocabulary, or differ from what the run has read already, or a part of a task is
        asked for that the first stage has not.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        stages: Sequence[Stage] = (),
        *,
        length: int,
        batch_size: int,
        seed: int,
        packing: str = "concatenate",
        stored: DataSchedule | None = None,
        from_step: int = 0,
        mixing: str | None = None,
        rates: Rule | Mapping[str, float] | None = None,
        steps: int = 0,
        subset_tokens: Mapping[str, float] | None = None,
        repeat_filter: bool = False,
    ):
        mixing = mixing or (stored.mixing if stored else MIXING)
        self.length, self.batch_size, self.repeat_filter = length, batch_size, repeat_filter
        self.sources: list[BatchSource] = []
        self.directory = Path(cache_dir)
        begins = [0, *(stage.from_step for stage in stages)]
        wanted = [
            (str(cache_dir), None, rates),
            *((stage.cache_dir, stage.mixture_or_task_name, stage.rates) for stage in stages),
        ]
        for (place, name, chosen), begin, end in zip(wanted, begins, [*begins[1:], steps], strict=True):
            local_path(place)
            # Batches that a rollback passes over are not counted: they are few, and no run knows them before.
            batches = max(min(end, steps) - begin, 0)
            source = BatchSource(
                place,
                length,
                batch_size,
                seed,
                packing=packing,
                mixing=mixing,
                rates=chosen,
                batches=batches,
                subset_tokens=subset_tokens,
                repeat_filter=repeat_filter,
            )
            if name not in (None, held := source.manifest["config"]["name"]):
                raise UsageError(
                    f"{place}: this cache holds {held!r}, the stage learns {name!r}; run `ja-llm cache --task {name}`."
                )
            # The run's fingerprint is of the first stage, so that what is left out there is what can't change unnoticed.
            if not self.sources and (foreign := sorted((subset_tokens or {}).keys() - source.statistics().keys())):
                raise UsageError(f"SUBSET_TOKENS names {foreign[0]!r}; {place} has {', '.join(sorted(source.statistics()))}.")
            if self.sources and source.vocabulary != self.sources[0].vocabulary:
                raise UsageError(f"{place}: this cache is of another vocabulary than {cache_dir}; make it with the same --vocab.")
            self.sources.append(source)
        first = self.sources[0]
        self.fingerprint, self.mixture, self.vocabulary, self.manifest = (
            first.fingerprint,
            first.mixture,
            first.vocabulary,
            first.manifest,
        )
        self.licences: dict[str, int] = {}
        for source in self.sources:
            for licence, documents in source.licences.items():
                self.licences[licence] = max(documents, self.licences.get(licence, 0))
        self.contents = [
            {
                "from_step": begin,
                "shares": {
                    member["task"]: source.rates[member["task"]]
                    for member in source.manifest["members"]
                    if member["task"] in source.rates
                },
                "row_tokens": {
                    task: part["share"] * self.length * (1 - part["padding"]) for task, part in source.statistics().items()
                },
                "documents": source.manifest["config"].get("documents", {}),
            }
            for begin, source in zip(begins, self.sources, strict=True)
        ]
        schedule = DataSchedule(((0, self.mixture),), mixing=mixing)
        for stage, source in zip(stages, self.sources[1:], strict=True):
            schedule = schedule.with_stage(stage.from_step, source.mixture)
        self.schedule = schedule if stored is None else stored.extended(schedule, from_step)

    @property
    def schedule(self) -> DataSchedule:
        """The data schedule in force."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: DataSchedule) -> None:
        """A longer schedule: what it passes over in a stage counts as read for the stages behind."""
        self._schedule = schedule
        begins, read = [first for first, _ in schedule.stages], dict[str, int]()
        for number, source in enumerate(self.sources):
            if number:
                source.goes_on_after(read)
            if number + 1 < len(begins):
                batches = schedule.batches_before(number, begins[number + 1] - begins[number])
                for identity, rows in source.rows_read(batches * self.batch_size).items():
                    read[identity] = read.get(identity, 0) + rows

    def limit_positions(self, positions: int) -> None:
        """For a model with a table of so many positions; see `BatchSource.positions`."""
        for source in self.sources:
            source.positions = positions

    def local(self, position: Position, shard: int, num_shards: int) -> Batch:
        """One host's rows of the batch at a data position (`DataSchedule.position`); see `BatchSource.local`."""
        stage, data_step = position
        return self.sources[stage].local(data_step, shard, num_shards)

    def open(self, positions: Iterable[Position], shard: int, shards: int, prefetch: int = 2) -> ReadAhead:
        """One host's rows of the batches at these data positions, in their order, read ahead; a context manager."""
        return ReadAhead(lambda position: self.local(position, shard, shards), positions, prefetch)

    def statement(self, steps: int) -> dict[str, dict[str, Any]]:
        """What `steps` training steps read of each source: {task: {tokens, share, epochs, rows}}, all stages together."""
        begins = [first for first, _ in self.schedule.stages]
        ends = [*begins[1:], steps]
        found: dict[str, dict[str, Any]] = {}
        for source, begin, end in zip(self.sources, begins, ends, strict=True):
            rows_here = max(min(end, steps) - begin, 0) * self.batch_size
            for task, part in source.statistics().items():
                entry = found.setdefault(task, {"tokens": 0.0, "epochs": 0.0, "rows": part["rows"]})
                entry["tokens"] += rows_here * part["share"] * self.length * (1 - part["padding"])
                entry["epochs"] += rows_here * part["share"] / part["rows"]
        total = sum(entry["tokens"] for entry in found.values())
        return {task: {**entry, "share": entry["tokens"] / max(total, 1)} for task, entry in found.items()}

    def check_length(self) -> None:
        """Refuse rows that a source can't fill even once.

        Raises:
          UsageError: a source has fewer tokens than a row.
        """
        for source in self.sources:
            for task, part in source.statistics().items():
                if part["pairs"] < self.length:
                    raise UsageError(
                        f"{source.directory}: TASK_FEATURE_LENGTHS asks for rows of {self.length} tokens, but {task} has {part['pairs']} in all; lower "
                        "it, or give the task more documents."
                    )

    def check_epochs(self, steps: int, caps: float | Mapping[str, float] | None) -> None:
        """Refuse a run that would repeat a source more often than allowed.

        Args:
          steps: training steps in all.
          caps: epochs of every source, or {task: epochs}; None allows any number.

        Raises:
          UsageError: sources would be read more often (all of them are told, the worst first), or a task is named that there is not.
        """
        if caps is None:
            return
        read = self.statement(steps)
        limits = caps if isinstance(caps, Mapping) else dict.fromkeys(read, caps)
        if foreign := [task for task in limits if task not in read]:
            raise UsageError(f"MAX_EPOCHS names {foreign[0]!r}; the run reads {', '.join(sorted(read))}.")
        # A rule of rates may go to the cap itself, which the sums here meet but for their last digits.
        over = [
            (read[task]["epochs"] / limit, task) for task, limit in limits.items() if read[task]["epochs"] > limit * (1 + 1e-9)
        ]
        if not over:
            return
        worst = [task for _, task in sorted(over, reverse=True)]
        told = ", and ".join(
            f"{limits[task]:g} epochs of {task}, the run would read it {read[task]['epochs']:.2f} times" for task in worst
        )
        fewest = min(self._steps_within(task, limits[task], steps) for task in worst)
        fewer = f", or lower TRAIN_STEPS to {fewest}." if fewest else " (one step is too many already)."
        raise UsageError(
            f"MAX_EPOCHS allows {told}; lower {'its rate' if len(worst) == 1 else 'their rates'} in the mixture, give "
            f"{'it' if len(worst) == 1 else 'them'} more documents, {'' if fewest else 'or '}raise MAX_EPOCHS{fewer}"
        )

    def _steps_within(self, task: str, epochs: float, steps: int) -> int:
        """The most training steps, fewer than `steps`, that read a source at most so often."""
        within, beyond = 0, steps
        while beyond - within > 1:
            middle = (within + beyond) // 2
            fits = self.statement(middle).get(task, {"epochs": 0.0})["epochs"] <= epochs
            within, beyond = (middle, beyond) if fits else (within, middle)
        return within

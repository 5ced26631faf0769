"""The settings of a run that are not the model, the data or the optimizer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ja_llm.sharding import DEFAULT_RULES, Rules
from ja_llm.train.alarms import Alarm
from ja_llm.train.retention import Best
from ja_llm.train.step import PLAIN, StepOptions


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is not the model, the data or the optimizer.

    Attributes:
      model_dir: the run directory.
      total_steps: optimizer steps in all.
      seed: of the initial parameters (the data have the same seed in their own source).
      initial_checkpoint: model directory or DIR@STEP to start from; None starts from random parameters.
      mesh: devices per mesh axis; an absent axis has 1.
      dcn_mesh: parts with a slow network between them per mesh axis (`sharding.make_mesh`); `mesh` is then of one part.
      rules: logical axis rules.
      step: microbatches, loss and its coefficients, groups of parameters, average, spikes.
      checkpoint_period: steps between checkpoints; one is always written at the end.
      keep_checkpoints: how many of the newest stay.
      keep_period: checkpoints whose step is a multiple of it stay for good; None: none do.
      keep_best: those that stay by a metric; None: none do.
      export_period: steps between exports; each is a multiple of `checkpoint_period`, the end's is exported too. None exports nothing.
      eval_period: steps between evaluations, of which the first is at step 0; 0 evaluates at the end only.
      eval_steps: further steps to evaluate at, e.g. log-spaced ones at the beginning.
      alarms: bounds for what is measured on held-out documents (`ja_llm.train.forgetting`); with them step 0 is evaluated in any case.
      max_rollbacks: how often the run may go back behind a step that is not finite, or a spike.
      rollback_margin: batches behind the offending one that a rollback passes over too.
      step_timeout: seconds without a step after which the process ends itself (`ja_llm.train.watchdog`); None waits for ever.
      phase_timeout: the same for evaluations, saves, reading a checkpoint and compiling.
      maintenance: where notices of maintenance come from (`ja_llm.train.maintenance`); None asks nobody.
      accept: names of the identity's settings in which the ledger of a run that goes on may differ.
      profile: (first step, steps) to write a profile of; None writes none.
      peak_tflops: of one device, for MFU; None: by the device's name.
      wandb_project: project on Weights & Biases that gets the metrics too; None: none does.
    """

    model_dir: Path
    total_steps: int
    seed: int = 0
    initial_checkpoint: str | None = None
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dcn_mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rules: Rules = DEFAULT_RULES
    step: StepOptions = PLAIN
    checkpoint_period: int = 1000
    keep_checkpoints: int = 2
    keep_period: int | None = None
    keep_best: Best | None = None
    export_period: int | None = None
    eval_period: int = 0
    eval_steps: tuple[int, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    max_rollbacks: int = 3
    rollback_margin: int = 0
    step_timeout: float | None = None
    phase_timeout: float | None = None
    maintenance: str | None = None
    accept: tuple[str, ...] = ()
    profile: tuple[int, int] | None = None
    peak_tflops: float | None = None
    wandb_project: str | None = None

    def evaluates(self, step: int) -> bool:
        """Whether the run is evaluated after `step` steps."""
        periodic = self.eval_period and step % self.eval_period == 0
        return bool(periodic) or step in self.eval_steps or step == self.total_steps or (step == 0 and bool(self.alarms))

    def exports(self, step: int) -> bool:
        """Whether the checkpoint of `step` is exported."""
        return self.export_period is not None and (step % self.export_period == 0 or step == self.total_steps)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return step % self.checkpoint_period == 0 or step == self.total_steps

    def unmeasured_saves(self) -> list[int]:
        """Steps at which the run saves and does not evaluate."""
        return [
            step for step in range(self.checkpoint_period, self.total_steps, self.checkpoint_period) if not self.evaluates(step)
        ]

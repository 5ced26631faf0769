"""Evaluations inside the loop: what the evaluators measure goes to metrics.jsonl, alarms and a request to end are heard behind them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ja_llm import storage
from ja_llm.errors import JaLlmError
from ja_llm.train.forgetting import Alarmed, ForgettingMonitor
from ja_llm.train.metrics import MetricsWriter
from ja_llm.train.processes import Interrupted, Stopped, StoppedByHand, Stopping, any_process, told_by_all
from ja_llm.train.run_config import RunConfig

# parameters -> metrics
Evaluator = Callable[[Any], dict[str, float]]


class Evaluation:
    """The evaluators of a run.

    Args:
      config: the run.
      evaluators: by name.
      stopping: says whether to save and end.
    """

    def __init__(self, config: RunConfig, evaluators: Mapping[str, Evaluator], stopping: Stopping):
        self._config, self._evaluators, self._stopping = config, evaluators, stopping
        self._alarm = ""

    def due(self, step: int) -> bool:
        """Whether there is something to measure after `step` steps."""
        return bool(self._evaluators) and self._config.evaluates(step)

    def left_out(self, step: int, writer: MetricsWriter | None) -> bool:
        """Whether it is due at the step that a run begins or goes on at, and is not in its log; every process must come."""
        return self.due(step) and any_process(writer is not None and not writer.measured)

    def measure(
        self, step: int, params: Any, writer: MetricsWriter | None, forgetting: ForgettingMonitor | None
    ) -> tuple[dict[str, float], bool]:
        """What the evaluators measure, by its names in metrics.jsonl, and whether to end behind it; every process must come.

        A run that is asked to end meanwhile leaves the evaluator behind its next batch, and those that are left: then nothing is logged, and
        the evaluation is made when the run goes on.
        """
        config, results, self._alarm = self._config, dict[str, float](), ""
        for left, (name, evaluator) in zip(reversed(range(len(self._evaluators))), self._evaluators.items(), strict=True):
            found: dict[str, float] | None = None
            with contextlib.suppress(Interrupted), self._stopping.interrupts():
                found = evaluator(params)
            asked, whole = self._stopping.now(found is not None)
            if asked and (left or not whole):
                return {}, True
            results |= {f"eval/{name}/{key}": value for key, value in (found or {}).items()}
        if config.keep_best is not None:
            config.keep_best.check_measured(results)
        watched, alarm = forgetting.look(step) if forgetting else ({}, "")
        if writer:
            writer.write(step, results | watched)
        if any(one.stop for one in config.alarms):  # the process that writes says it to all
            self._alarm = next(filter(None, told_by_all(alarm)), "")
        return results, (asked or bool(self._alarm)) and step < config.total_steps

    def stopped(self, step: int) -> JaLlmError:
        """What a run ends with that was asked to after `step` steps, or by an alarm."""
        config = self._config
        if self._alarm:
            return Alarmed(
                f"step {step}: {self._alarm}, so the run stopped; {storage.absolute(config.model_dir)} keeps it. Raise the bound or set Alarm.stop = "
                "False, and the same command goes on from there."
            )
        return (Stopped if self._stopping.exit_code == Stopped.exit_code else StoppedByHand)(
            f"stopped at step {step} of {config.total_steps}; {storage.absolute(config.model_dir)} keeps it, the same command goes on from there."
        )

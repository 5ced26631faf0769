"""Which checkpoints of a run stay: the newest, those of a period, the best by a metric. Orbax's own policies, put together."""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from orbax.checkpoint import checkpoint_managers as policies

from ja_llm.errors import UsageError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Best:
    """Checkpoints that stay because of what an evaluation measured at their step, beside the newest and those of a period.

    Of equal values the later checkpoint is the better one. A checkpoint without the metric (a save on SIGTERM between two
    evaluations) or with one that is not finite is never among the best.

    Attributes:
      metric: its name in metrics.jsonl, e.g. "eval/web_ja/bits_per_byte".
      keep: how many.
      mode: "min" where less is better, or "max".
    """

    metric: str = ""
    keep: int = 1
    mode: str = "min"

    def __post_init__(self) -> None:
        whole = isinstance(self.keep, int) and not isinstance(self.keep, bool)
        if not isinstance(self.metric, str) or not self.metric or self.mode not in ("min", "max") or not whole or self.keep < 1:
            raise UsageError(
                f"{self} can't be used; metric is a name in metrics.jsonl (e.g. 'eval/web_ja/bits_per_byte'), keep a whole number of "
                "1 or more, mode 'min' or 'max'."
            )

    def check(self, evaluators: Iterable[str], unmeasured: Sequence[int]) -> None:
        """Refuse, before the run starts, what it could never rank by.

        Args:
          evaluators: names of the run's evaluators; each gives metrics eval/<name>/<key>.
          unmeasured: steps at which the run saves and does not evaluate.

        Raises:
          UsageError: no evaluator gives the metric, or some checkpoints would lack it.
        """
        if not any(self.metric.startswith(f"eval/{name}/") for name in evaluators):
            there = ", ".join(f"eval/{name}/..." for name in evaluators) or "none; bind train.eval_documents or train.eval_tasks"
            raise UsageError(f"KEEP_BEST ranks by {self.metric!r}, which no evaluation of this run gives (there are {there}).")
        if unmeasured:
            raise UsageError(
                f"KEEP_BEST ranks by {self.metric!r}, but the checkpoint of step {unmeasured[0]} falls on a step without evaluation; "
                "choose an EVAL_PERIOD of which CHECKPOINT_PERIOD is a multiple."
            )

    def check_measured(self, metrics: dict[str, float]) -> None:
        """Raise UsageError when an evaluation has not given the metric; its keys are known only then."""
        if self.metric not in metrics:
            raise UsageError(
                f"KEEP_BEST ranks by {self.metric!r}, which the evaluation has not given; it gave {', '.join(sorted(metrics))}."
            )

    def value(self, metrics: Any) -> float:
        """The metric in what is stored with a checkpoint; NaN where it is not there."""
        return float((metrics or {}).get(self.metric, math.nan))


class _BestMeasured(policies.BestN):
    """Orbax's BestN among the checkpoints that have a finite metric: alone it keeps any that makes up the number."""

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        measured = [info for info in checkpoints if math.isfinite(self.get_metric_fn(info.metrics))]
        flags = super().should_preserve(measured, context=context)
        kept = {info.step for info, stays in zip(measured, flags, strict=True) if stays}
        return [info.step in kept for info in checkpoints]


def preservation(keep: int | None, keep_period: int | None, best: Best | None) -> policies.PreservationPolicy:
    """The policy of a run: a checkpoint stays for any of the three reasons.

    Args:
      keep: how many of the newest; None: all.
      keep_period: those whose step is a multiple of it; None: none for that.
      best: those that a metric ranks highest; None: none for that.

    Raises:
      UsageError: a number is not a whole one of 1 or more.
    """
    for name, value in (("train.keep_checkpoints", keep), ("KEEP_PERIOD", keep_period)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"{name} is {value!r}; give a whole number of 1 or more, or None.")
    parts: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
    if keep_period is not None:
        parts.append(policies.EveryNSteps(keep_period))
    if best is not None:
        parts.append(_BestMeasured(get_metric_fn=best.value, reverse=best.mode == "min", n=best.keep))
    return policies.AnyPreservationPolicy(parts)


class _Info(NamedTuple):
    """A checkpoint as orbax's policies see it."""

    step: int
    metrics: Any
    time: datetime.datetime = datetime.datetime.min  # none of the policies above asks for it


def superfluous(policy: policies.PreservationPolicy, metrics: Mapping[int, Any]) -> list[int]:
    """The steps, of those in `metrics` (step -> what is stored with it, or None), whose checkpoints do not stay."""
    infos = [_Info(step, metrics[step]) for step in sorted(metrics)]
    stays = policy.should_preserve(infos, context=policies.PreservationContext())
    return [info.step for info, stay in zip(infos, stays, strict=True) if not stay]

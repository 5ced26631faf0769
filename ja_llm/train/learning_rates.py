"""Learning-rate schedules: step -> rate, traced inside the training step and logged from the same object."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError
from ja_llm.train.settings import check_numbers, is_whole, later


class Schedule:
    """A frozen dataclass whose fields decide the rate; they stand in the run's ledger."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Learning rate (float32 scalar) of the update that follows `step` finished ones."""
        raise NotImplementedError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5).

    The rate at step 0 is peak / warmup_steps, so that no step is spent at rate 0.

    Attributes:
      peak: rate at the end of the warm-up.
      final: rate from `total_steps` on; Swallow uses peak / 30 on Llama 2 and peak / 10 on Llama 3.1.
      warmup_steps: length of the warm-up in steps.
      total_steps: the step at which `final` is reached.
      start: rate that the warm-up begins from: where a run is warmed up again, the one it had decayed to.
    """

    peak: float
    final: float
    warmup_steps: int
    total_steps: int
    start: float = later(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_steps < self.total_steps:
            raise UsageError(
                f"{self} makes no schedule; 0 <= warmup_steps < total_steps is needed: lower WARMUP_STEPS, or raise TRAIN_STEPS."
            )
        if not 0 <= self.final <= self.peak or not 0 <= self.start <= self.peak:
            raise UsageError(
                f"{self} makes no schedule; 0 <= final <= peak and 0 <= start <= peak are needed (FINAL_LEARNING_RATE, PEAK_LEARNING_RATE)."
            )

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        step = jnp.asarray(step, jnp.float32)
        warm = _warm_up(step, self.start, self.peak, self.warmup_steps)
        progress = jnp.clip((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 0.0, 1.0)
        cosine = self.final + 0.5 * (self.peak - self.final) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < self.warmup_steps, warm, cosine)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupConstant(Schedule):
    """Linear warm-up over `warmup_steps` to `peak`, then constant."""

    peak: float
    warmup_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.peak < 0 or self.warmup_steps < 0:
            raise UsageError(f"{self} makes no schedule; 0 <= peak and 0 <= warmup_steps are needed.")

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        return self.peak * jnp.minimum((jnp.asarray(step, jnp.float32) + 1) / max(self.warmup_steps, 1), 1.0)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Linear warm-up, a constant rate, and a decay over the last `decay_steps` (WSD; Hu et al. 2024, arXiv 2404.06395, section 4).

    Attributes:
      peak: rate after the warm-up.
      final: rate from `total_steps` on.
      warmup_steps: length of the warm-up in steps.
      decay_steps: length of the decay; 0 for none.
      total_steps: the step at which `final` is reached.
      shape: of the decay: "linear", or "sqrt" for peak - (peak - final) sqrt(progress) (Haegele et al. 2024, arXiv 2405.18392).
      start: rate that the warm-up begins from.
    """

    peak: float
    final: float
    warmup_steps: int
    decay_steps: int
    total_steps: int
    shape: str = "linear"
    start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps < 0 or self.decay_steps < 0 or self.warmup_steps + self.decay_steps > self.total_steps:
            raise UsageError(
                f"{self} makes no schedule; 0 <= warmup_steps, 0 <= decay_steps and warmup_steps + decay_steps <= total_steps are needed: "
                "lower WARMUP_STEPS or decay_steps, or raise TRAIN_STEPS."
            )
        if not 0 <= self.final <= self.peak or not 0 <= self.start <= self.peak or self.shape not in ("linear", "sqrt"):
            raise UsageError(
                f"{self} makes no schedule; 0 <= final <= peak, 0 <= start <= peak (FINAL_LEARNING_RATE, PEAK_LEARNING_RATE) and "
                "shape 'linear' or 'sqrt' are needed."
            )

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - (self.total_steps - self.decay_steps)) / max(self.decay_steps, 1), 0.0, 1.0)
        rate = self.peak - (self.peak - self.final) * (jnp.sqrt(progress) if self.shape == "sqrt" else progress)
        return jnp.where(step < self.warmup_steps, _warm_up(step, self.start, self.peak, self.warmup_steps), rate)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LinearDecay(Schedule):
    """A straight line from `peak` at step 0 to `final` at `total_steps`: an anneal, as of OLMo 2 (arXiv 2501.00656, section 4)."""

    peak: float
    total_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= self.peak or self.total_steps < 1:
            raise UsageError(f"{self} makes no schedule; 0 <= final <= peak and total_steps of 1 or more are needed.")

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / self.total_steps, 0.0, 1.0)
        return self.peak + (self.final - self.peak) * progress


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Joined(Schedule):
    """Schedules one after the other, each counting steps from its own start: a run and its anneal, or one that is warmed up again.

    Attributes:
      schedules: the parts.
      starts: the step that each begins at; the first is 0.
    """

    schedules: tuple[Schedule, ...]
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        for part in self.schedules if isinstance(self.schedules, list | tuple) else [None]:
            if not isinstance(part, Schedule):
                raise UsageError(
                    f"Joined.schedules is {self.schedules!r}; give a tuple of schedules, e.g. (@learning_rates.WarmupCosine(), "
                    "@learning_rates.LinearDecay())."
                )
        starts = tuple(self.starts)
        grows = all(a < b for a, b in zip(starts, starts[1:], strict=False))
        if not starts or len(starts) != len(self.schedules) or starts[0] != 0 or not grows:
            raise UsageError(
                f"Joined has {len(self.schedules)} schedules and starts {starts}; one start each, from 0 on, growing."
            )

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        step = jnp.asarray(step, jnp.float32)
        rate = self.schedules[0](step)
        for start, schedule in zip(self.starts[1:], self.schedules[1:], strict=True):
            rate = jnp.where(step >= start, schedule(step - start), rate)
        return rate


def _warm_up(step: jax.Array, start: float, peak: float, warmup_steps: int) -> jax.Array:
    """A line that would be `start` one step before the first and is `peak` at the last step of the warm-up."""
    line = (peak - start) * (step + 1) / max(warmup_steps, 1)
    return start + line if start else line


@gin.configurable
def steps(tokens: float, batch_size: int = gin.REQUIRED, lengths: Mapping[str, int] = gin.REQUIRED) -> int:
    """The number of steps that read at least `tokens` tokens: TRAIN_STEPS = @learning_rates.steps() and the like.

    Args:
      tokens: positions of rows, padding counted.
      batch_size: rows a step.
      lengths: {"targets": row length in tokens}.

    Raises:
      UsageError: there are no tokens.
    """
    if tokens <= 0:
        raise UsageError(f"learning_rates.steps.tokens is {tokens}; give a number above 0.")
    return math.ceil(tokens / (batch_size * lengths["targets"]))


@gin.configurable
def remaining(total: int, start: int, steps: int | None = None) -> int:
    """The steps of a last stage: `total` - `start`, which gin can't subtract.

    Args:
      total: steps of the whole run.
      start: the step that the stage begins at.
      steps: what the caller takes it to be; None takes what it is.

    Raises:
      UsageError: nothing remains, or not as much as `steps` says: the stage's rate would not end where it shall.
    """
    for value in (total, start, *(() if steps is None else (steps,))):
        if not is_whole(value):
            raise UsageError(f"{value!r} is no number of steps; TRAIN_STEPS, ANNEAL_FROM and ANNEAL_STEPS are whole numbers.")
    if total <= start or steps not in (None, total - start):
        said = "" if steps is None else f" and ANNEAL_STEPS {steps}"
        raise UsageError(
            f"TRAIN_STEPS is {total} and ANNEAL_FROM {start}{said}; the anneal has the {total - start} steps behind ANNEAL_FROM, of which there "
            "must be one or more (leave ANNEAL_STEPS out)."
        )
    return total - start


def same_rates(described: Any, schedule: Schedule, until: int) -> bool:
    """Whether a schedule as the ledger describes it gave exactly the rates of `schedule` for the first `until` steps."""
    try:
        old = _from_description(described)
    except (KeyError, TypeError, UsageError):
        return False
    steps = jnp.arange(until)
    return bool((old(steps) == schedule(steps)).all())


def _from_description(value: Any) -> Any:
    kinds = {kind.__name__: kind for kind in (WarmupCosine, WarmupConstant, WarmupStableDecay, LinearDecay, Joined)}
    fields = {name: field for name, field in value.items() if name != "name"}
    if value["name"] == "Joined":
        return Joined(tuple(_from_description(part) for part in fields["schedules"]), tuple(fields["starts"]))
    return kinds[value["name"]](**fields)

"""Learning-rate schedules: step -> rate, traced inside the training step and logged from the same object."""

import dataclasses

import gin
import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError


class Schedule:
    """A frozen dataclass whose fields decide the rate; they stand in the run's ledger."""

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
    """

    peak: float
    final: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.final <= self.peak or not 0 <= self.warmup_steps < self.total_steps:
            raise UsageError(f"{self} makes no schedule; 0 <= final <= peak and 0 <= warmup_steps < total_steps are needed.")

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        step = jnp.asarray(step, jnp.float32)
        warm = self.peak * (step + 1) / max(self.warmup_steps, 1)
        progress = jnp.clip((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1), 0.0, 1.0)
        cosine = self.final + 0.5 * (self.peak - self.final) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < self.warmup_steps, warm, cosine)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WarmupConstant(Schedule):
    """Linear warm-up over `warmup_steps` to `peak`, then constant."""

    peak: float
    warmup_steps: int

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """See `Schedule`."""
        return self.peak * jnp.minimum((jnp.asarray(step, jnp.float32) + 1) / max(self.warmup_steps, 1), 1.0)

"""Learning-rate schedules: functions step -> rate, traced inside the training step and logged from the same function."""

from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


@gin.configurable
def warmup_cosine(peak: float, final: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to `final` at `total_steps` (Loshchilov and Hutter 2017, eq. 5).

    The rate at step 0 is peak / warmup_steps, so that no step is spent at rate 0.

    Args:
      peak: rate at the end of the warm-up.
      final: rate from `total_steps` on; Swallow uses peak / 30 on Llama 2 and peak / 10 on Llama 3.1.
      warmup_steps: length of the warm-up in steps.
      total_steps: the step at which `final` is reached.
    """

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        warm = peak * (step + 1) / max(warmup_steps, 1)
        progress = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        cosine = final + 0.5 * (peak - final) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, warm, cosine)

    return rate


@gin.configurable
def warmup_constant(peak: float, warmup_steps: int) -> Schedule:
    """Linear warm-up to `peak`, then constant."""

    def rate(step):
        return peak * jnp.minimum((jnp.asarray(step, jnp.float32) + 1) / max(warmup_steps, 1), 1.0)

    return rate

"""The spike detector: a loss or gradient norm far above those of the last steps. Its history is part of the optimizer's state, so a
resumed run decides as the undisturbed one.
"""

import dataclasses
from typing import NamedTuple

import gin
import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError
from ja_llm.train.settings import check_numbers, is_whole


class History(NamedTuple):
    """The last steps' values.

    Attributes:
      seen: int32, values seen in all.
      losses: float32 [window], a ring.
      norms: float32 [window], a ring.
    """

    seen: jax.Array
    losses: jax.Array
    norms: jax.Array


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SpikeDetector:
    """A step is a spike where its loss or its gradient's norm exceeds mean + factor * standard deviation of the last `window` steps.

    The rule is that of OLMo-core's SkipStepAdamW. The update of such a step is never applied.

    Attributes:
      action: "skip" goes on with the next batch; "rollback" returns to the last checkpoint and passes over the batches from there
        to the spike (see `ja_llm.train.rollback`).
      factor: standard deviations above the mean.
      window: steps that are remembered; nothing is a spike before half of them were seen.
    """

    action: str = "skip"
    factor: float = 6.0
    window: int = 128

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.action not in ("skip", "rollback") or self.factor <= 0 or not is_whole(self.window) or self.window < 2:
            raise UsageError(
                f"{self} can't be used; action is 'skip' or 'rollback', factor above 0, window a whole number of 2 or more."
            )

    def start(self) -> History:
        """Of a run that begins."""
        empty = jnp.zeros(self.window, jnp.float32)
        return History(jnp.zeros((), jnp.int32), empty, empty)

    def look(self, history: History, loss: jax.Array, norm: jax.Array, finite: jax.Array) -> tuple[jax.Array, History]:
        """Whether this step is a spike (bool scalar), and the history with it.

        A spike is remembered as the bound that it exceeded: as itself it would hide the next one, and left out, a run that had come
        to a higher level for good would skip for ever. What is not finite is not remembered.
        """
        known = jnp.arange(self.window) < history.seen
        ready = history.seen >= self.window // 2
        spike = jnp.zeros((), bool)
        rings = []
        for value, ring in ((loss, history.losses), (norm, history.norms)):
            n = jnp.maximum(known.sum(), 1)
            mean = jnp.where(known, ring, 0.0).sum() / n
            deviation = jnp.sqrt(jnp.where(known, (ring - mean) ** 2, 0.0).sum() / n)
            bound = jnp.where(ready, mean + self.factor * deviation, jnp.inf)
            spike |= finite & (value > bound)
            at = history.seen % self.window
            rings.append(ring.at[at].set(jnp.where(finite, jnp.minimum(value, bound), ring[at])))
        return spike, History(history.seen + finite.astype(jnp.int32), *rings)

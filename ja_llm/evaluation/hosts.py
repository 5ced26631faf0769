"""Evaluation on parameters that lie on several hosts: every process computes the same rows together with the others."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ja_llm.train.processes import between_batches


def gathered(value: Any) -> np.ndarray:
    """A computed array as NumPy's, whole on every process, wherever its parts lie. All processes must call it in the same order.

    Every batch of an evaluation passes here, so here a run that is asked to end leaves it.

    Raises:
      ja_llm.train.processes.Interrupted: for the loop that evaluates.
    """
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    value = np.asarray(value)
    between_batches()
    return value


def of_first(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first process's numbers on every process: which checkpoints stay must not hang on one host's clock or rounding."""
    if jax.process_count() == 1:
        return dict(metrics)
    values = np.array([float(value) for value in metrics.values()], np.float64)
    # As bytes: 64-bit floats would be rounded on the way.
    told = multihost_utils.broadcast_one_to_all(values.view(np.uint8))
    return dict(zip(metrics, np.asarray(told, np.uint8).view(np.float64).tolist(), strict=True))

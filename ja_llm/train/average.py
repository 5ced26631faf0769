"""Averages of checkpoints as model directories: a uniform mean of several (a soup), or the moving average that a run kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ja_llm.errors import UsageError
from ja_llm.files import local_path
from ja_llm.train.checkpoints import LoadedModel, load_model, save_model
from ja_llm.train.ledger import new_ledger, parent_entry
from ja_llm.train.step import EMA
from ja_llm.train.stored_arrays import read_item


def average(sources: Sequence[str], out: str, ema: bool = False) -> Path:
    """Write the mean of checkpoints.

    Sums are taken in float64 and divided once, so the mean of equal checkpoints is that checkpoint, to the bit.

    Args:
      sources: model directories or DIR@STEP, all of one architecture, layout and vocabulary.
      out: where the model directory is written.
      ema: take each run's moving average of the parameters (EMA_DECAY) instead of the parameters.

    Returns:
      `out`.

    Raises:
      UsageError: there is nothing to average, the checkpoints are of different models, or a run kept no moving average.
      JaLlmError: a checkpoint can't be read, or `out` can't be written.
    """
    local_path(out)
    if not ema and len(sources) < 2:
        raise UsageError("one checkpoint has no average; give two or more (DIR@STEP), or --ema for a run's moving average.")
    total: Any = None
    first: LoadedModel | None = None
    parents = []
    for source in sources:
        loaded = load_model(source)
        if first is None:
            first = loaded
        elif loaded.config.parts() != first.config.parts() or loaded.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise UsageError(
                f"{source}: this is another model or vocabulary than {sources[0]}; only checkpoints of one can be averaged."
            )
        values = _moving_average(loaded, source) if ema else loaded.params
        wide = jax.tree.map(lambda p: np.asarray(p).astype(np.float64), values)
        total = wide if total is None else jax.tree.map(np.add, total, wide)
        parents.append(parent_entry(loaded.directory, loaded.step, loaded.ledger))
    assert first is not None
    mean = jax.tree.map(lambda t, p: (t / len(sources)).astype(p.dtype), total, first.params)
    identity = {"parents": [{key: parent[key] for key in ("identity_hash", "step")} for parent in parents], "ema": ema}
    ledger = new_ledger(
        "average", identity, parents, **{k: first.ledger[k] for k in ("licence", "licences") if k in first.ledger}
    )
    return save_model(out, config=first.config, params=mean, tokenizer=first.tokenizer, ledger=ledger)


def _moving_average(loaded: LoadedModel, source: str) -> Any:
    stored = read_item(loaded.directory / "checkpoints" / str(loaded.step) / "optimizer")
    tree = (stored or {}).get("state", {}).get(EMA)
    if tree is None:
        raise UsageError(
            f"{source}: this checkpoint has no moving average of its parameters; train with EMA_DECAY, or leave --ema out."
        )
    return tree

"""Where a run begins: (1) its newest whole checkpoint, (2) the initial checkpoint, (3) random parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.sharding import replicated
from ja_llm.train.checkpoint_errors import REMEDY, Damaged
from ja_llm.train.checkpoints import Checkpoints, load_model
from ja_llm.train.preparation import Prepared
from ja_llm.train.processes import say
from ja_llm.train.run_config import RunConfig
from ja_llm.train.state import StatePlan
from ja_llm.train.step import TrainState, init_optimizer


def restored(checkpoints: Checkpoints, config: RunConfig, model: DecoderConfig, prepared: Prepared) -> tuple[int, TrainState]:
    """(steps done, state) to go on from; 0 and a first state where the run has no checkpoint.

    Raises:
      JaLlmError: what is there can't be read, or belongs to another model.
    """
    begin = _newest(checkpoints, prepared.plan) or (0, *_first_state(config, model, prepared.transformation, prepared.plan))
    start, params, moments = begin
    return start, TrainState(jax.device_put(jnp.asarray(start, jnp.int32), replicated(prepared.mesh)), params, moments)


def frozen_model(config: RunConfig, model: DecoderConfig, plan: StatePlan) -> tuple[Any, ...]:
    """What a step takes beside state and batch: with LoRA the model, which does not learn."""
    return () if plan.lora is None else (_initial_params(config, model, plan),)


def _newest(checkpoints: Checkpoints, plan: StatePlan) -> tuple[int, Any, Any] | None:
    """(step, parameters, optimizer state) of the newest checkpoint that is whole; None where the run has none.

    Raises:
      JaLlmError: what is there can't be read, or belongs to another model.
    """
    while steps := checkpoints.steps():
        try:
            return steps[-1], *plan.restored(*checkpoints.restore(steps[-1], *plan.restorable()))
        except Damaged as error:
            if len(steps) == 1:  # beginning anew by itself would cost the whole run
                alone = "it is the only one of this run: put a copy back, or remove it, and the same command begins the run anew."
                raise Damaged(str(error).replace(REMEDY, alone)) from error
            where = checkpoints.set_aside(steps[-1])
            say(f"{error} It was moved to {where}, the run goes on from step {steps[-2]}.")
    return None


def _first_state(config: RunConfig, model: DecoderConfig, transformation: Any, plan: StatePlan) -> tuple[Any, Any]:
    """What learns, and the optimizer's state, of a run that begins."""
    if (lora := plan.lora) is not None:
        make = jax.jit(lambda key: lora.start(key, plan.abstract.params, plan.axes), out_shardings=plan.shardings.params)
        params = make(jax.random.key(config.seed))
    else:
        params = _initial_params(config, model, plan)
    begin = jax.jit(lambda p: init_optimizer(transformation, p, config.step), out_shardings=plan.shardings.optimizer)
    return params, begin(params)


def _initial_params(config: RunConfig, model: DecoderConfig, plan: StatePlan) -> Any:
    """The model that a run begins with: the initial checkpoint's, or random."""
    layout = jax.tree.map(lambda x: x.sharding, plan.model)
    if not config.initial_checkpoint:
        return jax.jit(lambda k: init_params(model, k), out_shardings=layout)(jax.random.key(config.seed))
    # Straight into the dtype that it stays in: a frozen model in float32 beside its bfloat16 would not fit where the latter does.
    return load_model(
        config.initial_checkpoint, shardings=layout, dtype=None if plan.lora is None else plan.lora.base_dtype
    ).params

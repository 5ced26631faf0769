"""The training state: what it consists of, and how it is spread over the mesh."""

from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from ja_llm import sharding
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes
from ja_llm.sharding import Rules, replicated
from ja_llm.train.groups import check_groups
from ja_llm.train.lora import ADAPTERS, Lora
from ja_llm.train.step import StepOptions, TrainState, init_optimizer


class StatePlan(NamedTuple):
    """Shapes and layout of the state, before anything is computed.

    Attributes:
      axes: logical axes of what learns.
      abstract: the state with a ShapeDtypeStruct in place of each array.
      shardings: the state with a NamedSharding in place of each array.
      model: the model's parameters as ShapeDtypeStructs that know their sharding: what learns, or with LoRA what is frozen.
      lora: settings; None: all parameters learn.
    """

    axes: Any
    abstract: TrainState
    shardings: TrainState
    model: Any
    lora: Lora | None

    def restorable(self) -> tuple[Any, Any]:
        """(parameters, optimizer state) as ShapeDtypeStructs that know their sharding: what a checkpoint is read into."""
        optimizer = _spread(self.abstract.optimizer, self.shardings.optimizer)
        if self.lora is not None:
            optimizer = {**optimizer, ADAPTERS: _spread(self.abstract.params, self.shardings.params)}
        return self.model, optimizer

    def restored(self, params: Any, optimizer: Any) -> tuple[Any, Any]:
        """(what learns, optimizer state) of what a checkpoint held."""
        if self.lora is None:
            return params, optimizer
        kind = type(self.abstract.optimizer)  # an ordered dict, whose order counts
        return optimizer[ADAPTERS], kind((name, optimizer[name]) for name in self.abstract.optimizer)

    def stored(self, state: TrainState, frozen: tuple[Any, ...]) -> tuple[Any, Any]:
        """(parameters, optimizer state) that a checkpoint holds."""
        if self.lora is None:
            return state.params, state.optimizer
        merged = self.lora.merged(frozen[0], state.params, on_host=jax.process_count() == 1)
        return merged, {**state.optimizer, ADAPTERS: state.params}

    def weights(self, state: TrainState, frozen: tuple[Any, ...]) -> Any:
        """The whole model's parameters, on the devices: what is evaluated."""
        return state.params if self.lora is None else self.lora.merged(frozen[0], state.params)


def plan_state(
    model: DecoderConfig, optimizer: Any, options: StepOptions, mesh: Mesh, rules: Rules
) -> tuple[StatePlan, optax.GradientTransformation]:
    """Plan the state of a run; `optimizer` is an `ja_llm.train.optimizers.Optimizer`, whose transformation comes back too.

    Raises:
      UsageError: a parameter's dimension does not divide over the mesh axes that the rules give it (both are named), or a setting
        names parameters that are not there.
    """
    axes, params = param_axes(model), abstract_params(model)
    layout = sharding.shardings(axes, params, mesh, rules)
    whole = _spread(params, layout)
    if options.lora is not None:
        if options.groups or options.ema_decay is not None:
            raise UsageError(
                "LORA can't be used with GROUPS or EMA_DECAY, which are of a whole model's parameters; leave one out."
            )
        options.lora.check(params)
        dtype = options.lora.base_dtype
        whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), whole)
        params, axes = options.lora.adapters(params, axes)
        layout = sharding.shardings(axes, params, mesh, rules)
    optimizer.check(params)
    check_groups(options.groups, params, axes)
    transformation = optimizer.transformation(axes)
    moments = jax.eval_shape(lambda p: init_optimizer(transformation, p, options), params)
    step: Any = jax.ShapeDtypeStruct((), "int32")
    spread: Any = TrainState(replicated(mesh), layout, like_parameters(moments, layout, mesh))  # type: ignore[arg-type]
    return StatePlan(axes, TrainState(step, params, moments), spread, whole, options.lora), transformation


def _spread(abstract: Any, layout: Any) -> Any:
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, layout)


def like_parameters(optimizer: Any, params_shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer's state: each array that belongs to a parameter lies as the parameter does.

    An array belongs to the parameter whose path stands in its own (.../mu/layers/mlp/wo/kernel/...). Where the parameter's layout
    does not fit (the rows and columns of Adafactor, counters), every device holds it whole.
    """
    known = {_names(path): spread for path, spread in jax.tree_util.tree_leaves_with_path(params_shardings)}

    def one(path: Any, array: Any) -> NamedSharding:
        names = _names(path)
        parts = [names[i:j] for i in range(len(names)) for j in range(len(names), i, -1)]
        spread = next((known[part] for part in parts if part in known), None)
        if spread is None or len(spread.spec) != len(array.shape):
            return replicated(mesh)
        sizes = [sharding.parts(mesh, axes) for axes in spread.spec]
        return spread if all(n % size == 0 for n, size in zip(array.shape, sizes, strict=True)) else replicated(mesh)

    return jax.tree_util.tree_map_with_path(one, optimizer)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)

"""The training state: what it consists of, and how it is spread over the mesh."""

from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from ja_llm import sharding
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes
from ja_llm.sharding import Rules, replicated
from ja_llm.train.step import StepOptions, TrainState, init_optimizer


class StatePlan(NamedTuple):
    """Shapes and layout of the state, before anything is computed.

    Attributes:
      axes: logical axes of the parameters.
      abstract: the state with a ShapeDtypeStruct in place of each array.
      shardings: the state with a NamedSharding in place of each array.
    """

    axes: Any
    abstract: TrainState
    shardings: TrainState

    def restorable(self) -> tuple[Any, Any]:
        """(parameters, optimizer state) as ShapeDtypeStructs that know their sharding: what a checkpoint is read into."""
        both = (self.abstract.params, self.abstract.optimizer), (self.shardings.params, self.shardings.optimizer)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), *both)


def plan_state(
    model: DecoderConfig, transformation: optax.GradientTransformation, options: StepOptions, mesh: Mesh, rules: Rules
) -> StatePlan:
    """Plan the state of a run.

    Raises:
      UsageError: a parameter's dimension does not divide over the mesh axes that the rules give it; both are named.
    """
    axes, params = param_axes(model), abstract_params(model)
    params_shardings = sharding.shardings(axes, params, mesh, rules)
    optimizer = jax.eval_shape(lambda p: init_optimizer(transformation, p, options), params)
    step = jax.ShapeDtypeStruct((), "int32")
    return StatePlan(
        axes,
        TrainState(step, params, optimizer),  # type: ignore[arg-type]
        TrainState(replicated(mesh), params_shardings, like_parameters(optimizer, params_shardings, mesh)),  # type: ignore[arg-type]
    )


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

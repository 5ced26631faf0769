"""Groups of parameters with their own learning rate, or frozen: the new rows of a table first, then all, is two of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError
from ja_llm.train.settings import check_numbers, check_patterns, matches, name_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Group:
    """Some parameters, or some rows of them. Of several groups that fit an element the first decides.

    Attributes:
      parameters: patterns of names, e.g. ("layers/*",); * also takes slashes.
      rate: factor of the schedule's rate; 0 freezes for good.
      frozen_steps: steps at the beginning of the run in which the group does not learn.
      first_row: of arrays with a `vocab` dimension, only ids from this one on belong to the group.
    """

    parameters: tuple[str, ...] = ("*",)
    rate: float = 1.0
    frozen_steps: int = 0
    first_row: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)


def check_groups(groups: Sequence[Group], params: Any, axes: Any) -> None:
    """Refuse groups that fit nothing.

    Raises:
      UsageError: a pattern fits no parameter, a number is negative, or rows are named of what has none.
    """
    for group in groups:
        check_patterns("Group.parameters", group.parameters, params)
        if group.rate < 0 or group.frozen_steps < 0 or group.first_row < 0:
            raise UsageError(f"{group} can't be used; rate, frozen_steps and first_row are 0 or more.")
        if group.first_row:
            for (path, leaf), names in zip(jax.tree_util.tree_leaves_with_path(params), _leaves(axes), strict=True):
                if matches(name_of(path), group.parameters) and (
                    "vocab" not in names or leaf.shape[names.index("vocab")] <= group.first_row
                ):
                    raise UsageError(
                        f"Group.first_row is {group.first_row}, but {name_of(path)} {tuple(leaf.shape)} has no such row of the "
                        "vocabulary; name tables that do in Group.parameters."
                    )


def _leaves(axes: Any) -> list[tuple[str | None, ...]]:
    return jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))


def factors(groups: Sequence[Group], params: Any, axes: Any, step: jax.Array) -> Any:
    """What each element's rate is multiplied by at `step`: a tree like `params` of float32 arrays that broadcast to them."""

    def one(path: Any, leaf: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        factor = jnp.ones((), jnp.float32)
        for group in reversed(groups):  # the first is laid on last, over what the others say
            if matches(name_of(path), group.parameters):
                own = jnp.where(step >= group.frozen_steps, jnp.float32(group.rate), 0.0)
                if group.first_row:
                    axis = names.index("vocab")
                    shape = [1] * leaf.ndim
                    shape[axis] = leaf.shape[axis]
                    rows = jnp.arange(leaf.shape[axis]).reshape(shape)
                    factor = jnp.where(rows >= group.first_row, own, factor)
                else:
                    factor = own
        return factor

    return jax.tree_util.tree_map_with_path(one, params, axes)

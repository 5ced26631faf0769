"""LoRA: the model is frozen, and kernels named by patterns learn a product of two thin matrices beside them.

W + (alpha / rank) A B with A drawn at random and B zero at the beginning (Hu et al. 2021, arXiv 2106.09685, section 4.1). Optimizer
state and gradients are of A and B alone. A checkpoint holds the merged model as its `params`, so a run stays a model directory, and A
and B in the optimizer's item; the frozen model is the initial checkpoint's, read again when the run goes on.
"""

import dataclasses
import math
import zlib
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.errors import UsageError
from ja_llm.models.adapters import LORA, add_product
from ja_llm.train.settings import check_numbers, check_patterns, matches, name_of

# The adapters' name in the optimizer's item of a checkpoint.
ADAPTERS = "adapters"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Lora:
    """Settings.

    Attributes:
      rank: columns of A, rows of B.
      alpha: the product is multiplied by alpha / rank.
      parameters: patterns of the names of kernels (and tables) that get adapters.
      base_dtype: in which the frozen model lies on the device.
    """

    rank: int = 16
    alpha: float = 32.0
    parameters: tuple[str, ...] = ("*/self_attention/*/kernel", "*/mlp/*/kernel")
    base_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def scale(self) -> float:
        """Of the product."""
        return self.alpha / self.rank

    def check(self, params: Any) -> None:
        """Refuse settings that fit nothing.

        Raises:
          UsageError: a pattern fits no parameter, or the rank is no number of columns.
        """
        check_patterns("Lora.parameters", self.parameters, params)
        if self.rank < 1 or self.base_dtype not in ("float32", "bfloat16"):
            raise UsageError(f"{self} can't be used; rank is 1 or more, base_dtype 'float32' or 'bfloat16'.")

    def adapters(self, params: Any, axes: Any) -> tuple[Any, Any]:
        """Shapes (ShapeDtypeStruct, float32) and logical axes of the adapters: trees like the parameters', NAME_a and NAME_b for NAME.

        Raises:
          UsageError: a pattern fits something that is no matrix.
        """
        shapes: dict[str, Any] = {}
        names: dict[str, Any] = {}
        flat_axes = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
        for (path, leaf), logical in zip(jax.tree_util.tree_leaves_with_path(params), flat_axes, strict=True):
            name = name_of(path)
            if matches(name, self.parameters):
                stack, ins = _split(name, logical)
                a = (*leaf.shape[: stack + ins], self.rank)
                b = (*leaf.shape[:stack], self.rank, *leaf.shape[stack + ins :])
                for suffix, shape, axis in (
                    ("a", a, (*logical[: stack + ins], None)),
                    ("b", b, (*logical[:stack], None, *logical[stack + ins :])),
                ):
                    _put(shapes, f"{name}_{suffix}", jax.ShapeDtypeStruct(shape, jnp.float32))
                    _put(names, f"{name}_{suffix}", axis)
        return shapes, names

    def start(self, key: jax.Array, abstract: Any, axes: Any) -> Any:
        """Adapters of a run that begins: A normal with variance 1 / inputs, B zero.

        Args:
          key: of the random numbers; each adapter has its own of it.
          abstract: shapes, of `adapters`.
          axes: logical axes, of `adapters`.
        """

        def one(path: Any, leaf: Any, names: tuple[str | None, ...]) -> jax.Array:
            name = name_of(path)
            if name.endswith("_b"):
                return jnp.zeros(leaf.shape, leaf.dtype)
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            # A's dimensions but the layers, the experts and the rank.
            stack = sum(1 for i, axis in enumerate(names[:-1]) if axis == "layers" or (axis == "expert" and i < len(names) - 2))
            return jax.random.normal(own, leaf.shape, leaf.dtype) / math.sqrt(math.prod(leaf.shape[stack:-1]))

        return jax.tree_util.tree_map_with_path(one, abstract, axes)

    def merged(self, base: Any, adapters: Any, on_host: bool = False) -> Any:
        """The model with the products added, in `base`'s dtype; `on_host`: as NumPy arrays, made one after the other, so that a second
        model never stands on the device.
        """
        scaled = self.scaled(adapters)

        def one(path: Any, value: jax.Array) -> Any:
            name = name_of(path)
            a, b = _get(scaled, f"{name}_a"), _get(scaled, f"{name}_b")
            whole = value if a is None else _merge(value, a, b)
            return np.asarray(whole) if on_host else whole

        return jax.tree_util.tree_map_with_path(one, base)

    def scaled(self, adapters: Any) -> Any:
        """The adapters as the decoder adds them: B times alpha / rank."""
        return jax.tree_util.tree_map_with_path(lambda p, x: x * self.scale if name_of(p).endswith("_b") else x, adapters)


_merge = jax.jit(add_product)


class Adapted:
    """A decoder with its frozen parameters: `apply` takes the adapters where the parameters stand.

    Args:
      module: the decoder.
      base: its parameters.
      lora: settings.
    """

    def __init__(self, module: Any, base: Any, lora: Lora):
        self._module, self._base, self._lora, self.config = module, base, lora, module.config

    def outer_weights(self, adapters: Any) -> Any:
        """The frozen model's tree with what is outside the layers (embedding, head, last norm) adapted."""
        scaled = self._lora.scaled(adapters)

        def one(path: Any, value: jax.Array) -> jax.Array:
            a, b = (_get(scaled, f"{name_of(path)}_{suffix}") for suffix in ("a", "b"))
            return value if a is None or name_of(path).startswith("layers") else add_product(value, a, b)

        return jax.tree_util.tree_map_with_path(one, self._base)

    def apply(self, variables: Any, *arguments: Any, **named: Any) -> Any:
        """As of the module."""
        return self._module.apply({"params": self._base, LORA: self._lora.scaled(variables["params"])}, *arguments, **named)


def weights_of(module: Any, params: Any) -> Any:
    """The tables and the head for who reads them past the module's `apply`: `params` themselves, or with adapters the frozen model's
    with the products added outside the layers.
    """
    if not isinstance(module, Adapted):
        return params
    return module.outer_weights(params)


def _split(name: str, axes: tuple[str | None, ...]) -> tuple[int, int]:
    """(dimensions of the stack, dimensions of the input) of a kernel."""
    stack = sum(1 for i, axis in enumerate(axes) if axis == "layers" or (axis == "expert" and i < len(axes) - 1))
    inner = len(axes) - stack
    if inner < 2:
        raise UsageError(f"Lora.parameters fits {name}, which is no matrix; name kernels or tables.")
    return stack, 1 if axes[stack] in ("embed", "vocab") or inner == 2 else inner - 1


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *folders, last = name.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[last] = value


def _get(tree: Any, name: str) -> Any:
    for part in name.split("/"):
        if not isinstance(tree, dict) or part not in tree:
            return None
        tree = tree[part]
    return tree

"""Optimizers: their settings as frozen dataclasses (they stand in the ledger), their updates by optax.

The learning rate is not inside: `step.py` applies the schedule that is logged, so the two can't differ.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any

import gin
import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from ja_llm.errors import UsageError
from ja_llm.train.moments import PRECISIONS, stored_as
from ja_llm.train.settings import check_numbers, check_patterns, is_whole, later, matches, name_of

# Norm scales and biases; a scanned stack makes those two-dimensional too, so they are known by name.
NO_DECAY = ("*/scale", "*/bias")

_SHARE = ("a number from 0 to below 1", lambda x: 0 <= x < 1)
_ABOVE = ("a number above 0", lambda x: x is not None and x > 0)
# A field's range, which is the same in every optimizer that has it. Out of it the update is another one, in silence: a gradient that is
# clipped to a negative norm ascends, a moment that decays by 1 or more never forgets.
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("b1", "b2", "beta"), _SHARE),
    **dict.fromkeys(("eps", "clip_norm", "clipping_threshold"), _ABOVE),
    "weight_decay": ("a number of 0 or more", lambda x: x >= 0),
    "decay_rate": ("a number above 0 and up to 1", lambda x: 0 < x <= 1),
    "min_dim_size_to_factor": ("a whole number of 1 or more", lambda x: is_whole(x) and x >= 1),
    "moments": (f"one of {', '.join(map(repr, PRECISIONS))}", lambda x: x in PRECISIONS),
}


class Optimizer:
    """A frozen dataclass of settings that makes an optax transformation.

    Raises:
      UsageError: a setting is of another kind, or out of range.
    """

    def __post_init__(self) -> None:
        check_numbers(self)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, (words, fits) = getattr(self, field.name), _RANGES.get(field.name, ("", lambda _: True))
            if not fits(value) and not (value is None and type(None) in typing.get_args(field.type)):
                raise UsageError(f"{type(self).__name__}.{field.name} is {value!r}; give {words}.")

    def transformation(self, axes: Any = None) -> optax.GradientTransformation:
        """The update direction before the learning rate: new = old - rate * direction.

        A chain is an `optax.named_chain`: a checkpoint holds the moments under the links' names, and a link that comes or
        goes must not rename the others.

        Args:
          axes: the parameters' logical axes (`param_axes`); Muon alone asks for them.
        """
        raise NotImplementedError

    def check(self, params: Any) -> None:
        """Refuse settings that name parameters which are not there.

        Raises:
          UsageError: see `check_patterns`.
        """
        names = getattr(self, "no_decay", NO_DECAY)
        if names != NO_DECAY:
            check_patterns(f"{type(self).__name__}.no_decay", names, params)


def _chain(clip_norm: float | None, *links: tuple[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    clip = [] if clip_norm is None else [("clip", optax.clip_by_global_norm(clip_norm))]
    return optax.named_chain(*clip, *links)


def _decay(rate: float, no_decay: tuple[str, ...]) -> tuple[str, optax.GradientTransformation]:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: not matches(name_of(path), no_decay), params)

    return ("weight_decay", optax.add_decayed_weights(rate, mask=mask))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019); the defaults are those of Llama 2 and Swallow.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
      weight_decay: decoupled decay of every parameter but those of `no_decay`.
      clip_norm: global gradient norm above which gradients are scaled down; None for no clipping.
      no_decay: patterns of the names of parameters without decay; OLMo 2 decays everything but ("token_embedder/*",).
      moments: how both moments are stored between steps: "float32" (8 bytes a parameter), "bfloat16" (4) or "int8" (2), see
        `ja_llm.train.moments`. bfloat16 holds a `b2` up to about 0.99: above it a step's change is lost in rounding.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    no_decay: tuple[str, ...] = later(NO_DECAY)
    moments: str = later("float32")

    def transformation(self, axes: Any = None) -> optax.GradientTransformation:
        """See `Optimizer`."""
        adam = stored_as(self.moments, optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps))
        return _chain(self.clip_norm, ("adam", adam), _decay(self.weight_decay, self.no_decay))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) without momentum: second moments as a row and a column of each matrix.

    Of an array with more than two dimensions the two largest are factored, so a scanned stack keeps a row and a column for each layer.

    Attributes:
      decay_rate: second moments decay by 1 - t^-decay_rate at step t (section 7.2).
      clipping_threshold: an array's update is scaled down to this root mean square (section 6); None for no clipping.
      relative: multiply the update by the array's own root mean square (section 8), as T5 did; the rate is then relative to it.
      min_dim_size_to_factor: arrays with a smaller second-largest dimension keep whole second moments.
      weight_decay: decoupled decay, times the learning rate.
      clip_norm: as AdamW's; the paper has none.
      no_decay: as AdamW's.
    """

    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    relative: bool = False
    min_dim_size_to_factor: int = 128
    weight_decay: float = 0.0
    clip_norm: float | None = None
    no_decay: tuple[str, ...] = later(NO_DECAY)

    def transformation(self, axes: Any = None) -> optax.GradientTransformation:
        """See `Optimizer`."""
        factored = optax.scale_by_factored_rms(
            decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor, epsilon=1e-30
        )
        links = [("factored", factored)]
        if self.clipping_threshold is not None:
            links.append(("block_clip", optax.clip_by_block_rms(self.clipping_threshold)))
        if self.relative:
            links.append(("relative", optax.scale_by_param_block_rms()))
        return _chain(self.clip_norm, *links, _decay(self.weight_decay, self.no_decay))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the sign of an interpolated momentum, one moment.

    Its rate is three to ten times smaller than AdamW's and its decay as many times larger (section 5 of the paper).

    Attributes:
      b1: share of the momentum in the interpolation.
      b2: decay of the momentum.
      weight_decay: decoupled decay.
      clip_norm: as AdamW's.
      no_decay: as AdamW's.
      moments: as AdamW's.
    """

    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.3
    clip_norm: float | None = 1.0
    no_decay: tuple[str, ...] = later(NO_DECAY)
    moments: str = later("float32")

    def transformation(self, axes: Any = None) -> optax.GradientTransformation:
        """See `Optimizer`."""
        lion = stored_as(self.moments, optax.scale_by_lion(b1=self.b1, b2=self.b2))
        return _chain(self.clip_norm, ("lion", lion), _decay(self.weight_decay, self.no_decay))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the matrices of the blocks; AdamW for tables, head, router, norms and biases.

    An update of a matrix is its momentum made nearly orthogonal by five Newton-Schulz iterations, times
    0.2 sqrt(max(inputs, outputs)): the root mean square of AdamW's update (Liu et al. 2025, arXiv 2502.16982, eq. 4), so
    one learning rate and one decay serve both. Heads of a projection are one matrix; layers and experts are matrices of their own.

    Attributes:
      beta: decay of the matrices' momentum (Nesterov's).
      b1: AdamW's, for the other parameters.
      b2: AdamW's.
      eps: AdamW's.
      weight_decay: decoupled decay.
      clip_norm: as AdamW's.
      no_decay: as AdamW's.
    """

    beta: float = 0.95
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    no_decay: tuple[str, ...] = later(NO_DECAY)

    def transformation(self, axes: Any = None) -> optax.GradientTransformation:
        """See `Optimizer`.

        Raises:
          ValueError: `axes` is missing.
        """
        if axes is None:
            raise ValueError("Muon needs the parameters' logical axes")
        named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, tuple))
        dimensions = {name_of(path): _matrix(names) for path, names in named}

        def label(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if dimensions[name_of(path)] else "adam", params)

        def numbers(params: Any) -> Any:
            # Under `partition` the other parameters are masked out of the tree.
            return jax.tree_util.tree_map_with_path(lambda path, _: dimensions[name_of(path)], params)

        def scale(updates: Any, params: Any = None) -> Any:
            def one(path: Any, u: jax.Array) -> jax.Array:
                matrix = dimensions[name_of(path)]
                return u * (0.2 * math.sqrt(max(math.prod(u.shape[i] for i in side) for side in matrix or ())))

            return jax.tree_util.tree_map_with_path(one, updates)

        muon = optax.named_chain(
            ("momentum", scale_by_muon(beta=self.beta, weight_dimension_numbers=numbers)), ("shape", optax.stateless(scale))
        )
        adam = optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)
        both = optax.partition({"muon": muon, "adam": adam}, label)
        return _chain(self.clip_norm, ("muon", both), _decay(self.weight_decay, self.no_decay))


def _matrix(axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Which dimensions of a kernel are inputs and which outputs, of its logical axes; None for what is no matrix of a block."""
    stack = [i for i, name in enumerate(axes) if name == "layers" or (name == "expert" and i < len(axes) - 1)]
    inner = [i for i in range(len(axes)) if i not in stack]
    if len(inner) < 2 or {"vocab", "positions", "expert"} & {axes[i] for i in inner} or axes[inner[0]] == axes[inner[-1]]:
        return None
    if axes[inner[0]] == "embed":
        return MuonDimensionNumbers((inner[0],), tuple(inner[1:]))
    return MuonDimensionNumbers(tuple(inner[:-1]), (inner[-1],)) if axes[inner[-1]] == "embed" else None

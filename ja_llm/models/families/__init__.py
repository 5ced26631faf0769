"""Name-and-layout maps, one small file a family: which tensor and which key of its published form is what of ours.

One table serves both directions, so import and export can't disagree. A family is added by a file here whose `FAMILY` is a
`base.Family`, and its name in `ja_llm.models.config.FAMILIES`; see docs/families.md.
"""

import importlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families.base import Family, Key, Shape, Weight

__all__ = ["Family", "Key", "Part", "Tensor", "Weight", "family", "tensors"]


class Part(NamedTuple):
    """A parameter of ours, or a slice of one, that a tensor holds.

    Attributes:
      path: in the parameter tree.
      at: place in the parameter's leading axes (layer, expert); () takes all of it.
      shape: of that slice.
    """

    path: tuple[str, ...]
    at: tuple[int, ...]
    shape: Shape


class Tensor(NamedTuple):
    """A tensor of a model's published form.

    Attributes:
      name: in the files.
      weight: its layout.
      parts: what it holds.
    """

    name: str
    weight: Weight
    parts: tuple[Part, ...]

    @property
    def shape(self) -> Shape:
        """In the files."""
        return self.weight.their_shape([part.shape for part in self.parts])


def family(name: str) -> Family:
    """The family of that name, one of `ja_llm.models.config.FAMILIES`."""
    return importlib.import_module(f"{__name__}.{name}").FAMILY


def tensors(config: DecoderConfig) -> Iterator[Tensor]:
    """Every tensor of the published form, in its order.

    Raises:
      JaLlmError: the family has no name for one of the model's parameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    shapes = {tuple(key.key for key in keys): leaf.shape for keys, leaf in leaves}
    blocks = {path[1:]: shape for path, shape in shapes.items() if path[0] in ("layers", "layers_0")}
    kept = []
    for weight in family(config.family).weights:
        known = blocks if "{i}" in weight.theirs else shapes
        if all(tuple(path.split("/")) in known for path in weight.paths):
            kept.append(weight)
    named = {tuple(path.split("/")) for weight in kept for path in weight.paths}
    for path in [*blocks, *(path for path in shapes if not path[0].startswith("layers"))]:
        if path not in named:
            raise JaLlmError(
                f"a model of the family {config.family!r} has no {'/'.join(path)} in its published form; set the family that has one."
            )
    layered = [weight for weight in kept if "{i}" in weight.theirs]
    first = kept.index(layered[0])
    yield from (_tensor(config, weight, shapes) for weight in kept[:first])
    for i in range(config.num_layers):
        for weight in layered:
            yield from _of_layer(config, weight, shapes, i)
    yield from (_tensor(config, weight, shapes) for weight in kept[first:] if weight not in layered)


def _tensor(config: DecoderConfig, weight: Weight, shapes: dict[tuple[str, ...], Shape]) -> Tensor:
    paths = [tuple(path.split("/")) for path in weight.paths]
    return Tensor(weight.theirs, weight, tuple(Part(path, (), shapes[path]) for path in paths))


def _of_layer(config: DecoderConfig, weight: Weight, shapes: dict[tuple[str, ...], Shape], layer: int) -> Iterator[Tensor]:
    block, at_layer = ("layers", (layer,)) if config.scan_layers else (f"layers_{layer}", ())
    paths = [(block, *path.split("/")) for path in weight.paths]
    experts = range(config.num_experts) if "{e}" in weight.theirs else [None]
    for expert in experts:
        index = at_layer if expert is None else (*at_layer, expert)
        parts = tuple(Part(path, index, shapes[path][len(index) :]) for path in paths)
        yield Tensor(weight.theirs.format(i=layer, e=expert), weight, parts)

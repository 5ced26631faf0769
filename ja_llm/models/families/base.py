"""What a family file is made of: tensors and configuration keys, each a table that serves import and export alike."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig

REQUIRED = object()
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One published tensor and the parameter, or parameters, of ours that it holds.

    Which of a table's weights a model has follows from its parameter tree: a tied head or a missing bias needs no word here.

    Attributes:
      ours: path in the parameter tree of one block (where `theirs` names a layer) or of the model, "/" between names. Several
        paths: one tensor holds them all, key-value head by key-value head (each group its queries, then key, then value).
      theirs: tensor name; `{i}` stands for the layer and `{e}` for the expert.
      inputs: None for what is stored as it is; 0 for a vector that has several dimensions here (a bias [heads, kv]); else how
        many leading dimensions of our kernel are its input. Published kernels are matrices [output, input], ours
        [input..., output...].
    """

    ours: str | tuple[str, ...]
    theirs: str
    inputs: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """`ours` as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Our arrays (of one layer, of one expert), one for each path, as the published tensor; the same numbers."""
        parts = [self._flat(value) for value in values]
        if len(parts) > 1:
            groups = self._groups([value.shape for value in values])
            parts = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
            joined = np.concatenate(parts, axis=1)
            parts = [joined.reshape(-1, *joined.shape[2:])]
        return np.ascontiguousarray(parts[0])  # safetensors writes the bytes as they lie

    def to_ours(self, value: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Inverse of `to_theirs`, for our `shapes`."""
        parts = [value]
        if len(shapes) > 1:
            groups, flat = self._groups(shapes), [self._flat_shape(shape) for shape in shapes]
            ends = np.cumsum([shape[0] // groups for shape in flat])[:-1]
            pieces = np.split(value.reshape(groups, -1, *value.shape[1:]), ends, axis=1)
            parts = [piece.reshape(shape) for piece, shape in zip(pieces, flat, strict=True)]
        return [(part.T if self.inputs else part).reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def place(self, ours: np.ndarray, into: np.ndarray) -> None:
        """Copy one of `to_ours`' arrays to where it belongs, a C-contiguous array of its shape."""
        if self.inputs:
            rows = int(np.prod(into.shape[: self.inputs]))
            copy_turned(into.reshape(rows, -1), ours.reshape(rows, -1))
        else:
            into[...] = ours

    def blocks_of_ours(self, ours: np.ndarray) -> Iterator[np.ndarray]:
        """One of `to_ours`' arrays in C order, in flat blocks; each is whole until the next but one is asked for."""
        if self.inputs:
            return _turned_blocks(ours.reshape(int(np.prod(ours.shape[: self.inputs])), -1).T)
        return _blocks(np.ascontiguousarray(ours))

    def blocks_of_theirs(self, values: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """What `to_theirs` gives, as `blocks_of_ours`."""
        if self.inputs and len(values) == 1:
            return _turned_blocks(self._flat(values[0]).T)
        return _blocks(self.to_theirs(values))

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The published tensor's shape for our shapes."""
        flat = [self._flat_shape(shape) for shape in shapes]
        return (sum(shape[0] for shape in flat), *flat[0][1:])

    def _groups(self, shapes: Sequence[Shape]) -> int:
        """Key-value heads: the last part is the value projection, [input..., heads, kv] or, of a bias, [heads, kv]."""
        return shapes[-1][-2]

    def _flat_shape(self, shape: Shape) -> Shape:
        if self.inputs is None:
            return shape
        outputs = int(np.prod(shape[self.inputs :]))
        return (outputs, int(np.prod(shape[: self.inputs]))) if self.inputs else (outputs,)

    def _flat(self, value: np.ndarray) -> np.ndarray:
        if self.inputs is None:
            return value
        return value.reshape(self._flat_shape(value.shape)[::-1]).T


_ROWS, _LINES = 256, 512  # rows and bytes of a tile that stays in the processor's cache
_BLOCK = 1 << 22  # bytes of a block, which stays there too


def _blocks(value: np.ndarray) -> Iterator[np.ndarray]:
    """A C-contiguous array in flat pieces."""
    flat, step = value.reshape(-1), _BLOCK // value.itemsize
    return (flat[begin : begin + step] for begin in range(0, flat.size, step))


def _turned_blocks(lying: np.ndarray) -> Iterator[np.ndarray]:
    """The transpose of a C-contiguous matrix in flat pieces, by turns in two places."""
    tile = _LINES // lying.itemsize
    step = max(_BLOCK // max(lying.shape[0] * lying.itemsize, 1) // tile, 1) * tile  # of its columns
    step = min(step, lying.shape[1])
    rooms = np.empty((2, step, lying.shape[0]), lying.dtype)
    for turn, begin in enumerate(range(0, lying.shape[1], step)):
        part = lying[:, begin : begin + step]
        room = rooms[turn % 2, : part.shape[1]]
        copy_turned(room, part.T)
        yield room.reshape(-1)


def copy_turned(into: np.ndarray, value: np.ndarray) -> None:
    """into[...] = value for matrices of one dtype, of which the first lies by rows and the other by columns.

    Tile by tile, each by way of a copy whose rows lie close together: rows that are a power of two apart would all fall into the same
    few lines of the cache. As integers, which numpy copies faster than bfloat16.
    """
    kind = np.dtype(f"u{value.dtype.itemsize}")
    into, lying = into.view(kind), value.T.view(kind)
    columns = _LINES // kind.itemsize
    tile = np.empty((_ROWS, columns + 32), kind)
    for row in range(0, lying.shape[0], _ROWS):
        for column in range(0, lying.shape[1], columns):
            piece = lying[row : row + _ROWS, column : column + columns]
            held = tile[: piece.shape[0], : piece.shape[1]]
            held[...] = piece
            into[column : column + columns, row : row + _ROWS] = held.T


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of config.json and the field of `DecoderConfig` that it is.

    Attributes:
      theirs: the key.
      ours: the field.
      default: the value of a file that lacks the key, as transformers' configuration class has it.
      values: their value -> ours, where the words differ or only some are computed here; the first of equals is written.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    values: Mapping[Any, Any] | None = None

    def read(self, stored: Mapping[str, Any], where: str) -> Any:
        """Our value.

        Raises:
          JaLlmError: the key is absent and has no default, or its value is not computed here.
        """
        value = stored.get(self.theirs, self.default)
        if value is REQUIRED or (value is None and self.default is REQUIRED):
            raise JaLlmError(f"{where}: nothing says {self.theirs}; download the model's config.json again.")
        if self.values is None:
            return value
        if not isinstance(value, str | int | None) or value not in self.values:
            raise JaLlmError(
                f"{where}: {self.theirs} is {value!r}, which is not computed here; import a model of another kind "
                f"({', '.join(map(str, self.values))})."
            )
        return self.values[value]

    def write(self, config: DecoderConfig) -> Any:
        """Their value, None where they have no word for ours."""
        value = getattr(config, self.ours)
        return value if self.values is None else next((theirs for theirs, ours in self.values.items() if ours == value), None)


Read = Callable[[Mapping[str, Any], str], dict[str, Any]]
Write = Callable[[DecoderConfig], dict[str, Any]]
Pair = tuple[Read, Write]


@dataclasses.dataclass(frozen=True)
class Family:
    """Everything about a family's published form.

    Attributes:
      name: of the family, of its module, and config.json's model_type.
      title: for people.
      architecture: transformers' class, as config.json names it.
      weights: the table of tensors, in the order of the published files: before, in and behind the layers.
      keys: the table of configuration keys.
      more: further pairs (read, write) for what is no single key: read(config.json, its path) gives fields of DecoderConfig,
        write(config) keys. They see the whole; read may raise JaLlmError.
      fixed: fields that are the same for each model of the family.
      settings: keys that are written as they are and, in a file that has them, must have one of the values; the first is
        written.
      ignored: tensor names (a regular expression) that say nothing which the configuration does not.
    """

    name: str
    title: str
    architecture: str
    weights: tuple[Weight, ...]
    keys: tuple[Key, ...]
    more: tuple[Pair, ...] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Iterable[Any]] = dataclasses.field(default_factory=dict)
    ignored: str = r"(?!)"

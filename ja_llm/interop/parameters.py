"""The parameters of a model and its published tensors: names and shapes checked, read into arrays, compared, and turned back.

Nothing is permuted or scaled, so what is written holds the very numbers that were read.
"""

import contextlib
import functools
import math
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ja_llm.errors import JaLlmError
from ja_llm.interop.safetensors_files import FLOATS, Tensors, write_tensors
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families import family, tensors
from ja_llm.progress import Progress
from ja_llm.train.array_files import Differs, NewArrays
from ja_llm.train.written_arrays import first_difference

NUMPY = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def check_names(folder: Tensors, config: DecoderConfig, source: Path) -> None:
    """Refuse missing, left-over and misshapen tensors before anything is read."""
    there = {name for name in folder if not re.fullmatch(family(config.family).ignored, name)}
    wanted = {tensor.name: tensor.shape for tensor in tensors(config)}
    for name in sorted(there & {*wanted, "lm_head.weight"}):
        _check_type(folder.dtype(name), name, source)
    if config.tie_embeddings and "lm_head.weight" in there:
        # Some files repeat the tied table under the head's name.
        table = next(tensor.name for tensor in tensors(config) if tensor.weight.ours == "token_embedder/embedding")
        if table in there and not np.array_equal(folder["lm_head.weight"], folder[table]):
            raise JaLlmError(
                f"{source}: config.json says that head and embedding are tied, but lm_head.weight differs; set tie_word_embeddings to false."
            )
        there.discard("lm_head.weight")
    if missing := [name for name in wanted if name not in there]:
        raise JaLlmError(f"{source}: {_few(missing)} of this {config.family} model missing; download or export it again.")
    if extra := sorted(there - wanted.keys()):
        raise JaLlmError(
            f"{source}: {_few(extra)} unknown to the {config.family} family; this is another architecture than config.json says."
        )
    for name, shape in wanted.items():
        if folder.shape(name) != shape:
            raise JaLlmError(
                f"{source}: the tensor {name} is {folder.shape(name)}, config.json asks for {shape}; they belong to different models."
            )


def _check_type(kind: str, name: str, source: Path) -> None:
    if kind not in FLOATS:
        advice = "convert it to float32" if kind == "F64" else "use weights that are not quantised"
        raise JaLlmError(f"{source}: the tensor {name} is {kind}; {', '.join(FLOATS)} can be imported, so {advice}.")


def _few(names: list[str]) -> str:
    return (
        f"the tensor {names[0]} is"
        if len(names) == 1
        else f"the tensors {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} ({len(names)} in all) are"
    )


def read_params(folder: Tensors, config: DecoderConfig, source: Path, shardings: Any = None) -> Any:
    """The parameters, tensor by tensor; `check_names` comes first.

    Args:
      folder: of the tensors.
      config: of the model.
      source: for messages.
      shardings: a tree of NamedSharding: each tensor then goes straight to the devices that hold it; None gives numpy arrays.

    Returns:
      The tree of parameters. The host's memory holds one tensor a thread beside it.

    Raises:
      JaLlmError: a number is not finite, or too large for the parameters' dtype.
    """
    if shardings is not None:
        return read_spread(folder, config, source, shardings)[0]
    params = empty_params(config)
    read_into(folder, config, source, params)
    return params


def empty_params(config: DecoderConfig) -> Any:
    """Numpy arrays for the parameters, to be filled."""
    return jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract_params(config))


def read_into(
    folder: Tensors,
    config: DecoderConfig,
    source: Path,
    params: Any,
    filled: Callable[[tuple[str, ...], tuple[int, ...]], None] = lambda path, at: None,
) -> dict[str, str]:
    """Fill the arrays with the numbers of a source, reading each of its bytes once; errors as of `read_params`.

    Args:
      folder: of the tensors.
      config: of the model.
      source: for messages.
      params: numpy arrays, as of `empty_params`.
      filled: is told the path and place of what lies there, in several threads.

    Returns:
      Name of each file -> hex SHA-256 of its bytes.
    """
    wanted = {tensor.name: tensor for tensor in tensors(config)}
    with _counted("import", len(wanted)) as count:

        def take(name: str, value: np.ndarray) -> None:
            if name not in wanted:  # one that says nothing new, see `check_names`
                return
            tensor = wanted[name]
            value = _finite(value, name, source, config.param_dtype)
            shapes = [part.shape for part in tensor.parts]
            for part, ours in zip(tensor.parts, tensor.weight.to_ours(value, shapes), strict=True):
                # [...] keeps a view of an array without axes to choose from
                tensor.weight.place(ours, _leaf(params, part.path)[(*part.at, ...)])
                filled(part.path, part.at)
            count()

        return folder.each(take)


def read_to_files(folder: Tensors, config: DecoderConfig, source: Path, arrays: NewArrays) -> dict[str, str]:
    """Put the numbers of a source into a checkpoint's files as they come; the memory holds the tensors that are being read.

    Args:
      folder: of the tensors.
      config: of the model.
      source: for messages.
      arrays: of the checkpoint; closed at the end, or abandoned where this raises.

    Returns:
      Name of each file -> hex SHA-256 of its bytes.

    Raises:
      JaLlmError: as `read_params` and `NewArrays`; something reads back differently.
    """
    wanted, kind = {tensor.name: tensor for tensor in tensors(config)}, NUMPY[config.param_dtype]
    with _counted("import", len(wanted)) as count, arrays:

        def take(name: str, value: np.ndarray) -> None:
            if name not in wanted:
                return
            tensor, known = wanted[name], arrays.shapes
            for part, ours in zip(tensor.parts, tensor.weight.to_ours(value, [p.shape for p in tensor.parts]), strict=True):
                begin = kind.itemsize * math.prod(part.shape)
                begin *= int(np.ravel_multi_index(part.at, known[part.path][: len(part.at)])) if part.at else 0
                for block in tensor.weight.blocks_of_ours(ours):
                    numbers = _finite(block, name, source, config.param_dtype)
                    try:
                        arrays.write(part.path, begin, numbers)
                    except Differs:
                        raise _differs(name, source) from None
                    begin += numbers.nbytes
            count()

        return folder.each(take)


def _differs(name: str, source: Path) -> JaLlmError:
    return JaLlmError(
        f"{source}: the tensor {name} reads back from the model directory with other numbers; the disk may be failing, import again."
    )


def read_spread(folder: Tensors, config: DecoderConfig, source: Path, shardings: Any) -> tuple[Any, dict[str, str]]:
    """(`read_params` with shardings, name of each file -> hex SHA-256 of its bytes)."""
    params = jax.tree.map(lambda a, s: jnp.zeros(a.shape, a.dtype, device=s), abstract_params(config), shardings)
    wanted, turn = {tensor.name: tensor for tensor in tensors(config)}, threading.Lock()
    with _counted("import", len(wanted)) as count:

        def take(name: str, value: np.ndarray) -> None:
            if name not in wanted:
                return
            tensor = wanted[name]
            value = _finite(value, name, source, config.param_dtype)
            shapes = [part.shape for part in tensor.parts]
            for part, ours in zip(tensor.parts, tensor.weight.to_ours(value, shapes), strict=True):
                group, own = _leaf(params, part.path[:-1]), np.array(ours)  # the devices read it after `value` is written over
                with turn:
                    group[part.path[-1]] = _place(group[part.path[-1]], own, part.at, _leaf(shardings, part.path))
            count()

        return params, folder.each(take)


@contextlib.contextmanager
def _counted(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress that several threads count."""
    turn = threading.Lock()
    with Progress(label, total, "tensor") as progress:

        def count() -> None:
            with turn:
                progress.update()

        yield count


def compare(checkpoint: Path, params: Any, config: DecoderConfig, source: Path) -> None:
    """Read a written checkpoint and compare it, bit for bit, with the parameters that were to be written.

    Args:
      checkpoint: holds the item `params`.
      params: as `read_params` gives them.
      config: of the model.
      source: what was imported, for messages.

    Raises:
      JaLlmError: it can't be read, or something differs; the source's tensor is named.
    """
    found = first_difference(checkpoint / "params", params)
    if found is not None:
        path, first = found
        parts = ((tensor.name, part) for tensor in tensors(config) for part in tensor.parts)
        name = next(name for name, part in parts if part.path == path and part.at == first[: len(part.at)])
        raise _differs(name, source)


def _place(leaf: jax.Array, value: np.ndarray, index: tuple[int, ...], sharding: NamedSharding) -> jax.Array:
    """`leaf` with `value` at `index` of its leading axes; its buffer is used again."""
    axes = tuple(sharding.spec) + (None,) * (leaf.ndim - len(sharding.spec))
    part = jax.device_put(value, NamedSharding(sharding.mesh, PartitionSpec(*axes[len(index) :])))
    return _setter(sharding)(leaf, part, index) if index else part


@functools.lru_cache(maxsize=64)
def _setter(sharding: NamedSharding) -> Any:
    return jax.jit(lambda leaf, part, index: leaf.at[index].set(part), donate_argnums=0, out_shardings=sharding)


def _finite(value: np.ndarray, name: str, where: Path | str, dtype: str) -> np.ndarray:
    if not all_finite(value):
        raise JaLlmError(
            f"{where}: the tensor {name} holds numbers that are not finite; the file is damaged or the training went wrong."
        )
    if value.dtype == NUMPY[dtype]:
        return value
    with np.errstate(over="ignore"):
        value = value.astype(NUMPY[dtype])
    if not all_finite(value):
        wider = "bfloat16 or float32" if dtype == "float16" else "float32"
        raise JaLlmError(f"{where}: the tensor {name} has numbers too large for {dtype}; choose {wider}.")
    return value


# An infinity or NaN has all bits of the exponent set. As an integer with a sign the least of the positive ones is this, and as one
# without, the least of the negative ones has the sign's bit more; nothing finite of either sign is above.
_INFINITY = {
    "float32": (np.int32, np.uint32, 0x7F800000, 0xFF800000),
    "bfloat16": (np.int16, np.uint16, 0x7F80, 0xFF80),
    "float16": (np.int16, np.uint16, 0x7C00, 0xFC00),
}
_CACHED = 1 << 18  # numbers that are looked at twice while they are in the processor's cache


def all_finite(value: np.ndarray) -> bool:
    """Whether no number is infinite or NaN; by the bits, because numpy has no fast test for bfloat16."""
    if value.dtype.name not in _INFINITY:
        return bool(np.isfinite(value).all())
    signed, unsigned, positive, negative = _INFINITY[value.dtype.name]
    flat = np.ascontiguousarray(value).reshape(-1)
    pieces = (flat[n : n + _CACHED] for n in range(0, flat.size, _CACHED))
    return all(piece.view(signed).max() < positive and piece.view(unsigned).max() < negative for piece in pieces)


def published(params: Any, config: DecoderConfig, dtype: str) -> Callable[[str], Iterator[np.ndarray]]:
    """What gives the published tensor of a name in flat blocks of `dtype`, in C order; it may be called in several threads.

    Each block is whole until the next but one is asked for.

    Raises (what it gives):
      JaLlmError: a number is not finite, or too large for `dtype`.
    """
    known = {tensor.name: tensor for tensor in tensors(config)}

    def blocks(name: str) -> Iterator[np.ndarray]:
        values = [_leaf(params, part.path)[part.at] for part in known[name].parts]
        for block in known[name].weight.blocks_of_theirs(values):
            yield _finite(block, name, "checkpoint", dtype)

    return blocks


def write_published(folder: Path, params: Any, config: DecoderConfig, dtype: str, max_bytes: int) -> dict[str, str]:
    """Write the published tensors of a model, as `write_tensors`, with progress.

    Raises:
      JaLlmError: as `write_tensors` and `published`.
    """
    plan, blocks = [(t.name, NUMPY[dtype], t.shape) for t in tensors(config)], published(params, config, dtype)
    with _counted("export", len(plan)) as count:

        def counted(name: str) -> Iterator[np.ndarray]:
            yield from blocks(name)
            count()

        return write_tensors(folder, plan, counted, max_bytes)

"""The parameters of a model and its published tensors: names and shapes checked, read into arrays, compared, and turned back.

Nothing is permuted or scaled, so what is written holds the very numbers that were read.
"""

import concurrent.futures
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ja_llm.errors import JaLlmError
from ja_llm.interop.safetensors_files import FLOATS, Tensors
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families import Tensor, family, tensors
from ja_llm.progress import track

_THREADS = 2
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
      The tree of parameters. The host's memory holds one tensor a thread beside it, and with `shardings` one.

    Raises:
      JaLlmError: a number is not finite, or too large for the parameters' dtype.
    """
    abstract = abstract_params(config)
    if shardings is None:
        return _read_arrays(folder, config, source, jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract))
    params = jax.tree.map(lambda a, s: jnp.zeros(a.shape, a.dtype, device=s), abstract, shardings)
    for name, weight, parts in track(list(tensors(config)), "import", "tensor"):
        value = _finite(folder[name], name, source, config.param_dtype)
        for part, ours in zip(parts, weight.to_ours(value, [part.shape for part in parts]), strict=True):
            group = _leaf(params, part.path[:-1])
            group[part.path[-1]] = _place(group[part.path[-1]], ours, part.at, _leaf(shardings, part.path))
    return params


def _read_arrays(folder: Tensors, config: DecoderConfig, source: Path, params: Any) -> Any:
    """Fill the arrays; two threads, because turning a matrix takes longer than reading it."""

    def one(tensor: Tensor) -> None:
        value = _finite(folder[tensor.name], tensor.name, source, config.param_dtype)
        shapes = [part.shape for part in tensor.parts]
        for part, ours in zip(tensor.parts, tensor.weight.to_ours(value, shapes), strict=True):
            # [...] keeps a view of an array without axes to choose from
            tensor.weight.place(ours, _leaf(params, part.path)[(*part.at, ...)])

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done in track([pool.submit(one, tensor) for tensor in tensors(config)], "import", "tensor"):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return params


def compare(folder: Tensors, params: Any, config: DecoderConfig, source: Path) -> None:
    """Read every tensor again and compare it with the parameters, which were written to a disk and read from it.

    Raises:
      JaLlmError: one differs.
    """
    for name, weight, parts in track(list(tensors(config)), "check", "tensor"):
        value = _finite(folder[name], name, source, config.param_dtype)
        for part, ours in zip(parts, weight.to_ours(value, [part.shape for part in parts]), strict=True):
            if not np.array_equal(_on_host(_leaf(params, part.path), part.at), ours):
                raise JaLlmError(
                    f"{source}: the tensor {name} reads back from the model directory with other numbers; the disk may be failing, import again."
                )


def _on_host(leaf: Any, at: tuple[int, ...]) -> np.ndarray:
    """A slice of a parameter: of one that lies on the host no copy, else what the slice alone needs."""
    here = isinstance(leaf, np.ndarray) or {device.platform for device in leaf.devices()} == {"cpu"} and len(leaf.devices()) == 1
    return np.asarray(leaf)[at] if here else np.asarray(leaf[at])


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
        raise JaLlmError(f"{where}: the tensor {name} has numbers too large for {dtype}; choose bfloat16 or float32.")
    return value


# An infinity or NaN has all bits of the exponent set: without the sign it is at least this.
_EXPONENTS = {"float32": (np.uint32, 0xFF000000), "bfloat16": (np.uint16, 0xFF00), "float16": (np.uint16, 0xF800)}


def all_finite(value: np.ndarray) -> bool:
    """Whether no number is infinite or NaN; by the bits, because numpy has no fast test for bfloat16."""
    if value.dtype.name not in _EXPONENTS:
        return bool(np.isfinite(value).all())
    whole, least = _EXPONENTS[value.dtype.name]
    bits = np.ascontiguousarray(value).view(whole).reshape(-1)
    return all((bits[n : n + 65536] << 1).max() < least for n in range(0, bits.size, 65536))


def published_tensors(params: Any, config: DecoderConfig, dtype: str, label: str) -> Iterator[tuple[str, np.ndarray]]:
    """The published tensors, one after the other."""
    for name, weight, parts in track(list(tensors(config)), label, "tensor"):
        values = [_leaf(params, part.path)[part.at] for part in parts]
        yield name, weight.to_theirs([_finite(value, name, "checkpoint", dtype) for value in values])

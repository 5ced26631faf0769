"""Parameters into a new checkpoint, each piece as soon as it is there, and what lies there compared with them.

The arrays of a model that was made at once (imported, expanded) lie in files of their own, a layer each where they are large: nothing is
copied on the way to the disk, and a part can be read without the rest. Two-byte types are not compressed: by zstd they become a tenth
smaller and take many times as long.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from ja_llm import storage
from ja_llm.train.checkpoint_errors import readable, writable
from ja_llm.train.stored_arrays import check_digests, check_shapes, stored_tree

_CHUNK = 1 << 27  # bytes; no file of an array is larger
_SMALL = 1 << 25  # bytes of an array of all layers that is left in one file


class Filling:
    """Which parts of parameters are there, while they are being read.

    Args:
      parts: (path in the tree of parameters, place in the parameter's leading axes) of each.
    """

    def __init__(self, parts: list[tuple[tuple[str, ...], tuple[int, ...]]]):
        self._left = collections.Counter((path, at[:1]) for path, at in parts)
        self._there: dict[Any, concurrent.futures.Future] = {key: concurrent.futures.Future() for key in self._left}
        self._turn, self._ended = threading.Lock(), False

    def filled(self, path: tuple[str, ...], at: tuple[int, ...]) -> None:
        """A part is there.

        Raises:
          CancelledError: nobody waits for it any more.
        """
        with self._turn:
            if self._ended:
                raise concurrent.futures.CancelledError
            self._left[path, at[:1]] -= 1
            if not self._left[path, at[:1]]:
                self._there[path, at[:1]].set_result(None)

    def end(self) -> None:
        """No more will come, or be waited for."""
        with self._turn:
            self._ended = True
            for future in self._there.values():
                if not future.done():
                    future.set_exception(RuntimeError("the numbers did not come"))

    async def wait(self, path: tuple[str, ...], at: tuple[int, ...]) -> None:
        """Until all parts at the place, or of the whole parameter, are there.

        Raises:
          RuntimeError: they will not come.
        """
        for (other, place), future in self._there.items():
            if other == path and place[: len(at)] == at[: len(place)]:
                await asyncio.wrap_future(future)


class _Handler(ocp.type_handlers.NumpyHandler):
    """Writes numpy arrays, a layer at a time where that is a file of its own.

    Args:
      params: all that will be written.
      filling: as of `write_params`.
      raw: the numbers lie in the files as they are.
    """

    def __init__(self, params: Any, filling: Filling | None, raw: bool):
        super().__init__(deepcopy_host_arrays=False)  # by default for callers that go on changing them
        self._filling, self._raw = filling, raw
        leaves = jax.tree_util.tree_leaves_with_path(params)
        self._paths = {_place_of(leaf): tuple(key.key for key in keys) for keys, leaf in leaves if isinstance(leaf, np.ndarray)}

    async def _open_and_write(self, value: np.ndarray, tspec: dict[str, Any], ts_context: Any) -> None:
        array = await tensorstore.open(tensorstore.Spec(tspec), create=True, open=True, context=ts_context)
        chunk = _chunk_of(array)
        by_layer = value.ndim > 1 and chunk[0] == 1 < value.shape[0]
        for at in [(i,) for i in range(value.shape[0])] if by_layer else [()]:
            if self._filling is not None:
                await self._filling.wait(self._paths[_place_of(value)], at)
            part = slice(at[0], at[0] + 1) if at else ...
            if not self._raw:
                await array[part].write(value[part], can_reference_source_data_indefinitely=True)
                continue
            for place in _places(value.shape, chunk):
                if not at or place[0].start == at[0]:
                    await asyncio.to_thread(_write_raw, Path(tspec["kvstore"]["path"]) / _name(place, chunk), value[place])


def _chunk_of(array: tensorstore.TensorStore) -> tuple[int, ...]:
    return tuple(size or 1 for size in array.chunk_layout.read_chunk.shape or ())


def _places(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Where each chunk lies in an array; they divide it."""
    for begin in itertools.product(*(range(0, size, step) for size, step in zip(shape, chunk, strict=True))):
        yield tuple(slice(b, b + step) for b, step in zip(begin, chunk, strict=True))


def _name(place: tuple[slice, ...], chunk: tuple[int, ...]) -> str:
    """A chunk's file (zarr v2, "Chunks")."""
    return ".".join(str(part.start // step) for part, step in zip(place, chunk, strict=True)) or "0"


def _write_raw(path: Path, value: np.ndarray) -> None:
    """A chunk without compression: its numbers in C order. TensorStore would copy those of one layer first."""
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    with path.open("wb", buffering=0) as file:
        written = 0
        while written < len(data):
            written += file.write(data[written:])
        os.fsync(file.fileno())


def _place_of(value: np.ndarray) -> int:
    return value.__array_interface__["data"][0]


def write_params(folder: Path, params: Any, name: Path, step: int = 0, filling: Filling | None = None) -> None:
    """Write parameters as the checkpoint `step` of the model directory that lies in `folder` and will be called `name`.

    The memory holds little beside them.

    Args:
      folder: the model directory.
      params: pytree of arrays.
      name: what messages call it.
      step: the checkpoint's number.
      filling: what of `params`, then numpy arrays, is there yet: each part is written when it is.

    Raises:
      JaLlmError: the disk is full, or it can't be written.
    """
    path = folder / "checkpoints" / str(step) / "params"
    usual = (jax.Array, ocp.type_handlers.get_type_handler(jax.Array))
    raw = all(leaf.dtype.itemsize == 2 for leaf in jax.tree.leaves(params))
    types = ocp.type_handlers.create_type_handler_registry((np.ndarray, _Handler(params, filling, raw)), usual)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types, use_ocdbt=False, use_compression=not raw)
    how = jax.tree_util.tree_map_with_path(_save_args, params)
    with writable(name), ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(params, save_args=how))


def _save_args(keys: Any, leaf: Any) -> Any:
    layers = keys[0].key == "layers" and leaf.ndim > 1 and leaf.nbytes > _SMALL
    return ocp.SaveArgs(chunk_byte_size=_CHUNK, shard_axes=(0,) if layers else ())


def first_difference(item: Path, params: Any) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Compare what `write_params` wrote with what it was given; two of its files are in memory at a time.

    Args:
      item: the folder `params` of the checkpoint.
      params: the arrays.

    Returns:
      None, or (path in the tree, indices) of the first element that differs.

    Raises:
      JaLlmError: it can't be read, or has other arrays.
    """
    own = threading.local()

    def differs(chunk: _Chunk) -> tuple[int, ...] | None:
        meant = _on_host(chunk.leaf, chunk.place)
        if getattr(own, "room", np.empty(0)).size < meant.nbytes:
            own.room = np.empty(meant.nbytes, np.uint8)
        stored = own.room[: meant.nbytes].view(meant.dtype).reshape(meant.shape)
        chunk.read(stored)
        if same_bits(stored, meant):
            return None
        kind = f"u{stored.dtype.itemsize}"
        first = np.unravel_index(np.argmax(stored.view(kind) != meant.view(kind)), stored.shape)
        return tuple(part.start + int(n) for part, n in zip(chunk.place, first, strict=True))

    with readable(item.parent), concurrent.futures.ThreadPoolExecutor(2) as pool:
        chunks = list(_chunks(item, params))
        found = ((chunk.path, first) for chunk, first in zip(chunks, pool.map(differs, chunks), strict=True) if first is not None)
        return next(found, None)


def read_on_host(item: Path, abstract: Any) -> Any | None:
    """Parameters that `write_params` wrote, as numpy arrays, each number read straight to its place.

    Args:
      item: the folder `params` of the checkpoint.
      abstract: shapes and dtypes.

    Returns:
      The arrays; None where the checkpoint lies otherwise (in a bucket or in one database, as a run's does, or in another dtype).

    Raises:
      JaLlmError: it can't be read, or is of another model.
    """
    if storage.is_remote(item) or (item / "manifest.ocdbt").exists():
        return None
    with readable(item.parent), concurrent.futures.ThreadPoolExecutor(2) as pool:
        stored = stored_tree(item)
        check_shapes(stored, abstract, "model")
        if not jax.tree.all(jax.tree.map(lambda there, wanted: there.dtype == wanted.dtype, stored, abstract)):
            return None
        params = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract)
        for _ in pool.map(lambda chunk: chunk.read(chunk.leaf[(*chunk.place, ...)]), _chunks(item, params)):
            pass
        check_digests(item.parent, "params", params)
        return params


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A chunk on disk.

    Attributes:
      path: of its array in the tree.
      leaf: the array in memory.
      place: of the chunk in the array.
      array: what TensorStore reads it with.
      file: that holds its numbers as they are; None where they are compressed.
    """

    path: tuple[str, ...]
    leaf: Any
    place: tuple[slice, ...]
    array: tensorstore.TensorStore
    file: Path | None

    def read(self, into: np.ndarray) -> None:
        """The chunk's numbers into an array of its shape and dtype."""
        if self.file is None:
            into[...] = self.array[self.place].read().result() if self.place else self.array.read().result()
            return
        room = into if into.flags.c_contiguous else np.empty(into.shape, into.dtype)
        data, begin = room.reshape(-1).view(np.uint8).data, 0
        with self.file.open("rb", buffering=0) as file:
            while begin < len(data) and (came := file.readinto(data[begin:])):  # type: ignore[attr-defined]
                begin += came
            if begin < len(data) or file.read(1):
                raise ValueError(f"{self.file} is not as long as its numbers")
        if room is not into:
            into[...] = room


def _chunks(item: Path, params: Any) -> Iterator[_Chunk]:
    """What `write_params` wrote for these arrays."""
    check_shapes(stored_tree(item), params, "model")
    context = tensorstore.Context()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        folder = item / ".".join(path)
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/"}, "fill_missing_data_reads": False}
        array = tensorstore.open(spec, open=True, read=True, context=context).result()
        chunk, raw = _chunk_of(array), array.spec().to_json()["metadata"]["compressor"] is None
        for place in _places(leaf.shape, chunk):
            yield _Chunk(path, leaf, place, array, folder / _name(place, chunk) if raw else None)


def _on_host(leaf: Any, where: tuple[slice, ...]) -> np.ndarray:
    """A part of a parameter: of one that lies on the host no copy, else what the part alone needs."""
    here = isinstance(leaf, np.ndarray) or {device.platform for device in leaf.devices()} == {"cpu"} and len(leaf.devices()) == 1
    return np.asarray(leaf)[where] if here else np.asarray(leaf[where])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one dtype and shape hold the same bits."""
    if a.flags.c_contiguous and b.flags.c_contiguous and a.nbytes % 8 == 0:
        return np.array_equal(a.reshape(-1).view(np.uint64), b.reshape(-1).view(np.uint64))
    return np.array_equal(a.view(f"u{a.dtype.itemsize}"), b.view(f"u{b.dtype.itemsize}"))

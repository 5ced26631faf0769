"""Whole parameters into a new checkpoint, out of it again, and compared with what lies there; how they lie there: `array_files`."""

import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore

from ja_llm import storage
from ja_llm.train.array_files import Names, RawArray, Shape, lay_out, name_of, names_of, places, read_at, write_at
from ja_llm.train.checkpoint_errors import readable, writable
from ja_llm.train.stored_arrays import check_digests, check_shapes, stored_tree

_THREADS = 2


def write_params(folder: Path, params: Any, name: Path, step: int = 0) -> None:
    """Write parameters as the checkpoint `step` of the model directory that lies in `folder` and will be called `name`.

    The memory holds little beside them.

    Args:
      folder: the model directory.
      params: pytree of arrays.
      name: what messages call it.
      step: the checkpoint's number.

    Raises:
      JaLlmError: the disk is full, or it can't be written.
    """
    with writable(name), concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        chunks = _chunks(lay_out(folder, params, step), params)
        jobs = [pool.submit(chunk.write) for chunk in chunks]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def first_difference(item: Path, params: Any) -> tuple[Names, Shape] | None:
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

    def differs(chunk: _Chunk) -> Shape | None:
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


def read_on_host(item: Path, abstract: Any, in_parts: bool = False) -> Any | None:
    """Parameters that `write_params` wrote, as numpy arrays, each number read straight to its place.

    Args:
      item: the folder `params` of the checkpoint.
      abstract: shapes and dtypes.
      in_parts: where the numbers lie in the files as they are, give what reads a part of an array when it is asked for (`RawArray`).

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
        if in_parts and (arrays := _in_files(item, abstract)) is not None:
            return arrays
        params = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), abstract)
        for _ in pool.map(lambda chunk: chunk.read(chunk.leaf[(*chunk.place, ...)]), _chunks(item, params)):
            pass
        check_digests(item.parent, "params", params)
        return params


def _in_files(item: Path, abstract: Any) -> Any | None:
    """What reads the arrays' parts from their files; None where these are compressed, or no stretches, or have digests, of whole arrays."""
    if (item.parent / "digests").exists():
        return None
    context, leaves = tensorstore.Context(), []
    paths, tree = jax.tree_util.tree_flatten_with_path(abstract)
    for keys, _ in paths:
        array, files = _opened(item, names_of(keys), context)
        if array.spec().to_json()["metadata"]["compressor"] is not None or not files.are_stretches:
            return None
        files.check_sizes()
        leaves.append(files)
    return jax.tree.unflatten(tree, leaves)


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

    path: Names
    leaf: Any
    place: tuple[slice, ...]
    array: tensorstore.TensorStore
    file: Path | None

    def read(self, into: np.ndarray) -> None:
        """The chunk's numbers into an array of its shape and dtype."""
        if self.file is None:
            into[...] = self.array[self.place].read().result() if self.place else self.array.read().result()
            return
        if self.file.stat().st_size != into.nbytes:
            raise ValueError(f"{self.file} is not as long as its numbers")
        room = into if into.flags.c_contiguous else np.empty(into.shape, into.dtype)
        read_at(self.file, 0, room.reshape(-1).view(np.uint8).data)
        if room is not into:
            into[...] = room

    def write(self) -> None:
        """The array's numbers into the chunk."""
        value = _on_host(self.leaf, self.place)
        if self.file is None:
            (self.array[self.place] if self.place else self.array).write(value).result()
            return
        with self.file.open("xb", buffering=0) as file:
            write_at(file.fileno(), np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, 0)
            os.fsync(file.fileno())


def _chunks(item: Path, params: Any) -> Iterator[_Chunk]:
    """What `write_params` wrote for these arrays."""
    check_shapes(stored_tree(item), params, "model")
    context = tensorstore.Context()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = names_of(keys)
        array, files = _opened(item, path, context)
        for place in places(leaf.shape, files.chunk):
            raw = array.spec().to_json()["metadata"]["compressor"] is None
            yield _Chunk(path, leaf, place, array, files.folder / name_of(place, files.chunk) if raw else None)


def _opened(item: Path, path: Names, context: tensorstore.Context) -> tuple[tensorstore.TensorStore, RawArray]:
    """An array on disk, and its files."""
    folder = item / ".".join(path)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }
    array = tensorstore.open(spec, open=True, context=context).result()
    chunk = tuple(size or 1 for size in array.chunk_layout.read_chunk.shape or ())
    return array, RawArray(folder, array.shape, array.dtype.numpy_dtype, chunk)


def _on_host(leaf: Any, where: tuple[slice, ...]) -> np.ndarray:
    """A part of a parameter: of one that lies on the host no copy, else what the part alone needs."""
    here = isinstance(leaf, np.ndarray) or {device.platform for device in leaf.devices()} == {"cpu"} and len(leaf.devices()) == 1
    return np.asarray(leaf)[where] if here else np.asarray(leaf[where])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one dtype and shape hold the same bits."""
    if a.flags.c_contiguous and b.flags.c_contiguous and a.nbytes % 8 == 0:
        return np.array_equal(a.reshape(-1).view(np.uint64), b.reshape(-1).view(np.uint64))
    return np.array_equal(a.view(f"u{a.dtype.itemsize}"), b.view(f"u{b.dtype.itemsize}"))

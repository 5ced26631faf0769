"""How the arrays of a model that was made at once (imported, expanded) lie in its checkpoint: an array in files of its own, a layer each
where they are large, each file a stretch of its array in C order.

Arrays of two-byte types are not compressed: by zstd they become a tenth smaller and take many times as long. So their numbers can be put
into the files as they come, and read from there as they are needed, with no array in memory.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from ja_llm.errors import JaLlmError
from ja_llm.files import BackgroundSync
from ja_llm.train.checkpoint_errors import readable, writable

_CHUNK = 1 << 27  # bytes; no file of an array is larger
_SMALL = 1 << 25  # bytes of an array of all layers that is left in one file

Names = tuple[str, ...]
Shape = tuple[int, ...]


class Differs(Exception):
    """Something reads back otherwise than it was written."""


class _Folders(ocp.type_handlers.NumpyHandler):
    """Says of each array how it lies there, and writes none of its numbers."""

    async def _open_and_write(self, value: np.ndarray, tspec: dict[str, Any], ts_context: Any) -> None:
        name = Path(tspec["kvstore"]["path"]).name
        tspec["metadata"]["chunks"] = list(_chunk(name.split(".")[0], value.shape, value.dtype.itemsize))
        await tensorstore.open(tensorstore.Spec(tspec), create=True, open=True, context=ts_context)


def _chunk(group: str, shape: Shape, itemsize: int) -> Shape:
    """The shape of an array's files: a layer each where it is large, and as many leading rows as `_CHUNK` has room for.

    Args:
      group: the first name of its path.
      shape: of the array.
      itemsize: bytes of a number.
    """
    chunk = list(shape)
    if group == "layers" and len(shape) > 1 and itemsize * math.prod(shape) > _SMALL:
        chunk[0] = 1
    for axis in range(len(chunk)):
        rest = itemsize * math.prod(chunk[axis + 1 :])
        if rest * chunk[axis] <= _CHUNK:
            break
        chunk[axis] = next((n for n in range(_CHUNK // rest, 0, -1) if chunk[axis] % n == 0), 1)
    return tuple(chunk)


def places(shape: Shape, chunk: Shape) -> Iterator[tuple[slice, ...]]:
    """Where each chunk lies in an array; they divide it."""
    for begin in itertools.product(*(range(0, size, step) for size, step in zip(shape, chunk, strict=True))):
        yield tuple(slice(b, b + step) for b, step in zip(begin, chunk, strict=True))


def names_of(keys: Any) -> Names:
    """The path of a leaf in a tree of dicts."""
    return tuple(key.key for key in keys)


def name_of(place: tuple[slice, ...], chunk: Shape) -> str:
    """A chunk's file (zarr v2, "Chunks")."""
    return ".".join(str(part.start // step) for part, step in zip(place, chunk, strict=True)) or "0"


def lay_out(folder: Path, params: Any, step: int = 0) -> Path:
    """A checkpoint of a model directory, all but its numbers.

    Args:
      folder: the model directory.
      params: pytree of arrays, or of their shapes and dtypes.
      step: the checkpoint's number.

    Returns:
      The folder of its parameters.
    """
    item = folder.resolve() / "checkpoints" / str(step) / "params"  # TensorStore takes no ".."
    usual = (jax.Array, ocp.type_handlers.get_type_handler(jax.Array))
    types = ocp.type_handlers.create_type_handler_registry((np.ndarray, _Folders(deepcopy_host_arrays=False)), usual)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types, use_ocdbt=False, use_compression=not is_raw(params))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), params)  # of no size in memory
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(item, args=ocp.args.PyTreeSave(empty))
    return item


def is_raw(params: Any) -> bool:
    """Whether the numbers lie in the files as they are."""
    return all(leaf.dtype.itemsize == 2 for leaf in jax.tree.leaves(params))


class NewArrays:
    """The parameters of a new checkpoint, of two-byte types, that come in pieces, in any order and from several threads.

    Every byte is written once. Each piece is read back and compared as soon as it is written: out of the system's cache, so a fault on the
    way there is seen and one of the disk is not. Each file goes to the disk when it is whole. As a context manager it is closed at the end
    of the block; where that raises, the files stay as they are.

    Args:
      folder: the model directory.
      abstract: pytree of shapes and dtypes, or of arrays.
      name: what messages call the model directory.
      step: the checkpoint's number.

    Attributes:
      shapes: path in the tree -> shape of the array.

    Raises:
      JaLlmError: the disk is full, or it can't be written.
    """

    def __init__(self, folder: Path, abstract: Any, name: Path, step: int = 0):
        self._name = name
        with writable(name):
            item = lay_out(folder, abstract, step)
            leaves = jax.tree_util.tree_leaves_with_path(abstract)
            arrays = {names_of(keys): leaf for keys, leaf in leaves}
            self._arrays = {path: RawArray.of(item, path, leaf) for path, leaf in arrays.items()}
        self.shapes = {path: array.shape for path, array in self._arrays.items()}
        self._files = {file: _Coming(array.file_bytes) for array in self._arrays.values() for file in array.files}
        self._turn, self._own = threading.Lock(), threading.local()
        self._disk = BackgroundSync()

    def __enter__(self) -> "NewArrays":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self._disk.abandon()

    def write(self, path: Names, begin: int, data: np.ndarray) -> None:
        """Write a piece of an array, in its files' order.

        Args:
          path: of the array in the tree.
          begin: how many bytes of the array lie before the piece.
          data: C-contiguous numbers, few enough that they are still in the processor's cache when they are read back.

        Raises:
          JaLlmError: the disk is full, or it can't be written; some of it was written before, or has no place in the array.
          Differs: it reads back differently.
        """
        array = self._arrays[path]
        if begin < 0 or begin + data.nbytes > array.file_bytes * len(array.files):
            raise self._mistake(path, "has no place for numbers that came for it")
        rest, room = data.reshape(-1).view(np.uint8).data, self._own.__dict__.setdefault("room", bytearray())
        for file, offset, size in array.stretches(begin, len(rest)):
            with self._turn:
                new = self._files[file].begin(offset, size)
            if not new:
                raise self._mistake(path, "was given some of its numbers twice")
            with writable(self._name):
                same = _put(file, offset, rest[:size], room)
            with self._turn:
                whole = self._files[file].end(size)
            if not same:
                raise Differs
            if whole:
                with writable(self._name):
                    self._disk.add(file)
            rest = rest[size:]

    def _mistake(self, path: Names, what: str) -> JaLlmError:
        return JaLlmError(
            f"{self._name}: the array {'/'.join(path)} {what}, which is a mistake of ja_llm's; no model was written, report it "
            "with the name of the source."
        )

    def close(self) -> None:
        """End, when all is written.

        Raises:
          JaLlmError: the disk is full, or it can't be written, or a file is lost; something was not written.
        """
        with writable(self._name), contextlib.suppress(FileNotFoundError):  # `check_sizes` says which is lost
            self._disk.close()
        for path, array in self._arrays.items():
            if any(not self._files[file].whole for file in array.files):
                raise self._mistake(path, "was not written whole")
        for array in self._arrays.values():
            with readable(array.folder.parent.parent):
                array.check_sizes()


class _Coming:
    """What of a file is still to be written: stretches (begin, end), and how many bytes are not there yet."""

    def __init__(self, size: int):
        self._stretches, self._left = [(0, size)] if size else [], size

    @property
    def whole(self) -> bool:
        """Whether every byte was written."""
        return not self._left

    def begin(self, offset: int, size: int) -> bool:
        """Take bytes that are about to be written; False where one of them was taken before, or has no place."""
        for n, (begin, end) in enumerate(self._stretches):
            if begin <= offset and offset + size <= end:
                self._stretches[n : n + 1] = [(a, b) for a, b in ((begin, offset), (offset + size, end)) if a < b]
                return True
        return False

    def end(self, size: int) -> bool:
        """Count as many bytes that are written now; whether these were the last."""
        self._left -= size
        return self.whole


def _put(file: Path, offset: int, data: memoryview, room: bytearray) -> bool:
    """Write bytes to a place of a file; whether they read back."""
    number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        write_at(number, data, offset)
        return reads_back(number, data, offset, room)
    finally:
        os.close(number)


def write_at(number: int, data: memoryview, offset: int) -> None:
    """All of the bytes at a place of a file; the system may take fewer at a time.

    Raises:
      OSError: they can't be written.
    """
    written = 0
    while written < len(data):
        went = os.pwrite(number, data[written:], offset + written)
        if not went:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        written += went


def reads_back(number: int, data: memoryview, offset: int, room: bytearray) -> bool:
    """Whether a file holds these bytes at a place, as the system has them; `room` becomes what it holds."""
    if len(room) != len(data):
        room[:] = bytes(len(data))
    there = 0
    with memoryview(room) as view:
        while there < len(data):
            with view[there:] as rest:
                came = os.preadv(number, [rest], offset + there)
            if not came:
                return False
            there += came
    return room == data  # a bytearray compares by memcmp, a memoryview item by item


@dataclasses.dataclass(frozen=True)
class RawArray:
    """An array whose numbers lie in its files as they are.

    Attributes:
      folder: of the files.
      shape: of the array.
      dtype: of the array.
      chunk: the shape of a file.
    """

    folder: Path
    shape: Shape
    dtype: np.dtype
    chunk: Shape

    @classmethod
    def of(cls, item: Path, path: Names, leaf: Any) -> "RawArray":
        """The array that `lay_out` made for a leaf."""
        return cls(item / ".".join(path), leaf.shape, np.dtype(leaf.dtype), _chunk(path[0], leaf.shape, leaf.dtype.itemsize))

    @functools.cached_property
    def files(self) -> list[Path]:
        """In the array's order."""
        return [self.folder / name_of(place, self.chunk) for place in places(self.shape, self.chunk)]

    @property
    def are_stretches(self) -> bool:
        """Whether each file is a stretch of the array in C order."""
        first = next((axis for axis, size in enumerate(self.chunk) if size > 1), len(self.chunk))
        return self.chunk[first + 1 :] == self.shape[first + 1 :]

    @property
    def file_bytes(self) -> int:
        """Of each."""
        return self.dtype.itemsize * math.prod(self.chunk)

    def stretches(self, begin: int, size: int) -> Iterator[tuple[Path, int, int]]:
        """(file, offset in it, bytes) of a stretch of the array."""
        while size:
            number, offset = divmod(begin, self.file_bytes)
            part = min(size, self.file_bytes - offset)
            yield self.files[number], offset, part
            begin, size = begin + part, size - part

    def check_sizes(self) -> None:
        """Raise ValueError or OSError where a file is not there or not as long as its numbers."""
        for file in self.files:
            if file.stat().st_size != self.file_bytes:
                raise ValueError(f"{file} is not as long as its numbers")

    def __getitem__(self, at: Shape) -> np.ndarray:
        """The numbers at a place of the leading axes, read into an array of their own; () reads all.

        Raises:
          JaLlmError: they can't be read.
        """
        into = np.empty(self.shape[len(at) :], self.dtype)
        begin = into.nbytes * int(np.ravel_multi_index(at, self.shape[: len(at)])) if at else 0
        room = into.reshape(-1).view(np.uint8).data
        with readable(self.folder.parent.parent):
            for file, offset, size in self.stretches(begin, into.nbytes):
                read_at(file, offset, room[:size])
                room = room[size:]
        return into

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[()] if dtype is None else self[()].astype(dtype)


def read_at(file: Path, offset: int, room: memoryview) -> None:
    """The file's bytes from a place on.

    Raises:
      OSError: it can't be read.
      ValueError: there are too few.
    """
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        while room:
            came = opened.readinto(room)
            if not came:
                raise ValueError(f"{file} is not as long as its numbers")
            room = room[came:]

"""A folder of safetensors files as one mapping from tensor name to array, read and written."""

import collections
import json
import math
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np
import safetensors

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import os_error_sentence, read_json, write_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class Tensors(Protocol):
    """Tensors under their published names, read one by one: `TensorFolder`, or `gguf.GGUFTensors`."""

    files: list[Path]

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""

    def dtype(self, name: str) -> str:
        """The tensor's type, one of `FLOATS` where it can be imported."""


class TensorFolder:
    """The tensors of a model folder; their data are read one by one, as they are asked for.

    Args:
      folder: has model.safetensors, or model.safetensors.index.json and the files that it names.

    Raises:
      UsageError: there are no safetensors.
      JaLlmError: a file is missing, cut off, or contradicts the index.
    """

    def __init__(self, folder: Path):
        self.files = _files(folder)
        self._where: dict[str, tuple[Path, tuple[int, ...], str]] = {}
        self._open: collections.OrderedDict[Path, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        for path in self.files:
            file = _opened(path)
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name in self._where:
                    raise JaLlmError(f"{path}: the tensor {name} is in two files; download the model again.")
                part = file.get_slice(name)
                self._where[name] = (path, tuple(part.get_shape()), part.get_dtype())
        if (folder / INDEX).exists():
            listed = set(read_json(folder / INDEX, "index of tensors")["weight_map"])
            if missing := sorted(listed - self._where.keys()):
                raise JaLlmError(
                    f"{folder / INDEX}: it lists the tensor {missing[0]}, which no file has; download the model again."
                )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._where))

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._where[name][1]

    def dtype(self, name: str) -> str:
        """The tensor's type as the file says it, e.g. "BF16"."""
        return self._where[name][2]

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._where[name][0]
        with self._lock:
            file = self._open.pop(path, None) or _opened(path)
            self._open[path] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return file.get_tensor(name)


_OPEN = 2  # files that are mapped at a time: what was read of a mapped file counts as the process's memory


def _opened(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError) as error:
        raise JaLlmError(f"{path}: this file is damaged or cut off ({error}); download or export it again.") from error


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX, "index of tensors")
        try:
            names = sorted(set(index["weight_map"].values()))
            if not all(isinstance(name, str) for name in names):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            raise JaLlmError(f"{folder / INDEX}: there is no weight_map of file names in it; download the model again.") from None
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise JaLlmError(
                    f"{folder}: {INDEX} names {name}, which is not here; the download is incomplete, fetch the missing file."
                )
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    parts = [p.name for p in folder.glob("*.safetensors")]
    if any(re.match(r"model-\d+-of-\d+", name) for name in parts):
        raise JaLlmError(
            f"{folder}: there are parts such as {sorted(parts)[0]}, but no {INDEX}; the download is incomplete, fetch that file."
        )
    hint = "; convert its *.bin with transformers (save_pretrained) first" if list(folder.glob("*.bin")) else ""
    raise UsageError(f"{folder}: there is no {SINGLE} here{hint or '; give a model folder with safetensors'}.")


Plan = Sequence[tuple[str, np.dtype, tuple[int, ...]]]


def write_tensors(folder: Path, plan: Plan, tensors: Iterator[tuple[str, np.ndarray]], max_bytes: int) -> list[Path]:
    """Write tensors into as many files as needed, none above `max_bytes` unless one tensor is; one is held at a time.

    A file is 8 bytes of its header's length, the header (JSON: type, shape, place of each tensor), and the numbers
    (safetensors' README, "Format").

    Args:
      folder: where.
      plan: name, dtype and shape of each tensor.
      tensors: the same with their numbers, in that order, C-contiguous.
      max_bytes: of a file's numbers.

    Returns:
      The files.

    Raises:
      JaLlmError: the disk is full or the folder can't be written.
    """
    groups: list[list[tuple[str, np.dtype, tuple[int, ...]]]] = []
    room = 0
    for item in plan:
        size = _size(item)
        if not groups or size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(item)
        room -= size
    names = (
        [SINGLE] if len(groups) == 1 else [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    )
    values = iter(tensors)
    try:
        for name, group in zip(names, groups, strict=True):
            with (folder / name).open("wb") as file:
                file.write(_header(group))
                _write_values(file, group, values)
        if next(values, None) is not None:  # ... and it is told that the last was taken
            raise ValueError("more tensors come than were planned")
    except OSError as error:
        raise os_error_sentence(error, folder) from error
    if len(groups) > 1:
        weight_map = {item[0]: name for name, group in zip(names, groups, strict=True) for item in group}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(map(_size, plan))}, "weight_map": weight_map})
    return [folder / name for name in names]


def _write_values(file: BinaryIO, group: Plan, values: Iterator[tuple[str, np.ndarray]]) -> None:
    for item in group:
        tensor, value = next(values)
        if (tensor, value.dtype, value.shape) != item or not value.flags.c_contiguous:
            raise ValueError(f"{tensor} {value.dtype} {value.shape} comes where {item} was planned")
        file.write(value.reshape(-1).view(np.uint8).data)


def _size(item: tuple[str, np.dtype, tuple[int, ...]]) -> int:
    return math.prod(item[2]) * item[1].itemsize


def _header(group: Plan) -> bytes:
    """The beginning of a file, padded with spaces so that the numbers begin at a multiple of 8."""
    words = {name: word for word, name in FLOATS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for item in group:
        name, dtype, shape = item
        end = begin + _size(item)
        header[name] = {"dtype": words[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text

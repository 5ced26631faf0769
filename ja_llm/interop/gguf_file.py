"""GGUF files, read: metadata, and tensors that are dequantised one by one as they are asked for.

The layout is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. The header is read here, because the `gguf`
package makes an array of each of a vocabulary's strings; its dequantisation is what the numbers come from.
"""

import functools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ja_llm.errors import JaLlmError, UsageError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DAMAGED = "this GGUF file is damaged or cut off"


class TensorInfo(NamedTuple):
    """Where a tensor lies.

    Attributes:
      shape: slowest dimension first, as numpy has it (the file has them the other way round).
      kind: number of its ggml type.
      offset: bytes from the file's begin.
      size: bytes.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int


class GGUFFile:
    """Metadata and tensors of one file.

    Args:
      path: of the file.

    Raises:
      UsageError: there is no such file, or the package `gguf` is not installed.
      JaLlmError: it is no GGUF file, of another version or byte order, one of several parts, cut off, or has a tensor of a type that can't be dequantised.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; give a GGUF file.")
        with path.open("rb") as file:
            try:
                counts = self._begin(file)
                self.metadata = {self._string(file): self._value(file) for _ in range(counts[1])}
                infos = [self._info(file) for _ in range(counts[0])]
            except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
                raise JaLlmError(f"{path}: {_DAMAGED} (its header does not end where it should); download it again.") from error
            begin = file.tell()
        for key in ("split.count", "general.alignment"):
            value = self.metadata.get(key, 1)
            if not isinstance(value, int) or value < (key == "general.alignment"):
                raise JaLlmError(f"{path}: {key} is {value!r}; a whole number is needed, so download the file again.")
        if self.metadata.get("split.count", 1) > 1:
            raise JaLlmError(
                f"{path}: this is one of {self.metadata['split.count']} parts; join them with llama-gguf-split --merge."
            )
        self.tensors = self._placed(infos, begin)

    def _begin(self, file: BinaryIO) -> tuple[int, int]:
        if file.read(4) != b"GGUF":
            raise JaLlmError(f"{self.path}: this is no GGUF file; give one, or a folder with config.json and safetensors.")
        (version,) = struct.unpack("<I", file.read(4))
        if version not in (2, 3):
            swapped = " in big-endian order" if version & 0xFFFF == 0 else ""
            raise JaLlmError(f"{self.path}: GGUF version {version}{swapped} can't be read; versions 2 and 3, little-endian, can.")
        return struct.unpack("<QQ", file.read(16))

    def _string(self, file: BinaryIO) -> str:
        (length,) = struct.unpack("<Q", file.read(8))
        data = file.read(min(length, 1 << 30))
        if len(data) != length:
            raise struct.error("a string goes beyond the file")
        return data.decode("utf-8")

    def _value(self, file: BinaryIO) -> Any:
        (kind,) = struct.unpack("<I", file.read(4))
        if kind != _ARRAY:
            return self._one(file, kind)
        element, count = struct.unpack("<IQ", file.read(12))
        if element in _SCALARS:
            code = f"<{count}{_SCALARS[element]}"
            return list(struct.unpack(code, file.read(struct.calcsize(code))))
        return [self._one(file, element) for _ in range(count)]

    def _one(self, file: BinaryIO, kind: int) -> Any:
        if kind == _STRING:
            return self._string(file)
        code = "<" + _SCALARS[kind]
        return struct.unpack(code, file.read(struct.calcsize(code)))[0]

    def _info(self, file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(file)
        (dimensions,) = struct.unpack("<I", file.read(4))
        shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
        return name, shape[::-1], *struct.unpack("<IQ", file.read(12))

    def _placed(self, infos: list[tuple[str, tuple[int, ...], int, int]], begin: int) -> dict[str, TensorInfo]:
        sizes, known = _block_sizes()
        align = self.metadata.get("general.alignment", 32)
        start, whole = -(-begin // align) * align, self.path.stat().st_size
        found: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in infos:
            if kind not in known:
                raise JaLlmError(
                    f"{self.path}: the tensor {name} is of the ggml type {kind}, which the gguf package can't dequantise; "
                    "take a file of another quantisation, or update the package."
                )
            if not shape:
                raise JaLlmError(f"{self.path}: {_DAMAGED} (its tensor {name} has no dimensions); download it again.")
            block, size = sizes[kind]
            info = TensorInfo(shape, kind, start + offset, math.prod(shape) // block * size)
            if name in found or shape[-1] % block or info.offset + info.size > whole:
                raise JaLlmError(f"{self.path}: {_DAMAGED} (at its tensor {name}); download it again.")
            found[name] = info
        return found

    def kinds(self) -> dict[str, int]:
        """How many tensors are of which type, such as {"Q4_1": 210}."""
        from gguf import GGMLQuantizationType

        names = [GGMLQuantizationType(info.kind).name for info in self.tensors.values()]
        return {name: names.count(name) for name in sorted(set(names))}

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def read(self, name: str, part: int | None = None) -> np.ndarray:
        """A tensor's numbers, or those of one index of its first dimension: float32, or float16 where it is stored so."""
        from gguf import GGMLQuantizationType, dequantize

        info = self.tensors[name]
        kind = GGMLQuantizationType(info.kind)
        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64}.get(kind.name)
        item = np.dtype(plain or np.uint8)
        data: Any = np.memmap(self.path, item, "r", info.offset, (info.size // item.itemsize,))
        shape, rows = info.shape, info.shape
        if plain is None:
            block, size = _block_sizes()[0][info.kind]
            rows = (*shape[:-1], shape[-1] // block * size)
        data = data.reshape(rows)
        if part is not None:
            data, shape = data[part], shape[1:]
        return np.asarray(data) if plain is not None else dequantize(data, kind).reshape(shape)


@functools.cache
def _block_sizes() -> tuple[dict[int, tuple[int, int]], set[int]]:
    """(numbers and bytes of a block of each ggml type, the types that can be read).

    Raises:
      UsageError: the package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UsageError("GGUF files need the package gguf; install it with pip install 'ja_llm[gguf]'.") from error
    can = {int(gguf.GGMLQuantizationType.F64)}
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8), kind)
            can.add(int(kind))
        except NotImplementedError:  # plain integers, and what only lives inside a computation
            continue
    return {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}, can

"""A folder of safetensors files as one mapping from tensor name to array, read and written."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np
import safetensors
from safetensors.numpy import save_file

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import os_error_sentence, read_json, usual_mode, write_json

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
        self._where: dict[str, Any] = {}
        for path in self.files:
            try:
                file = safetensors.safe_open(path, "np")
            except (safetensors.SafetensorError, OSError) as error:
                raise JaLlmError(f"{path}: this file is damaged or cut off ({error}); download or export it again.") from error
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name in self._where:
                    raise JaLlmError(f"{path}: the tensor {name} is in two files; download the model again.")
                self._where[name] = file
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
        return tuple(self._where[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's type as the file says it, e.g. "BF16"."""
        return self._where[name].get_slice(name).get_dtype()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._where[name].get_tensor(name)


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX, "index of tensors")
        try:
            names = sorted(set(index["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            raise JaLlmError(f"{folder / INDEX}: there is no weight_map in it; download the model again.") from None
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


def write_tensors(folder: Path, tensors: Iterator[tuple[str, np.ndarray]], max_bytes: int) -> list[Path]:
    """Write tensors into as many files as needed, none above `max_bytes` unless one tensor is.

    Returns:
      The files.

    Raises:
      JaLlmError: the disk is full or the folder can't be written.
    """
    parts: list[Path] = []
    names: list[list[str]] = []
    held: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        path = folder / f"part-{len(parts)}.safetensors"
        try:
            save_file(held, path, metadata={"format": "pt"})
            usual_mode(path)
        except (safetensors.SafetensorError, OSError) as error:
            full = "No space left" in str(error) or "os error 28" in str(error)
            raise os_error_sentence(OSError(28, str(error)) if full else OSError(str(error)), folder) from error
        parts.append(path)
        names.append(list(held))
        held.clear()

    for name, value in tensors:
        if held and sum(v.nbytes for v in held.values()) + value.nbytes > max_bytes:
            flush()
        held[name] = value
        total += value.nbytes
    flush()
    if len(parts) == 1:
        return [parts[0].rename(folder / SINGLE)]
    final = [part.rename(folder / f"model-{n:05d}-of-{len(parts):05d}.safetensors") for n, part in enumerate(parts, 1)]
    weight_map = {name: path.name for path, group in zip(final, names, strict=True) for name in group}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return final

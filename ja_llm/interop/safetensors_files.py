"""A folder of safetensors files as one mapping from tensor name to array, read and written."""

import collections
import concurrent.futures
import hashlib
import json
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np
import safetensors

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import BackgroundSync, os_error_sentence, read_json, write_json
from ja_llm.train.array_files import reads_back, write_at

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


Take = Callable[[str, np.ndarray], None]


class Tensors(Protocol):
    """Tensors under their published names, read one by one: `TensorFolder`, or `gguf.GGUFTensors`."""

    files: list[Path]

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""

    def dtype(self, name: str) -> str:
        """The tensor's type, one of `FLOATS` where it can be imported."""

    def each(self, take: Take) -> dict[str, str]:
        """Give every tensor of a type in `FLOATS` to `take(name, numbers)`, as `each_of_files` does.

        Returns:
          Name of each file -> hex SHA-256 of its bytes.
        """


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

    def each(self, take: Take) -> dict[str, str]:
        """Every byte of the files is read once: it is hashed, and given to `take`; see `each_of_files`."""
        of_file: dict[Path, dict[str, tuple[tuple[int, ...], str]]] = {path: {} for path in self.files}
        for name, (path, shape, kind) in self._where.items():
            of_file[path][name] = (shape, kind)
        return each_of_files(self.files, lambda path, take: _read_file(path, of_file[path], take), take)


_OPEN = 2  # files that are mapped at a time: what was read of a mapped file counts as the process's memory


def _opened(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError) as error:
        raise JaLlmError(f"{path}: this file is damaged or cut off ({error}); download or export it again.") from error


_READERS = 2  # files that are read at a time, each with one tensor in memory
_PIECE = 1 << 22  # bytes that are read and hashed at a time: they stay in the processor's cache


def each_of_files(files: Sequence[Path], read: Callable[[Path, Take], str], take: Take) -> dict[str, str]:
    """`read(file, take)` of each file, two at a time.

    Args:
      files: to read.
      read: gives the file's tensors to what it gets, and returns the file's hex SHA-256.
      take: called in several threads at once; its array is written over when it returns.

    Returns:
      Name of each file -> its hex SHA-256.

    Raises:
      Whatever `read` or `take` raises first; the other files are left where they are.
    """
    stopped = threading.Event()

    def go_on(name: str, value: np.ndarray) -> None:
        if stopped.is_set():
            raise concurrent.futures.CancelledError
        take(name, value)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        jobs = [pool.submit(read, path, go_on) for path in files]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {path.name: job.result() for path, job in zip(files, jobs, strict=True)}


def _read_file(path: Path, known: Mapping[str, tuple[tuple[int, ...], str]], take: Take) -> str:
    """A file from its first byte to its last, through one buffer as large as its largest tensor. It is not mapped: a mapped page counts
    as this process's memory, and a disk that fails under one ends the process.

    Args:
      path: of the file.
      known: tensor -> (shape, type), as it was when the file was checked.
      take: as of `each_of_files`.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file, concurrent.futures.ThreadPoolExecutor(1) as hashing:
            places = _places(path, file, digest)
            if {name: (shape, kind) for name, kind, shape, _ in places} != known:
                raise _changed(path)
            room = np.empty(max((size for *_, size in places), default=0), np.uint8)
            for name, kind, shape, size in places:
                data = room[:size]
                hashed = [hashing.submit(digest.update, piece) for piece in _filled(path, file, data)]
                if kind in FLOATS:
                    take(name, data.view(np.dtype(FLOATS[kind])).reshape(shape))
                for piece in hashed:
                    piece.result()
    except OSError as error:
        raise os_error_sentence(error, path, reading=True) from error
    return digest.hexdigest()


def _places(path: Path, file: BinaryIO, digest: Any) -> list[tuple[str, str, tuple[int, ...], int]]:
    """(name, type, shape, bytes) of a file's tensors, in the order of their bytes, which begin where the file then stands."""
    length = np.empty(8, np.uint8)
    for piece in _filled(path, file, length):
        digest.update(piece)
    header = np.empty(min(struct.unpack("<Q", length.data)[0], path.stat().st_size), np.uint8)
    for piece in _filled(path, file, header):
        digest.update(piece)
    try:
        stored = {name: entry for name, entry in json.loads(bytes(header)).items() if name != "__metadata__"}
        begins = sorted(stored, key=lambda name: stored[name]["data_offsets"])
        sizes = {name: stored[name]["data_offsets"][1] - stored[name]["data_offsets"][0] for name in begins}
        return [(name, stored[name]["dtype"], tuple(stored[name]["shape"]), sizes[name]) for name in begins]
    except (ValueError, LookupError, TypeError, AttributeError):  # safetensors understood it a moment ago
        raise _changed(path) from None


def _changed(path: Path) -> JaLlmError:
    return JaLlmError(f"{path}: this file was changed while it was read; let nothing write there and import it again.")


def _filled(path: Path, file: BinaryIO, room: np.ndarray) -> Iterator[memoryview]:
    """The file's next bytes into `room`, piece by piece, each as soon as it is there."""
    view, begin = room.data, 0
    while begin < len(view):
        read = file.readinto(view[begin : begin + _PIECE])  # type: ignore[attr-defined]
        if not read:
            raise JaLlmError(
                f"{path}: this file is damaged or cut off (it ended while it was read); download or export it again."
            )
        yield view[begin : begin + read]
        begin += read


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
Blocks = Callable[[str], Iterator[np.ndarray]]


def write_tensors(folder: Path, plan: Plan, tensor: Blocks, max_bytes: int) -> dict[str, str]:
    """Write tensors into as many files as needed, none above `max_bytes` unless one tensor is; each is read back and compared.

    A file is 8 bytes of its header's length, the header (JSON: type, shape, place of each tensor), and the numbers
    (safetensors' README, "Format"). Two files are written at a time; for each, two blocks are held. All are on the disk at the end.

    Args:
      folder: where.
      plan: name, dtype and shape of each tensor.
      tensor: gives the numbers of the tensor of that name in flat blocks, in C order; called in several threads at once. A block is
        not looked at any more when the next but one is asked for.
      max_bytes: of a file's numbers.

    Returns:
      Name of each file -> hex SHA-256 of what was read back from it.

    Raises:
      JaLlmError: the disk is full or the folder can't be written, or something reads back differently.
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
    group_of = dict(zip(names, groups, strict=True))

    disk = BackgroundSync()

    def write(path: Path, wrote: Take) -> str:
        return _write_file(path, group_of[path.name], tensor, wrote, disk)

    try:
        with disk:
            digests = each_of_files([folder / name for name in names], write, lambda *_: None)
    except OSError as error:
        raise os_error_sentence(error, folder) from error
    if len(groups) > 1:
        weight_map = {item[0]: name for name, group in group_of.items() for item in group}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(map(_size, plan))}, "weight_map": weight_map})
    return digests


def _write_file(path: Path, group: Plan, tensor: Blocks, wrote: Take, disk: BackgroundSync) -> str:
    """One file; what comes is read and turned in another thread than what is written, read back and hashed, and sent to the disk in `disk`'s."""
    file, digest = _Written(path, disk), hashlib.sha256()
    with file, concurrent.futures.ThreadPoolExecutor(1) as ahead:
        digest.update(file.write(np.frombuffer(_header(group), np.uint8), "header"))
        blocks = ((item, block) for item in group for block in tensor(item[0]))
        coming, sizes = ahead.submit(next, blocks, None), dict.fromkeys((item[0] for item in group), 0)
        while (found := coming.result()) is not None:
            coming = ahead.submit(next, blocks, None)
            item, block = found
            sizes[item[0]] += block.nbytes
            if block.dtype != item[1] or sizes[item[0]] > _size(item):
                raise _mistake(path, item, f"comes as {block.dtype}" if block.dtype != item[1] else "comes with too many numbers")
            wrote(item[0], block)
            digest.update(file.write(block.view(np.uint8), f"tensor {item[0]}"))
        if cut := [item for item in group if sizes[item[0]] < _size(item)]:
            raise _mistake(path, cut[0], "did not come whole")
    disk.add(path)
    return digest.hexdigest()


def _mistake(path: Path, item: tuple[str, np.dtype, tuple[int, ...]], what: str) -> JaLlmError:
    return JaLlmError(
        f"{path}: the tensor {item[0]}, planned as {item[1]} {item[2]}, {what}, which is a mistake of ja_llm's; report it with the "
        "name of the model."
    )


_SENT = 1 << 27  # bytes after which the disk gets what it has not: it would be waited for at the end, with nothing to do beside


class _Written:
    """A file that is written from its first byte to its last, and read back while the bytes are in the processor's cache."""

    def __init__(self, path: Path, disk: BackgroundSync):
        self._path, self._disk, self._sent = path, disk, 0
        self._file, self._end, self._room = path.open("w+b", buffering=0), 0, bytearray()

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: np.ndarray, what: str) -> bytearray:
        """Append flat bytes, and read them back.

        Returns:
          What was read, until the next call.

        Raises:
          OSError: it can't be written.
          JaLlmError: it reads back differently; `what` it is.
        """
        number = self._file.fileno()
        write_at(number, data.data, self._end)
        if not reads_back(number, data.data, self._end, self._room):
            raise JaLlmError(
                f"{self._file.name}: the {what} reads back differently from what was written; the disk may be failing, export again."
            )
        self._end += len(data)
        if self._end - self._sent >= _SENT:
            self._disk.add(self._path)
            self._sent = self._end
        return self._room


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

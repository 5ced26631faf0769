"""Results of single examples on disk, so that a killed evaluation goes on where it stopped.

    OUT/TASK.partial.jsonl   first line: the request; then one line a finished chunk of examples
    OUT/TASK.partial-1-of-2.jsonl   the same of one of several processes
    OUT/TASK.samples.jsonl   when the task is finished: one line an example
    OUT/TASK.json            its metrics, written last
    OUT/process-1-of-2.alive changes while one of several processes works

The request (model, data, settings) is what decides the numbers. Files of another request are made again, never mixed.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, canonical_json, os_error_sentence, sha256_json, write_json

_PATIENCE = 600.0  # seconds without news of another process
_BEAT = 10.0  # seconds between two signs of life
_LOOK = 0.2  # seconds between two looks
T = TypeVar("T")


def _alive_file(folder: Path, process: int, processes: int) -> Path:
    return folder / f"process-{process}-of-{processes}.alive"


@contextlib.contextmanager
def alive(folder: Path, process: tuple[int, int]) -> Iterator[None]:
    """Tell the other processes, as long as this lasts, that (number, how many) is at work: a task may take longer than their patience."""
    if process[1] == 1:
        yield
        return
    path, ended = _alive_file(folder, *process), threading.Event()

    def beat() -> None:
        number = 0
        while not ended.is_set():
            with contextlib.suppress(OSError):  # a full disk is told by what writes results
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{time.time_ns()} {number}")
            number += 1
            ended.wait(_BEAT)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


class TaskFiles:
    """The files of one task.

    Args:
      folder: where they are.
      task: its name.
      request: JSON object of everything that decides the numbers.
      process: (number, how many) of this process; each keeps its own chunks, the first gathers them.
    """

    def __init__(self, folder: Path, task: str, request: dict[str, Any], process: tuple[int, int] = (0, 1)):
        self._request = canonical_json(request)
        self._key = sha256_json(request)
        self.process = process
        several = [folder / f"{task}.partial-{n}-of-{process[1]}.jsonl" for n in range(process[1])]
        self._partials = several if process[1] > 1 else [folder / f"{task}.partial.jsonl"]
        self._partial = self._partials[process[0]]
        self.samples_path = folder / f"{task}.samples.jsonl"
        self._result = folder / f"{task}.json"
        self._news: dict[int, tuple[tuple[str, int], float]] = {}

    def _silence(self, number: int) -> float:
        """Seconds without a change of another process's sign of life or chunks. What changes is compared, not clocks of two machines."""
        beat, size = "", -1
        with contextlib.suppress(OSError):
            beat = _alive_file(self._partial.parent, number, self.process[1]).read_text()
        with contextlib.suppress(OSError):
            size = self._partials[number].stat().st_size
        if number not in self._news or self._news[number][0] != (beat, size):
            self._news[number] = (beat, size), time.monotonic()
        return time.monotonic() - self._news[number][1]

    def finished(self) -> dict[str, Any] | None:
        """The stored result, if it belongs to this request and its samples are there."""
        try:
            value = json.loads(self._result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        fits = isinstance(value, dict) and value.get("request_hash") == self._key and self.samples_path.exists()
        return value if fits else None

    def resume(self) -> list[list[dict[str, Any]]]:
        """Finished chunks of a killed run of the same request; what was cut off is removed. Opens the file for `append`."""
        chunks, keep = self._read(self._partial)
        with atomic_write(self._partial) as file:
            file.write(keep or self._request.encode() + b"\n")
        return chunks

    def _read(self, path: Path) -> tuple[list[list[dict[str, Any]]], bytes]:
        """The chunks in a partial file, and the bytes that they stand in; nothing of another request."""
        chunks: list[list[dict[str, Any]]] = []
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        whole = lines[:-1]  # what follows the last line end was cut off
        if not whole or whole[0].decode("utf-8", "replace") != self._request:
            return [], b""
        for line in whole[1:]:
            try:
                chunks.append(json.loads(line))
            except ValueError:
                break
        return chunks, b"".join(line + b"\n" for line in whole[: len(chunks) + 1])

    def mine(self, chunks: Sequence[T]) -> list[T]:
        """Those of all chunks that this process computes."""
        return list(chunks[self.process[0] :: self.process[1]])

    def gather(self, own: list[list[dict[str, Any]]], count: int) -> list[list[dict[str, Any]]]:
        """All `count` chunks in their order: this process's own, and those of the others as soon as they are there.

        Raises:
          JaLlmError: another process shows no sign of life for ten minutes.
        """
        found = [own, *([] for _ in self._partials[1:])]
        while sum(map(len, found)) < count:
            found[1:] = [self._read(path)[0] for path in self._partials[1:]]
            missing = [n for n in range(len(found)) if len(found[n]) < len(range(n, count, len(found)))]
            for number in missing:
                if self._silence(number) > _PATIENCE:
                    raise JaLlmError(
                        f"{self._partials[number]}: that process brings nothing more; start it again with the same command, then this one."
                    )
            if missing:
                time.sleep(_LOOK)
        return [found[n % len(found)][n // len(found)] for n in range(count)]

    def wait(self) -> dict[str, Any]:
        """The result, as soon as the first process has written it.

        Raises:
          JaLlmError: it does not come, and the first process shows no sign of life for ten minutes.
        """
        while (result := self.finished()) is None:
            if self._silence(0) > _PATIENCE:
                raise JaLlmError(
                    f"{self._result}: the first process does not write this result; start it again with the same command."
                )
            time.sleep(_LOOK)
        return result

    def append(self, chunk: list[dict[str, Any]]) -> None:
        """Add one finished chunk, on disk before this returns."""
        try:
            with open(self._partial, "ab") as file:
                file.write(canonical_json(chunk).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise os_error_sentence(error, self._partial) from error

    def finish(self, samples: list[dict[str, Any]], result: dict[str, Any]) -> dict[str, Any]:
        """Write samples, then the result; remove the partial file. Returns the result as stored."""
        with atomic_write(self.samples_path) as file:
            for sample in samples:
                file.write((json.dumps(sample, ensure_ascii=False, sort_keys=True) + "\n").encode())
        value = {**result, "request": json.loads(self._request), "request_hash": self._key}
        write_json(self._result, value)
        for partial in self._partials:
            partial.unlink(missing_ok=True)
        return value


def finished_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """The stored results of every finished task in a folder, of whatever request, by name; files that can't be read are no results."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        fits = isinstance(value, dict) and isinstance(value.get("request"), dict)
        if fits and (folder / f"{path.stem}.samples.jsonl").exists():
            found[path.stem] = value
    return found


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a samples file.

    Raises:
      JaLlmError: it can't be read.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise JaLlmError(f"{path}: these samples can't be read ({error}); run the evaluation again.") from error

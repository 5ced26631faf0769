"""Results of single examples on disk, so that a killed evaluation goes on where it stopped.

    OUT/TASK.partial.jsonl   first line: the request; then one line a finished chunk of examples
    OUT/TASK.partial-1-of-2.jsonl   the same of one of several processes
    OUT/TASK.samples.jsonl   when the task is finished: one line an example
    OUT/TASK.json            its metrics, written last

The request (model, data, settings) is what decides the numbers. Files of another request are made again, never mixed.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, canonical_json, os_error_sentence, sha256_json, write_json

_PATIENCE = 600.0  # seconds without news of the other processes
_LOOK = 0.2  # seconds between two looks
T = TypeVar("T")


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
          JaLlmError: another process brings nothing for ten minutes.
        """
        found = [own, *([] for _ in self._partials[1:])]
        last = time.monotonic()
        while sum(map(len, found)) < count:
            before = sum(map(len, found))
            found[1:] = [self._read(path)[0] for path in self._partials[1:]]
            if sum(map(len, found)) > before:
                last = time.monotonic()
            missing = [path for n, path in enumerate(self._partials) if len(found[n]) < len(range(n, count, len(found)))]
            if missing and time.monotonic() - last > _PATIENCE:
                raise JaLlmError(
                    f"{missing[0]}: that process brings nothing more; start it again with the same command, then this one."
                )
            if missing:
                time.sleep(_LOOK)
        return [found[n % len(found)][n // len(found)] for n in range(count)]

    def wait(self) -> dict[str, Any]:
        """The result, as soon as the first process has written it.

        Raises:
          JaLlmError: it does not come.
        """
        last = time.monotonic()
        while (result := self.finished()) is None:
            if time.monotonic() - last > _PATIENCE:
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

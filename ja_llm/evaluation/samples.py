"""Results of single examples on disk, so that a killed evaluation goes on where it stopped.

    OUT/TASK.partial.jsonl   first line: the request; then one line a finished chunk of examples
    OUT/TASK.samples.jsonl   when the task is finished: one line an example
    OUT/TASK.json            its metrics, written last

The request (model, data, settings) is what decides the numbers. Files of another request are made again, never mixed.
"""

import json
import os
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, canonical_json, os_error_sentence, sha256_json, write_json


class TaskFiles:
    """The files of one task.

    Args:
      folder: where they are.
      task: its name.
      request: JSON object of everything that decides the numbers.
    """

    def __init__(self, folder: Path, task: str, request: dict[str, Any]):
        self._request = canonical_json(request)
        self._key = sha256_json(request)
        self._partial = folder / f"{task}.partial.jsonl"
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
        chunks: list[list[dict[str, Any]]] = []
        keep = b""
        if self._partial.exists():
            lines = self._partial.read_bytes().split(b"\n")
            whole = lines[:-1]  # what follows the last line end was cut off
            if whole and whole[0].decode("utf-8", "replace") == self._request:
                for line in whole[1:]:
                    try:
                        chunks.append(json.loads(line))
                    except ValueError:
                        break
                keep = b"".join(line + b"\n" for line in whole[: len(chunks) + 1])
        with atomic_write(self._partial) as file:
            file.write(keep or self._request.encode() + b"\n")
        return chunks

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
        self._partial.unlink(missing_ok=True)
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

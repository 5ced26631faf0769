"""Where a run's numbers go: `metrics.jsonl` and TensorBoard events. Only process 0 writes."""

import json
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, os_error_sentence


class MetricsWriter:
    """Appends one JSON line a step and the same scalars to TensorBoard.

    On resume, lines of steps after the restored one (written by a killed process) are removed first, so that each step
    stands in the file once.

    Args:
      directory: the run directory.
      resume_step: the restored step; 0 for a new run.
    """

    def __init__(self, directory: Path, resume_step: int = 0):
        from tensorboardX import SummaryWriter

        self._path = directory / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= resume_step]
            with atomic_write(self._path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close())
            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)
        except OSError as error:
            raise os_error_sentence(error, directory) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the values of one step (1 = after the first update)."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise os_error_sentence(error, self._path) from error

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a killed process left half-written is ignored.

    Raises:
      JaLlmError: a line before the last can't be read.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise JaLlmError(f"{path}: line {number} can't be read ({error}); remove the line.") from error
    return values

"""Where a run's numbers go: `metrics.jsonl`, TensorBoard events and, where it is asked for, W&B. Only process 0 writes."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ja_llm.documents import write_record
from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, os_error_sentence

if TYPE_CHECKING:
    from ja_llm.train.wandb_run import WandbRun


class MetricsWriter:
    """Appends one JSON line a step and the same scalars to TensorBoard.

    On resume, lines of steps after the restored one (written by a killed process) are removed first, so that each step
    stands in the file once.

    Args:
      directory: the run directory.
      resume_step: the restored step; 0 for a new run.
      wandb: gets the same scalars; it is not closed with this writer, which is made anew after a rollback.

    Attributes:
      measured: whether an evaluation of the restored step stands in the file.

    Raises:
      JaLlmError: the folder can't be written, or a line of an earlier process can't be read.
    """

    def __init__(self, directory: Path, resume_step: int = 0, wandb: "WandbRun | None" = None):
        self._path, self._wandb = directory / "metrics.jsonl", wandb
        self.measured = False
        if self._path.exists():
            # A run that begins anew writes its step 0 (the untrained model's evaluation) again.
            kept = [line for line in read_metrics(self._path) if line["step"] <= resume_step] if resume_step else []
            here = [line for line in kept if line["step"] == resume_step]
            self.measured = any(name.startswith("eval/") for line in here for name in line)
            with atomic_write(self._path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close())
            self._board = _EventFile(directory / "tensorboard", resume_step)
        except OSError as error:
            raise os_error_sentence(error, directory) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the values of one step (1 = after the first update).

        Raises:
          JaLlmError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            self._board.write(step, values)
        except OSError as error:
            raise os_error_sentence(error, self._path) from error
        if self._wandb:
            self._wandb.write(step, values)

    def board(self, step: int, values: dict[str, float]) -> None:
        """Write values of the clock to TensorBoard alone: metrics.jsonl is what two runs with the same ledger have alike.

        Raises:
          JaLlmError: the disk is full.
        """
        try:
            self._board.write(step, values)
        except OSError as error:
            raise os_error_sentence(error, self._path) from error

    def close(self) -> None:
        """Close both; a disk that is full has been told of by `write`."""
        for file in (self._file, self._board):
            try:
                file.close()
            except OSError:
                continue


class _EventFile:
    """A TensorBoard event file: TFRecords of Event messages, written as they come.

    tensorboardX's own writer does so in a thread, whose errors (a full disk) nobody can catch; its messages are used.
    """

    def __init__(self, folder: Path, resume_step: int):
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        self._file = open(folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}", "wb")  # noqa: SIM115
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step:  # what a killed process logged after the restored step is void
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(self._event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        summary = self._summary(value=[self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: Any) -> None:
        write_record(self._file, event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, each with "step"; a last line that a killed process left half-written is ignored.

    Raises:
      JaLlmError: a line before the last can't be read, or is no object with a step.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    values = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not isinstance(value.get("step"), int | float):
                raise ValueError("there is no step in it")
            values.append(value)
        except ValueError as error:
            if number == len(lines):
                break
            raise JaLlmError(f"{path}: line {number} can't be read ({error}); remove the line.") from error
    return values

"""Files between stages, with a completion marker for each stage and unit of input, so that a killed job goes on.

    OUTPUT/.work/<stage>-<key>/<unit>.json     marker, written last: counts and samples; its existence says "done"
    OUTPUT/.work/<stage>-<key>/<unit>.*        what the stage wrote for this unit

A unit is one input file, known by its content and name. `key` is a hash of every value that decides the stage's content,
with the keys of the stages before it: a changed value starts new folders from the first stage that it touches.
Stages are run by Beam, one pipeline a stage over the units that have no marker yet. The folder must be reachable by all
workers: on one machine, on a shared file system, or in a bucket, which `mirror.py` copies files from and to.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from beam_pipelines import mirror
from ja_llm.errors import JaLlmError
from ja_llm.files import canonical_json, os_error_sentence, read_json, sha256_json
from ja_llm.progress import Progress

WORK = ".work"
_ENDINGS = (
    ".tfrecord",
    ".jsonl",
    ".npy",
    ".ranks.npy",
    ".links",
    ".earlier",
    ".lost.npy",
)  # what a stage may write for a unit beside its marker

# A worker process takes seconds to start; a stage after extraction handles some hundred documents in one.
DOCUMENTS_PER_WORKER = 500
SHUFFLED_PER_WORKER = 20_000  # a GroupByKey's tables stay in the process that starts the job; workers only help with much more


@dataclasses.dataclass(frozen=True)
class Unit:
    """One input: `name` as the manifest has it, `key` of its content and name, `path` to read it; `sha256` and `stamp` (bytes,
    modification) by which a change during the run is seen."""

    key: str
    name: str
    path: str
    sha256: str = ""
    stamp: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage's folder for one configuration."""

    name: str
    key: str
    folder: Path

    def part(self, name: str) -> "Stage":
        """A further folder of the same stage, for what it does in several passes."""
        return Stage(name, self.key, self.folder.with_name(f"{name}-{self.key}"))

    def file(self, unit: Unit | str, ending: str) -> Path:
        """The file that this stage writes for a unit; what a bucket has of it is copied here."""
        return mirror.fetched(self._here(unit, ending))

    def _here(self, unit: Unit | str, ending: str) -> Path:
        return self.folder / f"{unit if isinstance(unit, str) else unit.key}{ending}"

    def marker(self, unit: Unit | str) -> Path:
        """The unit's completion marker."""
        return self.file(unit, ".json")

    def done(self, unit: Unit | str) -> bool:
        """Whether this stage has finished the unit."""
        return self.marker(unit).exists()

    def whole(self, unit: Unit | str) -> bool:
        """Whether this stage has finished the unit and its files have the sizes that the marker says (power may have failed)."""
        try:
            sizes = self.result(unit)["files"]
            return all(mirror.size(self._here(unit, ending)) == size for ending, size in sizes.items())
        except (JaLlmError, OSError, KeyError, TypeError):
            return False

    def finish(self, unit: Unit | str, result: dict[str, Any]) -> None:
        """Write the unit's marker: the result, and the sizes of the files that the stage has written for it."""
        found = {ending: self._here(unit, ending) for ending in _ENDINGS}
        sizes = {ending: path.stat().st_size for ending, path in found.items() if path.exists()}
        with write_file(self.marker(unit)) as file:
            file.write(canonical_json({**result, "files": sizes}).encode())

    def result(self, unit: Unit | str) -> dict[str, Any]:
        """What the marker holds."""
        return read_json(self.marker(unit), "stage marker")


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and rename it to `path` if the block succeeds; one of a bucket is copied there then.

    Unlike `files.atomic_write` without fsync, which costs more than the work itself for many small files: a killed
    process leaves a whole file or none all the same, and after a power failure `Stage.whole` finds what is not.

    Raises:
      JaLlmError: the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if mirror.url_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # the launching process made it on another machine
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
        mirror.publish(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise os_error_sentence(error, path) from error
        raise


def stage(work: Path, name: str, version: int, values: Any, before: Sequence[Stage] = ()) -> Stage:
    """The stage `name` for these values: `version` changes when its code gives other results for equal values."""
    key = sha256_json([name, version, values, [s.key for s in before]])[:12]
    return Stage(name, key, work / f"{name}-{key}")


@dataclasses.dataclass(frozen=True)
class Execution:
    """How and where stages run; nothing of it decides a result.

    Attributes:
      beam_args: Beam's options.
      workers: local processes, 0 for one a core.
      documents: how many there are, once it is known: no process is started for fewer than are worth it.
    """

    beam_args: Sequence[str] = ()
    workers: int = 1
    documents: int | None = None

    def processes(self, each: int | None = None) -> int:
        """How many of the workers are worth starting: one for every `each` documents."""
        workers = self.workers or multiprocessing.cpu_count()
        return workers if self.documents is None else max(1, min(workers, self.documents // (each or DOCUMENTS_PER_WORKER)))

    def shuffling(self) -> int:
        """The same for a pipeline that does nothing but group: its tables stay in this process."""
        return self.processes(SHUFFLED_PER_WORKER)


def run_units(
    this: Stage,
    units: Sequence[Unit],
    function: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    execution: Execution,
    light: bool = False,
) -> None:
    """Run `function(unit, this, *arguments)` for every unit without a marker, and write what it returns as the marker.

    Args:
      this: the stage.
      units: all units of the input.
      function: called on a worker; raises JaLlmError or OSError for what a user can mend.
      arguments: its further arguments.
      execution: where it runs.
      light: the work is a look-up in what stages before it wrote; it is done here, without Beam, unless that is in a bucket.

    Raises:
      JaLlmError: the disk is full, or a unit could not be processed for a reason that a user can mend.
    """
    pending = [unit for unit in units if not this.whole(unit)]
    if not pending:
        return
    this.folder.mkdir(parents=True, exist_ok=True)
    if light and not mirror.url_of(this.folder):
        for unit in pending:
            this.finish(unit, _timed(unit, this, function, arguments))
        return
    from beam_pipelines.runner import run_pipeline

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        _ = (
            pipeline
            | "Units" >> beam.Create(pending, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | this.name >> beam.Map(run_unit, this, function, arguments)
        )

    with _Monitor(this, units, len(units) - len(pending)):
        run_pipeline(build, execution.beam_args, min(execution.processes(), len(pending)))


def run_unit(unit: Unit, this: Stage, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    """Process one unit on a worker and mark it as done."""
    from beam_pipelines.runner import WorkerError

    try:
        this.finish(unit, _timed(unit, this, function, arguments))
    except JaLlmError as error:
        raise WorkerError(error) from error
    except OSError as error:
        raise WorkerError(os_error_sentence(error, error.filename or unit.path)) from error


def _timed(unit: Unit, this: Stage, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What the function returns, with the seconds that it took where it does not say them itself (`Tally`)."""
    start = time.monotonic()
    result = function(unit, this, *arguments)
    return {"seconds": time.monotonic() - start, **result}


@contextlib.contextmanager
def launcher_work(this: Stage, members: int) -> Iterator[None]:
    """Leave a marker of the seconds that the process which starts the job spends on so many members itself, for the timings."""
    start = time.monotonic()
    yield
    this.folder.mkdir(parents=True, exist_ok=True)
    this.finish("launcher", {"members": members, "seconds": time.monotonic() - start})


def note_progress(this: Stage, unit: Unit, documents: int) -> None:
    """Leave a note of how far a unit is, for the process that shows the progress."""
    if not mirror.url_of(this.folder):
        this.file(unit, ".progress").write_text(str(documents))


class _Monitor:
    """Shows progress from the markers and notes on disk: the same for every runner."""

    def __init__(self, this: Stage, units: Sequence[Unit], done: int):
        self._stage, self._units = this, units
        self._progress = Progress(this.name, len(units), "file", initial=done)
        self._done = done
        self._stop = threading.Event()
        self._in_bucket = mirror.url_of(this.folder) is not None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *unused: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._progress.close()

    def _watch(self) -> None:
        while not self._stop.wait(15 if self._in_bucket else 0.5):
            self._look()

    def _look(self) -> None:
        if self._in_bucket:
            with contextlib.suppress(JaLlmError):  # the bucket may answer the next time
                there = set(mirror.names(self._stage.folder, "*.json"))
                self._show(sum(f"{unit.key}.json" in there for unit in self._units), 0)
            return
        done = sum(self._stage.done(unit) for unit in self._units)
        documents = 0
        for unit in self._units:
            try:
                documents += int(self._stage.file(unit, ".progress").read_text() or 0)
            except (FileNotFoundError, ValueError):
                continue
        self._show(done, documents)

    def _show(self, done: int, documents: int) -> None:
        self._progress.update(done - self._done, f"{documents} documents" if documents else "")
        self._done = done


def folders(work: Path, this: Stage) -> list[Path]:
    """The folders of a stage and of its parts, those that exist."""
    return sorted(path for path in work.glob(f"*-{this.key}") if path.is_dir())


def prune(work: Path, keep: Iterable[Stage]) -> None:
    """Remove the folders of configurations that are no longer the current one, and what a killed process had begun to write."""
    keys = {s.key for s in keep}
    if mirror.url_of(work):
        stale = [name for name in mirror.below(work) if "/" in name and name.partition("/")[0].rpartition("-")[2] not in keys]
        mirror.remove(work, stale)
        return
    for folder in work.iterdir():
        if folder.is_dir() and folder.name.rpartition("-")[2] not in keys:
            shutil.rmtree(folder, ignore_errors=True)
    for begun in work.glob("*/.*.tmp"):
        begun.unlink(missing_ok=True)

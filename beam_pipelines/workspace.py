"""Files between stages, with a completion marker for each stage and unit of input, so that a killed job goes on.

    OUTPUT/.work/<stage>-<key>/<unit>.json     marker, written last: counts and samples; its existence says "done"
    OUTPUT/.work/<stage>-<key>/<unit>.*        what the stage wrote for this unit

A unit is one input file, known by its content and name. `key` is a hash of every value that decides the stage's content,
with the keys of the stages before it: a changed value starts new folders from the first stage that it touches.
Stages are run by Beam, one pipeline a stage over the units that have no marker yet. The folder must be reachable by all
workers (one machine, or a shared file system).
"""

import contextlib
import dataclasses
import heapq
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ja_llm.errors import JaLlmError
from ja_llm.files import canonical_json, os_error_sentence, read_json, sha256_json
from ja_llm.progress import Progress

WORK = ".work"

# A worker process takes seconds to start; a stage after extraction handles some hundred documents in one.
DOCUMENTS_PER_WORKER = 500


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

    def file(self, unit: Unit | str, ending: str) -> Path:
        """The file that this stage writes for a unit."""
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
            return all(self.file(unit, ending).stat().st_size == size for ending, size in sizes.items())
        except (JaLlmError, OSError, KeyError, TypeError):
            return False

    def finish(self, unit: Unit | str, result: dict[str, Any]) -> None:
        """Write the unit's marker: the result, and the sizes of the files that the stage has written for it."""
        found = {ending: self.file(unit, ending) for ending in (".tfrecord", ".jsonl", ".npy")}
        sizes = {ending: path.stat().st_size for ending, path in found.items() if path.exists()}
        with write_file(self.marker(unit)) as file:
            file.write(canonical_json({**result, "files": sizes}).encode())

    def result(self, unit: Unit | str) -> dict[str, Any]:
        """What the marker holds."""
        return read_json(self.marker(unit), "stage marker")


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` and rename it to `path` if the block succeeds.

    Unlike `files.atomic_write` without fsync, which costs more than the work itself for many small files: a killed
    process leaves a whole file or none all the same, and after a power failure `Stage.whole` finds what is not.

    Raises:
      JaLlmError: the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise os_error_sentence(error, path) from error
        raise


def stage(work: Path, name: str, version: int, values: Any, before: Sequence[Stage] = ()) -> Stage:
    """The stage `name` for these values: `version` changes when its code gives other results for equal values."""
    key = sha256_json([name, version, values, [s.key for s in before]])[:12]
    return Stage(name, key, work / f"{name}-{key}")


class Tally:
    """What happened to one unit's documents in one stage: documents and characters in, kept and dropped by reason.

    Args:
      samples: dropped documents to keep per reason: those with the smallest seeded hash, so that units' samples merge
        into the sample of the whole.
      sample_characters: of each one's text.
      seed: of the hash.
    """

    def __init__(self, samples: int, sample_characters: int, seed: int):
        self._samples, self._characters, self._seed = samples, sample_characters, seed
        self.kept: dict[str, list[int]] = {}
        self.dropped: dict[str, list[int]] = {}
        self._sampled: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self._start = time.monotonic()

    def keep(self, characters: int, lang: str = "") -> None:
        """Count a kept document, by language where it is known."""
        _add(self.kept, lang, characters)

    def drop(self, reason: str, key: str, text: str = "", **fields: Any) -> None:
        """Count a dropped document; `key` identifies it for the sampling, `fields` go into the sample."""
        _add(self.dropped, reason, len(text))
        rank = xxhash.xxh64_intdigest(key.encode("utf-8", "surrogatepass"), self._seed)
        entry = {"reason": reason, **fields, **({"text": text[: self._characters]} if text else {})}
        self._sampled[reason] = heapq.nsmallest(
            self._samples, [*self._sampled.get(reason, []), (rank, entry)], key=lambda e: e[0]
        )

    def to_json(self) -> dict[str, Any]:
        """For the marker. `seconds` is never part of content that is hashed."""
        return {
            "kept": self.kept,
            "dropped": self.dropped,
            "samples": self._sampled,
            "seconds": time.monotonic() - self._start,
        }


def _add(table: dict[str, list[int]], key: str, characters: int) -> None:
    entry = table.setdefault(key, [0, 0])
    entry[0] += 1
    entry[1] += characters


def merge_counts(tables: Iterable[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Sum tables of [documents, characters]."""
    total: dict[str, list[int]] = {}
    for table in tables:
        for key, (documents, characters) in table.items():
            entry = total.setdefault(key, [0, 0])
            entry[0] += documents
            entry[1] += characters
    return dict(sorted(total.items()))


def merge_samples(results: Iterable[dict[str, Any]], samples: int) -> dict[str, list[dict[str, Any]]]:
    """The sample of the whole from the units' samples."""
    merged: dict[str, list] = {}
    for result in results:
        for reason, entries in result["samples"].items():
            merged[reason] = heapq.nsmallest(samples, [*merged.get(reason, []), *entries], key=lambda e: e[0])
    return {reason: [entry for _, entry in entries] for reason, entries in sorted(merged.items())}


def worth(workers: int, documents: int | None, each: int = 0) -> int:
    """How many of the workers are worth starting (0 workers: one a core): one for every `each` documents."""
    workers = workers or multiprocessing.cpu_count()
    return workers if documents is None else max(1, min(workers, documents // (each or DOCUMENTS_PER_WORKER)))


def run_units(
    this: Stage,
    units: Sequence[Unit],
    function: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    beam_args: Sequence[str],
    workers: int,
    light: bool = False,
    documents: int | None = None,
) -> None:
    """Run `function(unit, this, *arguments)` for every unit without a marker, and write what it returns as the marker.

    Args:
      this: the stage.
      units: all units of the input.
      function: called on a worker; raises JaLlmError or OSError for what a user can mend.
      arguments: its further arguments.
      beam_args: Beam's options.
      workers: local processes, 0 for one a core.
      light: the work is a look-up in what stages before it wrote; it is done here, without Beam.
      documents: how many there are, if it is known: no worker process is started for fewer than are worth it.

    Raises:
      JaLlmError: the disk is full, or a unit could not be processed for a reason that a user can mend.
    """
    pending = [unit for unit in units if not this.whole(unit)]
    if not pending:
        return
    if light:
        this.folder.mkdir(parents=True, exist_ok=True)
        for unit in pending:
            this.finish(unit, function(unit, this, *arguments))
        return
    from beam_pipelines.runner import run_pipeline

    this.folder.mkdir(parents=True, exist_ok=True)

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        _ = (
            pipeline
            | "Units" >> beam.Create(pending, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | this.name >> beam.Map(run_unit, this, function, arguments)
        )

    with _Monitor(this, units, len(units) - len(pending)):
        run_pipeline(build, beam_args, min(worth(workers, documents), len(pending)))


def run_unit(unit: Unit, this: Stage, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    """Process one unit on a worker and mark it as done."""
    from beam_pipelines.runner import WorkerError

    try:
        this.finish(unit, function(unit, this, *arguments))
    except JaLlmError as error:
        raise WorkerError(error) from error
    except OSError as error:
        raise WorkerError(os_error_sentence(error, error.filename or unit.path)) from error


def note_progress(this: Stage, unit: Unit, documents: int) -> None:
    """Leave a note of how far a unit is, for the process that shows the progress."""
    this.file(unit, ".progress").write_text(str(documents))


class _Monitor:
    """Shows progress from the markers and notes on disk: the same for every runner."""

    def __init__(self, this: Stage, units: Sequence[Unit], done: int):
        self._stage, self._units = this, units
        self._progress = Progress(this.name, len(units), "file", initial=done)
        self._done = done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *unused: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._progress.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self._look()

    def _look(self) -> None:
        done = sum(self._stage.done(unit) for unit in self._units)
        documents = 0
        for unit in self._units:
            try:
                documents += int(self._stage.file(unit, ".progress").read_text() or 0)
            except (FileNotFoundError, ValueError):
                continue
        self._progress.update(done - self._done, f"{documents} documents" if documents else "")
        self._done = done


def prune(work: Path, keep: Iterable[Stage]) -> None:
    """Remove the folders of configurations that are no longer the current one."""
    names = {s.folder.name for s in keep}
    for folder in work.iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)

"""The corpus job's output folder in a bucket: what is allowed there, whose it is, and what is copied to it at the end."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from beam_pipelines import dedup_index, mirror
from beam_pipelines.config import Corpus
from beam_pipelines.runner import names_runner
from beam_pipelines.workspace import WORK
from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.storage import Lease

_NO_SHARED_DISK = ("DataflowRunner",)


def check_place(
    inputs: Sequence[str], output: str | os.PathLike, config: Corpus, beam_args: Sequence[str], formats: Sequence[str]
) -> None:
    """Refuse what can't work between input, an output folder and a runner.

    Raises:
      UsageError: Dataflow's workers would read from or write to their own disks, or an option needs the output on this machine.
    """
    if names_runner(beam_args) in _NO_SHARED_DISK:
        for flag, place in (("--output", output), *(("--input", pattern) for pattern in inputs)):
            if not mirror.is_url(place):
                raise UsageError(
                    f"{flag} {os.fspath(place)}: Dataflow's workers do not see this machine's disk; name a place in a bucket (gs://BUCKET/FOLDER)."
                )
    if not mirror.is_url(output):
        own = {os.path.realpath(os.path.join(output, name)) for name in ("", dedup_index.NAME)}
        for folder in config.dedup.against:
            if os.path.realpath(folder) in own:
                raise UsageError(
                    f"--against {folder}: this is the output itself, of which every document would go as known; name the output of "
                    "another run."
                )
        return
    if [name for name in formats if name != "tfrecord"]:
        raise UsageError(
            f"--format: copies are written on a machine's own disk; copy {os.fspath(output)} there, then run ja-llm corpus copy."
        )
    if config.dedup.against:
        raise UsageError("--against: workers of a job in a bucket can't see an earlier run's index; run this job on one machine.")


@contextlib.contextmanager
def claim_in_bucket(output: Path, job: str) -> Iterator[Path]:
    """Claim the output folder for this job and this process; yields its work folder.

    Raises:
      UsageError: it holds something that the job did not write.
      JaLlmError: another process is writing there, or the bucket can't be used.
    """
    work = output / WORK
    url = mirror.url_of(output)
    try:
        ours = mirror.fetched(work / "job.json").exists()
        if not ours and not _is_ours(output, job) and mirror.anything(output):
            raise UsageError(
                f"{url}: this folder holds something that the corpus job did not write; choose another, or an empty one."
            )
        work.mkdir(parents=True, exist_ok=True)
        if not ours:
            write_json(work / "job.json", {"job": job})
            mirror.publish(work / "job.json")
        taken = JaLlmError(f"{url}: another corpus job is writing here; wait for it, or choose another folder.")
        lease = Lease(cast(Path, mirror.RemoteFile(work / "lease")), taken)
        try:
            yield work
        finally:
            lease.close()
    except JaLlmError as error:
        raise type(error)(_with_urls(str(error), output)) from error


def _is_ours(output: Path, job: str) -> bool:
    path = mirror.fetched(output / manifest.NAME)
    return path.exists() and read_json(path, "manifest").get("job") == job


def _with_urls(sentence: str, output: Path) -> str:
    """The sentence with the folder's URL instead of the path that stands for it."""
    return sentence.replace(os.fspath(output), f"{mirror.url_of(output)}")


def publish_set(output: Path, value: dict[str, Any]) -> None:
    """Copy what this process wrote beside the shards to the bucket, the manifest last; workers have copied the shards."""
    languages = {shard["lang"] for shard in value["shards"]}
    mirror.publish_tree(output, (WORK, *languages), manifest.NAME)


def remove_stale_shards(output: Path, wanted: set[str]) -> None:
    """Remove shards of an earlier configuration: they would be stray files beside the manifest."""
    stale = [name for name in mirror.below(output) if name.endswith(".tfrecord") and not name.startswith(WORK)]
    mirror.remove(output, [name for name in stale if name not in wanted])

"""The corpus job: input files to a document set, by the chain of stages that a preset orders (`chain.py`).

A stage is one Beam pipeline over the units of input that it has not finished, with files between the stages
(`workspace.py`, `stage_files.py`), so that a killed job goes on where it was and one that is run again with one changed
threshold repeats only what the threshold touches.

    python -m beam_pipelines.corpus --input 'data/warc/*.warc.gz' --output data/corpus --preset swallow_v2
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import card, chain, dedup_index, mirror, probe, sink, split, stats, yields
from beam_pipelines import config as configuration
from beam_pipelines import plan as planning
from beam_pipelines.card.scores import collect as collect_scores
from beam_pipelines.config import Corpus
from beam_pipelines.flags import bindings, build_flags
from beam_pipelines.formats import check as check_formats
from beam_pipelines.formats import write_copies
from beam_pipelines.in_bucket import check_place, claim_in_bucket, publish_set, remove_stale_shards
from beam_pipelines.inputs.files import find_inputs, require_apart, stamp_of, units_of
from beam_pipelines.tally import shown_samples
from beam_pipelines.trace import write_chain
from beam_pipelines.workspace import WORK, Execution, Stage, Unit, prune, stage
from ja_llm import manifest
from ja_llm.command_line import run, sigterm_leaves
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import lock_file, os_error_sentence, read_json, sha256_json, write_json

JOB = "corpus"
_NOTHING_LEFT = "nothing_left"  # in the work folder: samples of a run that left no document, where an earlier set stands
# Which dropped documents are shown, and how much of each. Nothing in the set depends on it, so it is no part of its identity.
_SAMPLING = ("samples", "sample_characters", "seed")


def build_corpus(
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    preset: str = "swallow_v2",
    gin_bindings: Sequence[str] = (),
    beam_args: Sequence[str] = (),
    workers: int = 1,
    formats: Sequence[str] = (),
) -> dict[str, Any]:
    """Build a document set, or go on with one that was interrupted, or verify a finished one.

    The bytes of the set depend on the input files and the configuration alone.

    Args:
      inputs: paths or globs of files (docs/inputs.md has the formats), or of folders of source code; a bare string is one of them. Also
        URLs of files in a bucket.
      output: folder of the document set (layout: docs/architecture.md), here or in a bucket; its `.work` holds what lies between the stages.
      preset: name of a gin file in `gin_configs/corpus/`, or a path.
      gin_bindings: bindings that win over the preset.
      beam_args: Beam's options; they say where and how the job runs. Default: Beam's local Python runner.
      workers: local processes, 0 for one a core.
      formats: of copies beside the TFRecord shards, which are always written: "jsonl.zst", "parquet" (`formats.py`).

    Returns:
      The manifest; `yields` are the counts per stage and reason, `damaged` the damaged places of the input.

    Raises:
      UsageError: nothing to read, an unknown option or binding, a runner whose workers can't see the output, or the output holds something
        else.
      JaLlmError: the disk is full, or no document is left.
    """
    from beam_pipelines.runner import check_options

    if workers < 0:
        raise UsageError(f"--workers {workers}: give a number of processes, or 0 for one a core.")
    config = configuration.load(preset, gin_bindings)
    check_options(beam_args)
    check_formats(formats)
    inputs = [inputs] if isinstance(inputs, str) else inputs
    check_place(inputs, output, config, beam_args, formats)
    chain.side_files(config)
    for notice in chain.notices(config):
        print(f"note: {notice}.", file=sys.stderr)
    execution = Execution(list(beam_args), workers)
    with mirror.session() as token:
        files = find_inputs(inputs, config.inputs, token)
        place = _place(output, token)
        require_apart(files, place)
        if mirror.is_url(output):
            return _build_in_bucket(config, files, place, execution)
        return _build_here(config, files, place, execution, formats)


def plan(
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    preset: str = "swallow_v2",
    gin_bindings: Sequence[str] = (),
    beam_args: Sequence[str] = (),
    workers: int = 1,
) -> str:
    """What `build_corpus` with the same arguments would read, by which rules, and what it would take; nothing is written.

    Raises:
      UsageError: as `build_corpus`.
    """
    from beam_pipelines.runner import check_options

    config = configuration.load(preset, gin_bindings)
    check_options(beam_args)
    check_place(inputs, output, config, beam_args, ())
    chain.side_files(config)
    how = f"with Beam options {' '.join(beam_args)}" if beam_args else f"in {workers or 'one a core'} local worker processes"
    with mirror.session() as token:
        files = find_inputs(inputs, config.inputs, token)
        place = _place(output, token)
        require_apart(files, place)
        return _plan(config, preset, files, place, os.fspath(output), how)


def _place(output: str | os.PathLike, token: str) -> Path:
    """The folder of the set, or the path that stands for one in a bucket."""
    return mirror.place(os.fspath(output), token) if mirror.is_url(output) else Path(output)


def _plan(config: Corpus, preset: str, files: Sequence[Path], output: Path, where: str, how: str) -> str:
    size = sum(stamp_of(str(file))[0] for file in files)
    begun = "goes on with what is finished there" if mirror.fetched(output / WORK / "job.json").exists() else "begins anew"
    rules = "\n".join(f"  {name}: {value}" for name, value in sorted(config.to_json().items()))
    pages = probe.estimate(files, config.inputs)
    like = read_json(output / manifest.NAME, "manifest")["yields"] if _is_corpus(output) else []
    found = planning.rows(config, pages.records, like, crawl=pages.crawl, html=pages.html)
    return "\n".join(
        (
            f"would read {len(files)} files ({size / 1e6:,.1f} MB) into {where} ({begun}), {how}",
            f"by preset {preset}:",
            rules,
            *(f"note: {notice}." for notice in chain.notices(config)),
            "",
            planning.format_plan(found, f"some {pages.records:,.0f} {'pages' if pages.crawl else 'records'}, {pages.how}"),
            f"(speeds: {planning.speeds()['measured']})",
            *(("", planning.of_swallow_v2(config)) if pages.crawl else ()),
        )
    )


def _build_here(
    config: Corpus, files: Sequence[Path], output: Path, execution: Execution, formats: Sequence[str]
) -> dict[str, Any]:
    with _locked(output) as work:
        units, entries = units_of(files)
        value = _finished(output, config, units, entries)
        if value is not None:
            print(f"{output}: finished before with the same input and configuration; the files are whole.", file=sys.stderr)
        else:
            value = _build(config, units, entries, output, work, execution)
        card.write_card(output, value)
        write_copies(output, formats, execution.beam_args, execution.workers)
        return value


def _build_in_bucket(config: Corpus, files: Sequence[Path], output: Path, execution: Execution) -> dict[str, Any]:
    """The same with the output in a bucket: what stands there is asked for stage by stage, so a finished set takes a look at its markers."""
    with claim_in_bucket(output, JOB) as work:
        units, entries = units_of(files)
        value = _build(config, units, entries, output, work, execution)
        card.write_card(output, value)
        publish_set(output, value)
        return value


def _build(
    config: Corpus, units: list[Unit], entries: list[dict[str, Any]], output: Path, work: Path, execution: Execution
) -> dict[str, Any]:
    finished = chain.walk(config, units, work, execution)
    results = yields.read_results(finished, units, config)
    personal = config.modify.personal if "modify" in config.stages else ()
    stages, tables = yields.make_yields(finished, results), yields.make_tables(results)
    if not yields.anything_left(stages):
        stands = mirror.fetched(output / manifest.NAME).exists()
        place = work / _NOTHING_LEFT if stands else output  # an earlier set's samples belong to its manifest
        yields.write_samples(place, results, config.samples, personal)
        raise yields.nothing_left(output, place, stages, tables["other_records"], stands)
    mirror.remove(output, [manifest.NAME])  # from here to the end the set is not whole
    yields.write_samples(output, results, config.samples, personal)
    chain.say_processed(finished)

    values, sampling = _identity(config)
    written = _sink_stage(config, work, finished.stages)
    documents = stages[0]["kept"]["documents"]
    execution = dataclasses.replace(execution, documents=documents)
    shards, summary, tallies = sink.run_all(written, output, units, finished.stages, config, execution)
    yields.write_timings(output, work, finished, units, (sink.NAME, tallies))
    if any(tally["dropped"] for tally in tallies):
        stages.append(yields.stage_yield(sink.NAME, tallies))
        yields.write_samples(
            output, {**results, sink.NAME: [shown_samples(t, config) for t in tallies]}, config.samples, personal
        )
    _remove_stale_shards(output, shards)
    for this in finished.stages:
        if this.name == "dedup":
            dedup_index.publish(this, output)
    counted, scores = collect_scores(work, units, finished.stages, config, execution)
    card.write_counts(output, shards, summary, scores)
    totals = yields.make_totals(shards)
    one_sided = split.notices(totals, config.split)
    for notice in one_sided:
        print(f"note: {notice}.", file=sys.stderr)
    notices = [*chain.notices(config), *one_sided]
    damaged = (entry for result in results[chain.FIRST] for entry in result["damaged"])
    value = manifest.write(
        output,
        schema=manifest.DOCUMENTS,
        job=JOB,
        config=values,
        inputs=entries,
        shards=shards,
        totals=totals,
        packages=chain.packages(config),
        sampling=sampling,
        stage_keys=_keys([*finished.stages, written]),
        yields=stages,
        damaged=sorted(damaged, key=lambda d: (d["input"], d["offset"])),
        **({"notices": notices} if notices else {}),
        **tables,
    )
    write_chain(work, finished.stages)
    prune(work, [*finished.stages, written, counted])
    return value


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[Path]:
    """Claim the output folder for this job and this process; yields its work folder."""
    work = output / WORK
    ours = (work / "job.json").exists()
    if output.exists() and not ours:
        if not output.is_dir():
            raise UsageError(f"{output}: this is a file; name a folder for the document set.")
        if any(output.iterdir()) and not _is_corpus(output):
            raise UsageError(
                f"{output}: this folder holds something that the corpus job did not write; choose another, or an empty one."
            )
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not ours:
            write_json(work / "job.json", {"job": JOB})
    except OSError as error:
        raise os_error_sentence(error, output) from error
    with lock_file(
        work / "lock", JaLlmError(f"{output}: another corpus job is writing here; wait for it, or choose another folder.")
    ):
        yield work


def _is_corpus(output: Path) -> bool:
    path = mirror.fetched(output / manifest.NAME)
    if not path.exists():
        return False
    value = read_json(path, "manifest")
    return isinstance(value, dict) and value.get("schema") == manifest.DOCUMENTS and value.get("job") == JOB


def _identity(config: Corpus) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that decide the documents, and those that only decide which dropped ones are kept as samples."""
    values = config.to_json()
    sampling = {name: values.pop(name) for name in _SAMPLING}
    if files := chain.side_files(config):
        values["side_files"] = files
    return values, sampling


def _sink_stage(config: Corpus, work: Path, before: Sequence[Stage]) -> Stage:
    return stage(work, sink.NAME, sink.VERSION, config.shard_bytes, before[-1:])


def _keys(stages: Sequence[Stage]) -> dict[str, str]:
    """What decides each stage's content, by its name: values, version of the code, software, and the stage before."""
    return {this.name: this.key for this in stages}


def _finished(output: Path, config: Corpus, units: Sequence[Unit], entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The manifest, if the set is whole and was made from this input by this configuration, these stages and this software."""
    if not (output / manifest.NAME).exists():
        return None
    try:
        value = manifest.read(output, manifest.DOCUMENTS, verify=True)
    except JaLlmError as error:
        print(f"{error} It is made again.", file=sys.stderr)
        return None
    values, sampling = _identity(config)
    same = value["config_hash"] == sha256_json(values) and value.get("sampling") == sampling and value["inputs"] == entries
    if not same or value["software"] != manifest.software(*chain.packages(config)):
        return None
    # The configuration holds no stage's version, and not the values of a stage that someone added: the keys do.
    stages = chain.stages_of(config, units, output / WORK)
    return value if value.get("stage_keys") == _keys([*stages, _sink_stage(config, output / WORK, stages)]) else None


def _remove_stale_shards(output: Path, shards: list[dict[str, Any]]) -> None:
    """Shards of an earlier configuration, or half-written by a killed process, would be stray files beside the manifest."""
    wanted = {s["name"] for s in shards}
    if mirror.url_of(output):
        remove_stale_shards(output, wanted)
        return
    for path in (*output.glob("*/*.tfrecord"), *output.glob("*/.*.tmp")):
        if path.relative_to(output).as_posix() not in wanted:
            path.unlink()
    for folder in output.iterdir():
        if folder.is_dir() and folder.name not in (WORK, "dropped", "modified") and not any(folder.iterdir()):
            shutil.rmtree(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m beam_pipelines.corpus`: parse, build, print the yields."""
    parser = argparse.ArgumentParser(
        prog="python -m beam_pipelines.corpus",
        description="Web archives, dumps, records or source code to filtered, deduplicated documents. Options that are not listed go to Beam (--runner ...).",
        epilog="Example:\n  python -m beam_pipelines.corpus --input 'data/warc/*.warc.gz' --output data/corpus --workers 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build_flags(parser)
    argv = list(sys.argv[1:] if argv is None else argv)

    def build() -> None:
        args, rest = parser.parse_known_args([a for a in argv if a != "--debug"])
        how = {"preset": args.preset, "gin_bindings": bindings(args), "beam_args": rest, "workers": args.workers}
        if args.dry_run:
            print(plan(args.input, args.output, **how))
        else:
            # Beam would wait for over a minute for workers that have just started; a build may be killed at any moment.
            with sigterm_leaves("corpus"):
                print(stats.format_yields(build_corpus(args.input, args.output, formats=args.format, **how)))

    return run("corpus", build, debug="--debug" in argv)


if __name__ == "__main__":
    sys.exit(main())

"""The corpus job: WARC files to a document set, in Swallow v2's order (deduplicate first, then filter).

    extract -> language -> minhash -> dedup -> measure -> select -> split (collect, search, finish) -> sink

`build_corpus` reads from top to bottom; each stage is a module. A stage is one Beam pipeline over the units of input that it
has not finished, with files between the stages (`workspace.py`), so that a killed job goes on where it was and one that
is run again with one changed threshold repeats only what the threshold touches.

    python -m beam_pipelines.corpus --input 'data/warc/*.warc.gz' --output data/corpus --preset swallow_v2
"""

import argparse
import contextlib
import glob
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import config as configuration
from beam_pipelines import dedup, extract, language, minhash, select, sink, split, stats
from beam_pipelines.config import Corpus
from beam_pipelines.flags import build_flags
from beam_pipelines.workspace import WORK, Stage, Unit, merge_counts, merge_samples, prune, run_units, stage, worth
from ja_llm import manifest
from ja_llm.command_line import run
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_directory, lock_file, os_error_sentence, read_json, sha256_file, sha256_json, write_json

JOB = "corpus"
_SHUFFLED_PER_WORKER = 20_000  # a GroupByKey's tables stay in this process; workers only help with much more
# Which dropped documents are shown, and how much of each. Nothing in the set depends on it, so it is no part of its identity.
_SAMPLING = ("samples", "sample_characters", "seed")
PACKAGES = ("apache-beam", *extract.PACKAGES, *language.PACKAGES, *minhash.PACKAGES, "numpy")


def build_corpus(
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    preset: str = "swallow_v2",
    gin_bindings: Sequence[str] = (),
    beam_args: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Build a document set, or go on with one that was interrupted, or verify a finished one.

    The bytes of the set depend on the input files and the configuration alone.

    Args:
      inputs: paths or globs of WARC files (.warc, .warc.gz); a bare string is one of them.
      output: folder of the document set (layout: docs/architecture.md); its `.work` holds what lies between the stages.
      preset: name of a gin file in `gin_configs/corpus/`, or a path.
      gin_bindings: bindings that win over the preset.
      beam_args: Beam's options; they say where and how the job runs. Default: Beam's local Python runner.
      workers: local processes, 0 for one a core.

    Returns:
      The manifest; `yields` are the counts per stage and reason, `damaged` the damaged places of the input.

    Raises:
      UsageError: nothing to read, an unknown option or binding, or the output holds something else.
      JaLlmError: the disk is full, or no document is left.
    """
    from beam_pipelines.runner import check_options

    if workers < 0:
        raise UsageError(f"--workers {workers}: give a number of processes, or 0 for one a core.")
    config = configuration.load(preset, gin_bindings)
    check_options(beam_args)
    files = find_inputs([inputs] if isinstance(inputs, str) else inputs)
    output = Path(output)
    with _locked(output) as work:
        units, entries = _units(files)
        finished = _finished(output, config, entries)
        if finished is not None:
            print(f"{output}: finished before with the same input and configuration; the files are whole.", file=sys.stderr)
            return finished
        with contextlib.suppress(FileNotFoundError):
            (output / manifest.NAME).unlink()  # from here to the end the set is not whole
        return _build(config, units, entries, output, work, list(beam_args), workers)


def plan(
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    preset: str = "swallow_v2",
    gin_bindings: Sequence[str] = (),
    beam_args: Sequence[str] = (),
    workers: int = 1,
) -> str:
    """What `build_corpus` with the same arguments would read, and by which rules; nothing is written.

    Raises:
      UsageError: as `build_corpus`.
    """
    from beam_pipelines.runner import check_options

    config, files = configuration.load(preset, gin_bindings), find_inputs(inputs)
    check_options(beam_args)
    size = sum(file.stat().st_size for file in files)
    how = f"with Beam options {' '.join(beam_args)}" if beam_args else f"in {workers or 'one a core'} local worker processes"
    begun = "goes on with what is finished there" if (Path(output) / WORK).exists() else "begins anew"
    rules = "\n".join(f"  {name}: {value}" for name, value in sorted(config.to_json().items()))
    return f"would read {len(files)} files ({size / 1e6:,.1f} MB) into {output} ({begun}), {how}\nby preset {preset}:\n{rules}"


def _build(
    config: Corpus, units: list[Unit], entries: list[dict[str, Any]], output: Path, work: Path, beam_args: list[str], workers: int
) -> dict[str, Any]:
    how: tuple[list[str], int] = (beam_args, workers)
    values, sampling = _identity(config)
    keys = sorted(unit.key for unit in units)

    extracted = stage(
        work, "extract", extract.VERSION, [values["extraction"], list(sampling.values()), manifest.software(*extract.PACKAGES)]
    )
    run_units(extracted, units, extract.run, (config,), *how)
    extract.close_extractor(config.extraction)
    documents = sum(len(extracted.result(unit)["offsets"]) for unit in units)

    languages = stage(
        work,
        "language",
        language.VERSION,
        [values["language"], values["languages"], manifest.software(*language.PACKAGES)],
        [extracted],
    )
    run_units(languages, units, language.run, (extracted, config), *how, documents=documents)

    signed = stage(work, "minhash", minhash.VERSION, values["minhash"], [languages])
    run_units(signed, units, minhash.run, (extracted, languages, config), *how, documents=documents)

    deduplicated = stage(work, "dedup", dedup.VERSION, keys, [signed])
    shuffling = (beam_args, worth(workers, documents, _SHUFFLED_PER_WORKER))
    dedup.run_all(deduplicated, units, extracted, languages, signed, config, *shuffling)

    measured = stage(work, "measure", 1, select.VERSIONS, [deduplicated])
    run_units(measured, units, select.measure, (extracted, languages, deduplicated, config), *how, documents=documents)

    decided = stage(work, "select", 1, [values["japanese"], values["english"]], [measured])
    run_units(decided, units, select.decide, (extracted, languages, deduplicated, measured, config), *how, light=True)

    collected = stage(work, "heldout", split.VERSION, values["split"], [decided])
    searched = stage(work, "contained", split.VERSION, None, [collected])
    placed = stage(work, "split", split.VERSION, None, [searched])
    check = config.split.max_containment is not None and config.split.heldout_share > 0
    if check:
        run_units(collected, units, split.collect, (extracted, decided, config), *how, light=True)
        split.unite(collected, keys)
        run_units(searched, units, split.search, (extracted, decided, collected, config), *how, documents=documents)
        split.unite(searched, keys)
    run_units(placed, units, split.finish, (extracted, decided, searched if check else None, config), *how, light=True)

    reported = {"extract": extracted, "language": languages, "dedup": deduplicated, "filter": decided, "split": placed}
    results = {name: [this.result(unit) for unit in units] for name, this in reported.items()}
    _write_dropped(output, results, config.samples)
    yields = _yields(results)
    _write_timings(output, units, [extracted, languages, signed, deduplicated, measured, decided, collected, searched, placed])
    others = dict(sorted(_sum(r["other_records"] for r in results["extract"]).items()))
    if not any(table["kept"]["documents"] for table in yields[-1:]):
        raise JaLlmError(_nothing_left(output, yields, others))

    shards_key = stage(work, "sink", sink.VERSION, config.shard_bytes, [placed])
    shards = sink.run_all(shards_key, output, units, extracted, placed, config.shard_bytes, *shuffling)
    _remove_stale_shards(output, shards)
    value = manifest.write(
        output,
        schema=manifest.DOCUMENTS,
        job=JOB,
        config=values,
        inputs=entries,
        shards=shards,
        totals=_totals(shards),
        packages=PACKAGES,
        sampling=sampling,
        yields=yields,
        damaged=sorted((d for r in results["extract"] for d in r["damaged"]), key=lambda d: (d["input"], d["offset"])),
        other_records=others,
        licences=dict(sorted(_sum(r["licences"] for r in results["split"]).items())),
        broken_rules=dict(sorted(_sum(r["all_reasons"] for r in results["filter"]).items())),
    )
    prune(work, [extracted, languages, signed, deduplicated, measured, decided, collected, searched, placed, shards_key])
    return value


def find_inputs(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, each once, in order of name.

    Raises:
      UsageError: there is no pattern, or one that matches no file.
    """
    if not patterns:
        raise UsageError("there is no input; name WARC files with --input GLOB.")
    found: dict[str, Path] = {}
    for pattern in patterns:
        pattern = os.fspath(pattern)
        if "://" in pattern:
            raise UsageError(f"{pattern}: only files that this machine can open are read; copy or mount them first.")
        matches = [Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file()]
        if Path(pattern).is_file():
            matches.append(Path(pattern))
        if not matches:
            raise UsageError(
                f"{pattern}: no file matches; check the path, and quote the pattern so that the shell leaves it alone."
            )
        for path in matches:
            found[os.path.realpath(path)] = path
    return [found[real] for real in sorted(found)]


def _units(files: list[Path]) -> tuple[list[Unit], list[dict[str, Any]]]:
    """The units of input and the manifest's entries, in order of name; names are relative to the files' common folder."""
    root = Path(os.path.commonpath([os.path.realpath(path.parent) for path in files]))
    units, entries = [], []
    for path in files:
        name = Path(os.path.realpath(path)).relative_to(root).as_posix()
        try:
            entry = {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        except OSError as error:
            raise JaLlmError(f"{path}: this input can't be read ({error.strerror}); check its permissions.") from error
        entries.append(entry)
        units.append(Unit(sha256_json([entry["sha256"], name])[:16], name, os.path.realpath(path)))
    order = sorted(range(len(files)), key=lambda i: str(entries[i]["name"]))
    return [units[i] for i in order], [entries[i] for i in order]


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
    path = output / manifest.NAME
    if not path.exists():
        return False
    value = read_json(path, "manifest")
    return isinstance(value, dict) and value.get("schema") == manifest.DOCUMENTS and value.get("job") == JOB


def _identity(config: Corpus) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that decide the documents, and those that only decide which dropped ones are kept as samples."""
    values = config.to_json()
    sampling = {name: values.pop(name) for name in _SAMPLING}
    return values, sampling


def _finished(output: Path, config: Corpus, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The manifest, if the set is whole and was made from this input by this configuration and software."""
    if not (output / manifest.NAME).exists():
        return None
    try:
        value = manifest.read(output, manifest.DOCUMENTS, verify=True)
    except JaLlmError as error:
        print(f"{error} It is made again.", file=sys.stderr)
        return None
    values, sampling = _identity(config)
    same = value["config_hash"] == sha256_json(values) and value.get("sampling") == sampling and value["inputs"] == entries
    return value if same and value["software"] == manifest.software(*PACKAGES) else None


def _write_dropped(output: Path, results: dict[str, list[dict[str, Any]]], samples: int) -> None:
    """`dropped/<reason>.jsonl`, all reasons at once; a reason belongs to one stage."""
    from ja_llm.files import canonical_json

    with atomic_directory(output / "dropped") as folder:
        for name, stage_results in results.items():
            for reason, entries in merge_samples(stage_results, samples).items():
                lines = "".join(canonical_json({"stage": name, **entry}) + "\n" for entry in entries)
                (folder / f"{reason}.jsonl").write_bytes(lines.encode("utf-8", "replace"))


def _yields(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Per stage: documents and characters in, kept (also by language) and dropped by reason; in = kept + dropped."""

    def count(pair: Sequence[int]) -> dict[str, int]:
        return {"documents": pair[0], "characters": pair[1]}

    def total(tables: list[dict[str, list[int]]]) -> list[int]:
        return [sum(pair[i] for table in tables for pair in table.values()) for i in (0, 1)]

    yields = []
    for name, stage_results in results.items():
        kept = merge_counts(r["kept"] for r in stage_results)
        dropped = merge_counts(r["dropped"] for r in stage_results)
        yields.append(
            {
                "stage": name,
                "in": count(total([kept, dropped])),
                "kept": count(total([kept])),
                "kept_by": {key: count(pair) for key, pair in kept.items() if key},
                "dropped": {reason: count(pair) for reason, pair in dropped.items()},
            }
        )
    return yields


def _write_timings(output: Path, units: list[Unit], stages: list[Stage]) -> None:
    """`timings.json`: seconds of work and documents a second for each stage. Beside the manifest, because a clock is no content."""
    table = {}
    for this in stages:
        done = [this.result(unit) for unit in units if this.done(unit)]
        seconds = sum(r["seconds"] for r in done)
        documents = sum(pair[0] for r in done for group in (r["kept"], r["dropped"]) for pair in group.values())
        if done:
            table[this.name] = {
                "seconds": round(seconds, 3),
                "documents": documents,
                "documents_per_second": round(documents / max(seconds, 1e-9), 1),
            }
    write_json(
        output / "timings.json",
        {"note": "seconds of worker time, summed over units; dedup without Beam's grouping", "stages": table},
    )


def _nothing_left(output: Path, yields: list[dict[str, Any]], others: dict[str, int]) -> str:
    read = yields[0]["in"]["documents"]
    if read == 0:
        if n := others.get("conversion", 0):
            return (
                f"{output}: the input holds no response record but {n} conversion records (extracted text, as in Common Crawl's "
                "WET files); give the WARC files that they were made from."
            )
        found = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        return f"{output}: the input holds no response record ({found or 'no record at all'}); give WARC files of a crawl."
    reasons = [(c["documents"], reason) for table in yields for reason, c in table["dropped"].items()]
    most = ", ".join(f"{reason} ({n})" for n, reason in sorted(reasons, reverse=True)[:3])
    return f"{output}: no document is left of {read}; most were dropped for {most}; samples are in {output / 'dropped'}; loosen these rules or check the input."


def _remove_stale_shards(output: Path, shards: list[dict[str, Any]]) -> None:
    """Shards of an earlier configuration would be stray files beside the manifest."""
    wanted = {s["name"] for s in shards}
    for path in output.glob("*/*.tfrecord"):
        if path.relative_to(output).as_posix() not in wanted:
            path.unlink()
    for folder in output.iterdir():
        if folder.is_dir() and folder.name not in (WORK, "dropped") and not any(folder.iterdir()):
            shutil.rmtree(folder)


def _totals(shards: list[dict[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {key: sum(s[key] for s in shards) for key in ("documents", "characters", "bytes")}
    for s in shards:
        part = totals.setdefault(s["lang"], {}).setdefault(s["split"], {"documents": 0, "characters": 0})
        part["documents"] += s["documents"]
        part["characters"] += s["characters"]
    return totals


def _sum(tables: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        for key, n in table.items():
            total[key] = total.get(key, 0) + n
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m beam_pipelines.corpus`: parse, build, print the yields."""
    parser = argparse.ArgumentParser(
        prog="python -m beam_pipelines.corpus",
        description="WARC files to filtered, deduplicated documents. Options that are not listed go to Beam (--runner ...).",
        epilog="Example:\n  python -m beam_pipelines.corpus --input 'data/warc/*.warc.gz' --output data/corpus --workers 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build_flags(parser)
    argv = list(sys.argv[1:] if argv is None else argv)

    def build() -> None:
        args, rest = parser.parse_known_args([a for a in argv if a != "--debug"])
        how = {"preset": args.preset, "gin_bindings": args.bindings, "beam_args": rest, "workers": args.workers}
        if args.dry_run:
            print(plan(args.input, args.output, **how))
        else:
            print(stats.format_yields(build_corpus(args.input, args.output, **how)))

    return run("corpus", build, debug="--debug" in argv)


if __name__ == "__main__":
    sys.exit(main())

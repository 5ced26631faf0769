"""What a run of the chain leaves beside the documents: counts per stage and reason, samples, timings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import mirror
from beam_pipelines.chain import Finished
from beam_pipelines.config import Corpus
from beam_pipelines.tally import merge_counts, merge_samples, merge_tables, records_in, shown_samples
from beam_pipelines.workspace import Stage, Unit, folders
from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_directory, canonical_json, read_json, write_json
from ja_llm.text.personal import mask

Results = dict[str, list[dict[str, Any]]]  # stage -> the markers of its units
_ALWAYS = ("other_records", "licences", "broken_rules")  # tables that a manifest has even where nothing was counted


# What markers hold for each document, for the stages behind: of no use here, and this process holds all markers at once.
_OF_DOCUMENTS = ("offsets", "drops", "changed", "placed")


def read_results(finished: Finished, units: Sequence[Unit], config: Corpus) -> Results:
    """What the markers of every stage count, in the chain's order: some kilobytes a unit and stage, however many documents it has."""

    def of_unit(this: Stage, unit: Unit) -> dict[str, Any]:
        result = shown_samples(this.result(unit), config)
        return {name: held for name, held in result.items() if name not in _OF_DOCUMENTS}

    return {this.name: [of_unit(this, unit) for unit in units] for this in finished.stages}


def make_yields(finished: Finished, results: Results) -> list[dict[str, Any]]:
    """For each stage that can drop or modify: what came in, was kept (also by language), dropped by reason, modified by kind.

    Each in documents, characters and UTF-8 bytes; in = kept + dropped, and in characters what a modification took away.
    """
    return [stage_yield(spec.name, results[spec.name]) for spec in finished.specs if spec.drops]


def stage_yield(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A stage's line of `make_yields` from its units' tallies."""
    kept, dropped, modified = (merge_counts(r[key] for r in results) for key in ("kept", "dropped", "modified"))
    came = [sum(counts[i] for table in (kept, dropped) for counts in table.values()) for i in range(3)]
    for r in results:
        came[1] += r["shrunk"][0]
        came[2] += r["shrunk"][1]
    return {
        "stage": name,
        "in": _named(came),
        "kept": _named([sum(counts[i] for counts in kept.values()) for i in range(3)]),
        "kept_by": {key: _named(counts) for key, counts in kept.items() if key},
        "dropped": {reason: _named(counts) for reason, counts in dropped.items()},
        "modified": {kind: _named(counts) for kind, counts in modified.items()},
    }


def _named(counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(("documents", "characters", "bytes"), counts, strict=True))


def make_tables(results: Results) -> dict[str, dict[str, int]]:
    """The tables that stages counted beside their yields (`Tally.count`), summed: licences, broken rules, other records."""
    return {**{name: {} for name in _ALWAYS}, **merge_tables(r for stage in results.values() for r in stage)}


def write_samples(output: Path, results: Results, samples: int, personal: Sequence[str] = ()) -> None:
    """`dropped/<reason>.jsonl` and `modified/<kind>.jsonl`, all at once; a reason belongs to one stage.

    Kinds of personal data that the set is to be free of (`personal`) are masked in the samples' texts too.
    """
    for folder_name, group in (("dropped", "samples"), ("modified", "modified_samples")):
        with atomic_directory(output / folder_name) as folder:
            for name, stage_results in results.items():
                for reason, entries in merge_samples(stage_results, samples, group).items():
                    lines = "".join(canonical_json({"stage": name, **_masked(entry, personal)}) + "\n" for entry in entries)
                    (folder / f"{reason}.jsonl").write_bytes(lines.encode("utf-8", "replace"))


def _masked(entry: dict[str, Any], personal: Sequence[str]) -> dict[str, Any]:
    texts: dict[str, Any] = {key: mask(entry[key], personal) for key in ("text", "before", "after") if personal and key in entry}
    return {**entry, **texts}


def write_timings(
    output: Path, work: Path, finished: Finished, units: Sequence[Unit], sink: tuple[str, Sequence[dict[str, Any]]]
) -> None:
    """`timings.json`: for each stage and each pass beside it seconds of work, documents a second, and the records processed in this run.

    Beside the manifest, because a clock is no content.

    Args:
      output: folder of the set.
      work: of what lies between the stages.
      finished: the chain.
      units: of the input.
      sink: the name of the writing of the shards and its tallies.
    """
    table = {}
    for spec, this in zip(finished.specs, finished.stages, strict=True):
        for folder in folders(work, this):
            # A folder of a stage over the whole corpus is of these units alone; others may hold those of inputs that went.
            names = mirror.names(folder, "*.json") if spec.run_all else [f"{unit.key}.json" for unit in units]
            paths = [path for name in names if (path := mirror.fetched(folder / name)).exists()]
            done = [result for path in paths if "seconds" in (result := read_json(path, "stage marker"))]
            if done:
                table[folder.name.rpartition("-")[0]] = _timing(done)
    name, tallies = sink
    table[name] = _timing(tallies)
    note = (
        "seconds of work, summed over units, tasks and shards; without what Beam takes to start processes and to group. A document counts in each "
        "bucket that a deduplication's links are looked for in"
    )
    write_json(output / "timings.json", {"note": note, "stages": table, "processed_in_this_run": finished.processed})


def _timing(done: Sequence[dict[str, Any]]) -> dict[str, float]:
    seconds = sum(result["seconds"] for result in done)
    documents = sum(result["members"] if "members" in result else records_in(result) for result in done)
    return {
        "seconds": round(seconds, 3),
        "documents": documents,
        "documents_per_second": round(documents / max(seconds, 1e-9), 1),
    }


def anything_left(yields: list[dict[str, Any]]) -> bool:
    """Whether the chain has left a document."""
    return any(table["kept"]["documents"] for table in yields[-1:])


def nothing_left(output: Path, place: Path, yields: list[dict[str, Any]], others: dict[str, int], stands: bool) -> JaLlmError:
    """What to say of a run that has left no document: what was read instead, or for what most was dropped.

    Args:
      output: the set's folder.
      place: the folder whose `dropped` holds the samples.
      yields: of the stages.
      others: records that hold no document, by kind.
      stands: whether an earlier set is in `output`.
    """
    earlier = "; the set that was finished here before stands as it was." if stands else "."
    read = yields[0]["in"]["documents"]
    if read == 0:
        found = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        return JaLlmError(
            f"{output}: the input holds no page and no text ({found or 'no record at all'}); check that it is what its names say, "
            f"and --preset or corpus.Inputs.kind{earlier}"
        )
    reasons = [(c["documents"], reason) for table in yields for reason, c in table["dropped"].items()]
    most = ", ".join(f"{reason} ({n})" for n, reason in sorted(reasons, reverse=True)[:3])
    return JaLlmError(
        f"{output}: no document is left of {read}; most were dropped for {most}; samples are in {place / 'dropped'}; "
        f"loosen these rules or check the input{earlier}"
    )


def make_totals(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the shards, also by language and split."""
    totals: dict[str, Any] = {key: sum(s[key] for s in shards) for key in ("documents", "characters", "bytes")}
    for s in shards:
        part = totals.setdefault(s["lang"], {}).setdefault(s["split"], {"documents": 0, "characters": 0})
        part["documents"] += s["documents"]
        part["characters"] += s["characters"]
    return totals

"""How much to replay: the same continual run at several shares of the replayed sources, with paired seeds, and what each domain came to.

    OUT/runs/<share>_<seed>/   the runs, as `ja-llm train` leaves them; one that is finished is not run again
    OUT/sweep.gin              the settings that all of them have
    OUT/sweep.json             schema ja_llm.replay_sweep/1: every run's figures, means, intervals
    OUT/sweep.html             the table and a plot a domain

A domain is a source of the cache that has held-out documents; runs with the same seed read each source in the same order, so their difference
is free of what the order does. Where a run has STAGES, each that has one of the replayed sources has the share of it; how much of all tokens that
is, the table says. Two things make a figure uncertain, and both are told: the order of the data (intervals over seeds), and which
documents are held out (the error of the rise since step 0, each document compared with itself: `ja_llm.train.alarms.rise`).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
from scipy import stats

from ja_llm import gin_utils, manifest
from ja_llm.data.rates import Replay
from ja_llm.data.stages import Stage
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json, write_text
from ja_llm.pages.html import page, table
from ja_llm.pages.svg import Line, escape, line_plot
from ja_llm.train.forgetting import BASELINE, read_baseline
from ja_llm.train.ledger import first_difference

SCHEMA = "ja_llm.replay_sweep/1"
_METRIC = "bits_per_byte"
_REPLAYED = "# replayed: "  # the line of sweep.gin behind gin's own

Values = dict[str, dict[str, float]]


def sweep(
    files: Sequence[str],
    bindings: Sequence[str],
    *,
    sources: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    out: str | Path,
    search_paths: str = "",
) -> dict[str, Any]:
    """Run what is not finished, and write the figures.

    Args:
      files: gin files of the run, e.g. runs/continue.gin; see `ja_llm.gin_utils.parsed`.
      bindings: `NAME = VALUE` of it, without MODEL_DIR, RANDOM_SEED and RATES, which are the sweep's.
      sources: the replayed sources.
      shares: theirs together, in each stage that has any of them; the first is what the others are compared with.
      seeds: of the data order (and of new parameters); two or more for intervals.
      out: folder; what is finished there is kept.
      search_paths: comma-separated folders of gin files.

    Returns:
      What sweep.json holds.

    Raises:
      UsageError: shares or seeds are none or come twice, a setting is the sweep's own, or a run is refused.
      JaLlmError: a run fails, or measures nothing.
    """
    from ja_llm.train.main import main as train

    _check(bindings, sources, shares, seeds)
    out = Path(out)
    steps, replayed = _same_run(files, bindings, search_paths, sources, shares, out)
    runs: list[dict[str, Any]] = []
    for share in shares:
        for seed in seeds:
            folder = out / "runs" / f"{share:g}_{seed}"
            if float(f"{share:g}") != share:  # more digits than that has
                folder = folder.with_name(f"{share!r}_{seed}")
            own = {
                "MODEL_DIR": repr(str(folder)),
                "RANDOM_SEED": str(seed),
                "EVAL_PERIOD": "%TRAIN_STEPS",  # at the beginning and at the end
            }
            for number, (rates, there) in enumerate(replayed.items()):
                scope = f"replay{number}/" if number else ""
                own |= {rates: f"@{scope}rates.Replay()", f"{scope}rates.Replay.sources": repr(there)}
                own |= {f"{scope}rates.Replay.share": repr(share)}
            if (read := figures(folder, steps)) is None:
                of = f"run {len(runs) + 1} of {len(shares) * len(seeds)}"
                print(f"{of}: {', '.join(sources)} {100 * share:g} %, seed {seed}", flush=True)
                train(files, [*bindings, *(f"{name} = {value}" for name, value in own.items())], search_paths)
                read = figures(folder, steps)
            if not read:
                raise JaLlmError(f"{folder}: this run measured no held-out text; give CACHE_DIR held-out documents.")
            runs.append({"share": share, "seed": seed, "read": share_read(folder, steps, sources), **read})
    value = {
        "schema": SCHEMA,
        "sources": list(sources),
        "seeds": list(seeds),
        "runs": runs,
        "domains": summary(runs, list(shares)),
    }
    write_json(out / "sweep.json", value)
    write_text(out / "sweep.html", html(value))
    return value


def _check(bindings: Sequence[str], sources: Sequence[str], shares: Sequence[float], seeds: Sequence[int]) -> None:
    for name, values in (("--share", shares), ("--seeds", seeds), ("--source", sources)):
        if not values:
            raise UsageError(f"{name}: there is none to train with; give one or more.")
        if len(set(values)) < len(values):
            raise UsageError(f"{name} {' '.join(map(str, values))}: they are not all different; give each once.")
    for binding in bindings:
        if (name := binding.partition("=")[0].strip()) in ("MODEL_DIR", "RANDOM_SEED", "RATES", "EVAL_PERIOD"):
            raise UsageError(f"{name} is set by the sweep itself; leave it out.")


def _same_run(
    files: Sequence[str], bindings: Sequence[str], search_paths: str, sources: Sequence[str], shares: Sequence[float], out: Path
) -> tuple[int, dict[str, tuple[str, ...]]]:
    """Steps of the run, and what is bound to the replay: {name of the rates of a stage: sources of its mixture that are replayed}.

    OUT/sweep.gin keeps the run's settings, so that what is finished is never taken for a run of others.

    Raises:
      UsageError: OUT was begun with other settings, no gin file makes a run, a stage has rates already, or no stage has such sources.
    """
    from ja_llm.train.main import train

    with gin_utils.parsed(files, bindings, search_paths, placeholders={"MODEL_DIR": ""}) as text:
        given = gin.get_bindings(train)
        names = ["RATES", *(f"{reference.scoped_selector}.rates" for reference in _references("main.train.stages"))]
    if "total_steps" not in given:
        raise UsageError("the gin files and bindings make no run; add --gin_file=runs/continue.gin, or another of ja-llm train.")
    stages = [stage for stage in given.get("stages") or () if isinstance(stage, Stage)]
    caches = [given.get("cache_dir"), *(stage.cache_dir for stage in stages)]
    if not all(isinstance(cache, str) for cache in caches) or len(names) != len(caches):
        replayed, where = {"RATES": tuple(sources)}, ""  # the run says what is wrong with them
    else:
        set_already = [given.get("rates"), *(stage.rates for stage in stages)]
        replayed = _replayed(dict(zip(names, zip(caches, set_already, strict=True), strict=True)), sources, shares)
        begins = dict(zip(names, [0, *(stage.from_step for stage in stages)], strict=True))
        where = f" in the stages from step {', '.join(str(begins[name]) for name in replayed)}" if stages else ""
    said = f"{text}\n{_REPLAYED}{', '.join(sources)}{where}\n"
    kept = out / "sweep.gin"
    # A first run that was refused has left nothing that other settings could be mixed with.
    if not kept.exists() or not any(out.glob("runs/*/run.json")):
        out.mkdir(parents=True, exist_ok=True)
        write_text(kept, said)
    elif (was := _settings(kept.read_text(encoding="utf-8"))) != (now := _settings(said)):
        name, before, asked = first_difference(was, now)
        raise UsageError(
            f"{out}: this sweep was begun with other settings: {name} was {before}, now it is {asked} (sweep.gin has them all); give them again, "
            "or another --out."
        )
    return given["total_steps"], replayed


def _references(name: str) -> Sequence[Any]:
    """gin's references in a tuple or list, which a macro may stand for; none where nothing is bound."""
    try:
        value = gin.query_parameter(name)
        while isinstance(value, gin.config.ConfigurableReference) and value.selector == "gin.macro":
            value = gin.query_parameter(f"%{value.scopes[-1]}")
    except ValueError:
        return ()
    return [item for item in value or () if isinstance(item, gin.config.ConfigurableReference)]


def _replayed(
    stages: Mapping[str, tuple[str, Any]], sources: Sequence[str], shares: Sequence[float]
) -> dict[str, tuple[str, ...]]:
    """Of {name of a stage's rates: (its cache, rates that it has already)} those that have any of the sources, and which.

    Raises:
      UsageError: no stage has one of the sources, or one that has can't be given the shares.
    """
    mixtures = {
        name: {member["task"]: member["rate"] for member in manifest.read(Path(cache), manifest.MIXTURE)["members"]}
        for name, (cache, _) in stages.items()
    }
    known = {task for rates in mixtures.values() for task in rates}
    if foreign := [source for source in sources if source not in known]:
        have = "the mixture has" if len(stages) == 1 else "the mixtures of CACHE_DIR and STAGES have"
        raise UsageError(f"the replayed sources (--source) have {foreign[0]!r}; {have} {', '.join(sorted(known))}.")
    found = {name: there for name, rates in mixtures.items() if (there := tuple(s for s in sources if s in rates))}
    for name, there in found.items():
        cache, already = stages[name]
        if already is not None:
            raise UsageError(f"{name} is set by the sweep itself; leave it out.")
        for share in shares:
            try:
                Replay(there, share)({}, mixtures[name], 0)
            except UsageError as error:
                raise UsageError(f"{cache}: {error}") from error
    return found


def share_read(run: Path, steps: int, sources: Sequence[str]) -> float:
    """How much of the tokens that a run of `steps` learnt from, all stages together, is of these sources."""
    contents = read_json(run / "run.json", "ledger")["contents"]
    ends = [*(stage["from_step"] for stage in contents[1:]), steps]
    all_of_them = of_sources = 0.0
    for stage, end in zip(contents, ends, strict=True):
        tokens = stage.get("row_tokens") or stage["shares"]  # runs of before have the shares alone
        weight = max(min(end, steps) - stage["from_step"], 0)
        all_of_them += weight * math.fsum(tokens.values())
        of_sources += weight * math.fsum(tokens.get(source, 0.0) for source in sources)
    return of_sources / all_of_them


def _settings(text: str) -> dict[str, str]:
    """What sweep.gin says, by name."""
    replayed = re.search(rf"^{_REPLAYED}(.*)$", text, re.MULTILINE)
    return {**gin_utils.statements(text), **({"--source": replayed[1]} if replayed else {})}


def figures(run: Path, steps: int) -> dict[str, Any] | None:
    """First and last measurement of each domain.

    Returns:
      {"before": {domain: bits per byte}, "after", "error": {domain: standard error of after - before over documents}, "documents":
      {domain: how many}}, a domain whose single document tells no error left out of the last two; None where the run has not come to `steps`.
    """
    path = run / "metrics.jsonl"
    found: dict[int, dict[str, float]] = {}
    errors: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        value = json.loads(line)
        measured = {
            key.split("/")[1]: number for key, number in value.items() if key.startswith("eval/") and key.endswith(f"/{_METRIC}")
        }
        if measured:
            found[value["step"]] = measured
        if value["step"] == steps:
            rise = {domain: value.get(f"forgetting/{domain}/rise_error") for domain in measured}
            errors |= {domain: error for domain, error in rise.items() if error}
    if steps not in found:
        return None
    base = read_baseline(run / BASELINE) if errors and (run / BASELINE).exists() else {}
    documents = {domain: len(base[domain][1]) for domain in errors if domain in base}
    told = {domain: errors[domain] for domain in documents}
    return {"before": found.get(0, {}), "after": found[steps], "error": told, "documents": documents}


def summary(runs: Sequence[Mapping[str, Any]], shares: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """For each domain a row a share, in the order of `shares`.

    Args:
      runs: {"share", "seed", "read" (of all tokens), "before", "after", "error", "documents"}; each share has the same seeds.
      shares: the first is the reference.

    Returns:
      {domain: [{"share", "read" (of all tokens), "mean" (bits per byte), "interval", "change" (mean minus that of before training), "change_interval",
      "document_error" (standard error of the change over documents, or None), "document_half" (half of its 95 % interval), "difference" (paired, to the first share),
      "difference_interval"}]}. Intervals are of 95 %, Student's (n - 1 degrees of freedom), over seeds; None with a single seed, and for the
      difference of the first to itself. That of the change with a single seed is over documents.
    """
    by_share = {share: {run["seed"]: run for run in runs if run["share"] == share} for share in shares}
    found: dict[str, list[dict[str, Any]]] = {}
    for domain in runs[0]["after"]:
        first = {seed: run["after"][domain] for seed, run in by_share[shares[0]].items()}
        for share in shares:
            here = {seed: run["after"][domain] for seed, run in by_share[share].items()}
            changes = [run["after"][domain] - run["before"].get(domain, math.nan) for run in by_share[share].values()]
            known = not any(map(math.isnan, changes))
            # The documents are those of every seed, so that more seeds make it no smaller.
            errors = [error for run in by_share[share].values() if (error := run["error"].get(domain))]
            error = float(np.mean(errors)) if errors else None
            half = None if error is None else _student(0.95, runs[0]["documents"][domain]) * error
            gaps = [value - first[seed] for seed, value in here.items()]
            found.setdefault(domain, []).append(
                {
                    "share": share,
                    "read": float(np.mean([run["read"] for run in by_share[share].values()])),
                    "mean": float(np.mean(list(here.values()))),
                    "interval": interval(list(here.values())),
                    "change": float(np.mean(changes)) if known else None,
                    "change_interval": (interval(changes) or _over_documents(changes[0], half)) if known else None,
                    "document_error": error,
                    "document_half": half,
                    "difference": float(np.mean(gaps)),
                    "difference_interval": None if share == shares[0] else interval(gaps),
                }
            )
    return found


def interval(values: Sequence[float], level: float = 0.95) -> list[float] | None:
    """Student's interval of a mean: mean -+ t(n - 1) s / sqrt(n) (Student 1908, Biometrika 6); None for a single value."""
    if len(values) < 2:
        return None
    half = float(_student(level, len(values)) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def _student(level: float, count: int) -> float:
    """How many standard errors the interval of a mean of `count` values reaches to each side."""
    return float(stats.t.ppf((1 + level) / 2, count - 1))


def _over_documents(change: float, half: float | None) -> list[float] | None:
    """The interval of a single run's change over documents."""
    return None if half is None else [change - half, change + half]


def format_sweep(value: Mapping[str, Any]) -> str:
    """The table, in plain text."""
    rows = [_HEAD, *_rows(value)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, _meaning(value)])


_HEAD = ("domain", "replayed", "bits/byte", "since the beginning", "over documents", "against the first share")


def _meaning(value: Mapping[str, Any]) -> str:
    """What the intervals are of."""
    seeds = len(value["seeds"])
    documents = 'Under "over documents" is what the choice of held-out documents makes of the change (Student\'s 95 %).'
    if seeds < 2:
        return f"One seed: the interval of the change is over held-out documents; --seeds 3 tells the noise of the data order. {documents}"
    return f"Means of {seeds} seeds; intervals are Student's 95 % over the seeds, differences are paired by seed. {documents}"


def _rows(value: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for domain, entries in value["domains"].items():
        for entry in entries:
            gap = "" if entry is entries[0] else f"{entry['difference']:+.4f}{_shown(entry['difference_interval'], '+')}"
            change = "" if entry["change"] is None else f"{entry['change']:+.4f}{_shown(entry['change_interval'], '+')}"
            error = "" if entry["document_half"] is None else f"± {entry['document_half']:.4f}"
            level = f"{entry['mean']:.4f}{_shown(entry['interval'])}"
            read = f"{entry['read']:.1%}"
            asked = f"{entry['share']:.1%}"
            found.append((domain, read if read == asked else f"{read} ({asked} of its stages)", level, change, error, gap))
    return found


def _shown(ends: Sequence[float] | None, sign: str = "") -> str:
    return "" if ends is None else f" [{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]"


def html(value: Mapping[str, Any]) -> str:
    """The page: a plot a domain with its intervals, and the table."""
    plots = []
    for domain, entries in value["domains"].items():
        ordered = sorted(entries, key=lambda entry: entry["read"])
        points = [(100 * entry["read"], entry["mean"]) for entry in ordered]
        spread = [(100 * entry["read"], *ends) for entry in ordered if (ends := _band(entry))]
        change = ordered[0]["change"]
        levels = [] if change is None else [("before training", ordered[0]["mean"] - change)]
        plots.append(line_plot(domain, [Line(domain, points, spread)], "replayed, % of the tokens", "bits per byte", levels))
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEAD)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(value))
    said = f"<p>{escape(_meaning(value))} The faint bands are these intervals.</p>"
    sections = [
        ("plots", "Bits per byte by share", said + "".join(plots)),
        ("table", "Table", table("Domains and shares", head, body)),
    ]
    return page("How much to replay", f"replayed: {', '.join(value['sources'])}", sections)


def _band(entry: Mapping[str, Any]) -> list[float] | None:
    """Ends of the band around a level: over seeds, or with a single seed those of its change over documents."""
    if entry["interval"] or not entry["change_interval"]:
        return entry["interval"]
    before = entry["mean"] - entry["change"]
    return [before + end for end in entry["change_interval"]]

"""Speed of the corpus job on real pages, for one core: end to end and by stage, against datatrove; filters against HojiChar, too.

    python3 -m venv build/peers && build/peers/bin/pip install datatrove hojichar trafilatura==2.3.1 warcio faust-cchardet \\
        python-magic fasteners spacy sudachipy sudachidict-core py3langid orjson lxml_html_clean
    python -m benchmarks.corpus_speed --warc build/real/debian-docs/warc --peers build/peers/bin/python

Three parts on the WARC files of `ja-llm fetch debian-docs`:
  japanese   the pages of the Japanese manuals: both extract every page, so that trafilatura decides the time
  mix        four per cent of such pages among others, Common Crawl's share: ours looks at the raw bytes first
  filters    the heuristic rules alone, on the Japanese texts that ours extracted: ours, HojiChar's, datatrove's

What the filters compute: ours annotate every document with every statistic (letters by script, sentences, lines, repeated
lines and sentences, three shares of the most frequent and twelve of the repeated n-grams of 2 to 10 characters), then apply the thresholds.
HojiChar's rules are asked about every document too (length, kana among the first characters, full stops, ending ellipses,
short lines, runs of one character, n-gram repetition). Two ways: with its n-gram rule for each of the lengths that ours
measures, 2 to 10, which is what ours do, and with one rule of length 5, its default, where it does a ninth of that work.
datatrove's Gopher rules look at words; with its Japanese splitter morphological analysis is most of their time, so that its English one is
measured beside it.

Each run is a process of its own, pinned to one core with its children. Ours is `python -m beam_pipelines.corpus` without
deduplication, which datatrove does in a job of its own (`benchmarks/minhash.py`); datatrove's is WarcReader, Trafilatura with the
same options in its own sandbox process, our language rule as a filter, GopherRepetitionFilter and GopherQualityFilter, JsonlWriter
(`benchmarks/corpus_speed_peers.py`). A rate is of the pages that the system's reader passed on over the CPU seconds of a run and its
children, which other load moves less than the clock, its start included; the goals are about these. Less the start, which is that of the same run
over a WARC file without a page, and by the clock they stand in the result too, and so do the seconds of each stage, as each system times
itself by the clock, and how many Japanese pages the look at the raw bytes lost. Repeats alternate; ratios are of medians. Writes
`benchmarks/results/corpus_speed.json`. `--pages` and `--repeats` make it shorter; the table says how many repeats the medians are of.
"""

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.vocab_expansion import cpu_name
from ja_llm import manifest
from ja_llm.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "corpus_speed.json"
PEERS = ROOT / "benchmarks" / "corpus_speed_peers.py"
GOALS = {"japanese": 0.95, "mix": 5.0, "filters": 3.0}
STAGES = "corpus.Corpus.stages = ['extract', 'language', 'annotate', 'select', 'split']"
# Manual pages are shorter than Swallow's 400 letters and hold more Latin text; a set without a document would be no run.
LOOSE = ["corpus.JapaneseFilter.min_letters = 20", "corpus.JapaneseFilter.min_japanese_share = 0.1"]
ALIKE = [STAGES, "corpus.Corpus.languages = ['ja']", "corpus.Split.heldout_share = 0.0", *LOOSE]
JAPANESE_SHARE = 0.04
# Ways of `corpus_speed_peers.py`.
FILTERS = ("hojichar", "hojichar, n-grams of one length", "datatrove, Japanese words", "datatrove, English splitter")
PACKAGES = ("apache-beam", "fastwarc", "trafilatura", "lxml", "py3langid", "numpy")


def members(path: Path) -> list[bytes]:
    """The gzip members of each response of a WARC file, with those of the records that follow it up to the next response.

    A response gets the header WARC-Identified-Payload-Type, as in Common Crawl: without it datatrove asks libmagic, which takes a
    quarter of these pages (XHTML) for something else, and the two would not read the same pages.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.warcwriter import WARCWriter

    pages: list[bytes] = []
    with open(path, "rb") as file:
        for record in ArchiveIterator(file):
            out = io.BytesIO()
            if record.rec_type == "response":
                kind = (
                    (record.http_headers.get_header("Content-Type") or "").partition(";")[0].strip()
                    if record.http_headers
                    else ""
                )
                record.rec_headers.replace_header("WARC-Identified-Payload-Type", kind or "application/octet-stream")
                pages.append(b"")
            WARCWriter(out, gzip=True).write_record(record)
            if pages:
                pages[-1] += out.getvalue()
    return pages


def write_inputs(warc: Path, folder: Path, pages: int) -> dict[str, dict[str, int]]:
    """WARC files of the parts: `japanese`, `mix` and `empty`; returns how many pages of which kind each has."""
    pools: dict[bool, list[bytes]] = {True: [], False: []}
    for path in sorted(warc.glob("*.warc.gz")):
        pools["-ja-" in path.name] += members(path)
    japanese = pools[True][:: max(1, len(pools[True]) // pages)][:pages]
    count = min(pages, len(pools[False]) + len(pools[True]))
    few = max(1, round(count * JAPANESE_SHARE))
    others = pools[False][:: max(1, len(pools[False]) // (count - few))][: count - few]
    step = max(1, len(others) // few)
    mixed = list(others)
    for n, page in enumerate(pools[True][:: max(1, len(pools[True]) // few)][:few]):
        mixed.insert(min(n * (step + 1), len(mixed)), page)
    for name, chosen in (("japanese", japanese), ("mix", mixed), ("empty", [])):
        (folder / name).mkdir(parents=True)
        with open(folder / name / "pages.warc.gz", "wb") as file:
            file.writelines(chosen)
    return {"japanese": {"pages": len(japanese)}, "mix": {"pages": len(mixed), "of_japanese_manuals": few}}


def pinned(core: int) -> dict[str, Any]:
    """Arguments of subprocess.run: everything on one core, numpy on one thread."""
    single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"preexec_fn": lambda: os.sched_setaffinity(0, {core}), "env": {**os.environ, **single}}


def timed(command: Sequence[str | Path], core: int, log: Path) -> tuple[float, float]:
    """(seconds, CPU seconds of the process and its children) of a command.

    Raises:
      RuntimeError: it failed; with the end of what it said.
    """
    start, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(log, "w") as file:
        done = subprocess.run([str(part) for part in command], stdout=file, stderr=file, cwd=ROOT, **pinned(core))
    seconds, now = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{log.read_text()[-3000:]}")
    return seconds, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def ours(source: Path, out: Path, bindings: Sequence[str]) -> list[str]:
    """Our command over a folder's WARC files."""
    flags = [f"--gin_bindings={binding}" for binding in bindings]
    return [sys.executable, "-m", "beam_pipelines.corpus", "--input", f"{source}/*.warc.gz", "--output", str(out), *flags]


def end_to_end(part: str, folder: Path, peers: str, core: int, repeats: int, rapid: Sequence[str]) -> dict[str, Any]:
    """Rates of both on a part, and our stages' speeds."""
    bindings = [*ALIKE, *(rapid if part == "mix" else [])]
    runs: dict[str, list[tuple[float, float]]] = {"ours": [], "datatrove": []}
    starts: dict[str, list[tuple[float, float]]] = {"ours": [], "datatrove": []}
    stages: list[dict[str, Any]] = []
    steps: list[dict[str, float]] = []
    pages = 0
    for repeat in range(repeats):
        for source, table in ((folder / part, runs), (folder / "empty", starts)):
            out = folder / f"out-{part}-{source.name}-{repeat}"
            command = ours(source, out / "ours", bindings)
            if source.name == "empty":
                command = [sys.executable, "-c", _START, *command[3:]]
            table["ours"].append(timed(command, core, folder / "log"))
            if source.name != "empty":
                stages.append(json.loads((out / "ours" / "timings.json").read_text())["stages"])
                value = json.loads((out / "ours" / manifest.NAME).read_text())
                pages = value["yields"][0]["in"]["documents"]
                kept = {table["stage"]: table["kept"]["documents"] for table in value["yields"]}
            command = [peers, str(PEERS), "pages", str(source), str(out / "datatrove")]
            table["datatrove"].append(timed(command, core, folder / "log"))
            if source.name != "empty":
                theirs = json.loads((out / "datatrove" / "counts.json").read_text())
                theirs_read = _forwarded(theirs, "Warc", "documents")
                steps.append({name: values["seconds"] for name, values in theirs.items()})
    left = {"ours": kept["language"], "datatrove": _forwarded(theirs, "Lambda")}
    found: dict[str, Any] = {"pages": pages, "pages_datatrove": theirs_read, "japanese": left, "kept_ours": kept}
    found["japanese_lost"] = round(1 - left["ours"] / left["datatrove"], 4) if left["datatrove"] else None
    for name in runs:
        found[name] = _rates(pages if name == "ours" else theirs_read, runs[name], starts[name])
    ratios = {
        "ratio": "pages_per_second",
        "ratio_with_start_up": "pages_per_second_with_start_up",
        "ratio_of_cpu": "pages_per_cpu_second",
        "ratio_of_cpu_with_start_up": "pages_per_cpu_second_with_start_up",
    }
    found |= {name: round(found["ours"][rate] / found["datatrove"][rate], 3) for name, rate in ratios.items()}
    names = {name for table in stages for name in table}
    found["stages_per_second"] = {
        name: statistics.median(table[name]["documents_per_second"] for table in stages if name in table)
        for name in sorted(names)
    }
    found["stage_seconds"] = {
        "ours": {name: statistics.median(table[name]["seconds"] for table in stages if name in table) for name in sorted(names)},
        "datatrove": {name: round(statistics.median(step[name] for step in steps), 3) for name in steps[0]},
    }
    return found


def _forwarded(counts: dict[str, dict[str, int]], step: str, what: str = "forwarded") -> int:
    """A count of one of datatrove's steps."""
    return next(values.get(what, 0) for name, values in counts.items() if name.endswith(step))


def _rates(pages: int, runs: Sequence[tuple[float, float]], starts: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """All repeats, and the rates of their medians; a rate without more words is without the start."""
    (whole, start), (cpu, cpu_start) = (
        tuple(statistics.median(run[i] for run in table) for table in (runs, starts)) for i in (0, 1)
    )
    return {
        "seconds": [round(run[0], 2) for run in runs],
        "cpu_seconds": [round(run[1], 2) for run in runs],
        "start_up_seconds": [round(run[0], 2) for run in starts],
        "start_up_cpu_seconds": [round(run[1], 2) for run in starts],
        "pages_per_second": round(pages / (whole - start), 2),
        "pages_per_second_with_start_up": round(pages / whole, 2),
        "pages_per_cpu_second": round(pages / (cpu - cpu_start), 2),
        "pages_per_cpu_second_with_start_up": round(pages / cpu, 2),
    }


# The job's start over input without a page: it ends with the sentence that nothing is left, which is no failure here.
_START = "import sys; from beam_pipelines import corpus; corpus.main(sys.argv[1:]); sys.exit(0)"


def texts(folder: Path, most: int) -> list[str]:
    """The Japanese texts that the first run extracted, kept or not."""
    from ja_llm.documents import read_documents

    work = folder / "out-japanese-japanese-0" / "ours" / ".work"
    found = []
    for path in sorted(work.glob("extract-*/*.tfrecord")):
        found += [document.text for document in read_documents(path)]
    return [text for text in found if any("\u3040" < c < "\u30ff" for c in text)][:most]


def filters(folder: Path, peers: str, core: int, repeats: int) -> dict[str, Any]:
    """Documents a CPU second of the rules alone, each system in a process of its own that times its loop."""
    chosen = texts(folder, 100_000)
    (folder / "texts.json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
    rates: dict[str, list[float]] = {}
    ways: dict[str, list[str | Path]] = {
        "ours": [sys.executable, "-m", "benchmarks.corpus_speed", "--filters", folder / "texts.json", folder / "rate.json"],
        **{name: [peers, PEERS, "filters", name, folder / "texts.json", folder / "rate.json"] for name in FILTERS},
    }
    about: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        for name, command in ways.items():
            timed(command, core, folder / "log")
            value = json.loads((folder / "rate.json").read_text())
            rates.setdefault(name, []).append(len(chosen) / value["seconds"])
            about[name] = {"rules": value["rules"], "kept": value["kept"]}
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "documents": len(chosen),
        "characters": sum(map(len, chosen)),
        "documents_per_second": {name: [round(v, 1) for v in values] for name, values in rates.items()},
        "about": about,
        "ratio": {name: round(median["ours"] / median[name], 2) for name in median if name != "ours"},
    }


def our_filters(source: Path, target: Path) -> None:
    """Time our measures and thresholds over texts (a list in a JSON file), as `annotate` and `select` call them."""
    from beam_pipelines import filters_ja, rules
    from beam_pipelines.config import load

    chosen, thresholds = json.loads(source.read_text(encoding="utf-8")), load("swallow_v2").japanese
    filters_ja.measure(chosen[0])
    start = time.process_time()
    kept = sum(not rules.failures(filters_ja.measure(text), thresholds, "ja") for text in chosen)
    seconds = time.process_time() - start
    names = [name for name, value in vars(thresholds).items() if value is not None]
    target.write_text(json.dumps({"seconds": seconds, "kept": kept, "rules": names}))


def rapid_bindings(rule: str) -> list[str]:
    """The binding that switches the look at the raw bytes on; [] where this version has none."""
    from beam_pipelines.settings.extraction import Extraction

    return [f"corpus.Extraction.rapid_check = {rule!r}"] if hasattr(Extraction, "rapid_check") else []


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warc", type=Path, default=ROOT / "build/real/debian-docs/warc", help="folder of WARC files")
    parser.add_argument("--peers", help="python of an environment with datatrove and hojichar")
    parser.add_argument("--pages", type=int, default=10_000, help="pages of each part, at most")
    parser.add_argument("--repeats", type=int, default=3, help="of each run, in turns; figures are medians (default: 3)")
    parser.add_argument("--core", type=int, default=0, help="the core that everything is pinned to")
    parser.add_argument(
        "--rapid_rule",
        default="kana",
        help="of the look at the raw bytes, in the mix (default: kana; many manual pages have neither a lang attribute nor a Japanese title)",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--filters", nargs=2, type=Path, metavar=("TEXTS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.filters:
        our_filters(*args.filters)
        return
    if not args.peers:
        parser.error("name the peers' python with --peers (see --help's first lines in the module)")
    if args.pages < 1 or args.repeats < 1:
        parser.error(f"--pages {args.pages} --repeats {args.repeats}: give 1 or more")
    rapid = rapid_bindings(args.rapid_rule)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = write_inputs(args.warc, folder, args.pages)
        parts: dict[str, Any] = {}
        for part in ("japanese", "mix"):
            parts[part] = {**about[part], **end_to_end(part, folder, args.peers, args.core, args.repeats, rapid)}
            print(part, json.dumps({k: parts[part][k] for k in parts[part] if k.startswith(("pages", "ratio"))}), flush=True)
        parts["filters"] = filters(folder, args.peers, args.core, args.repeats)
        print("filters", json.dumps(parts["filters"]["ratio"]), flush=True)
        peers = subprocess.run([args.peers, PEERS, "versions"], capture_output=True, text=True, check=True).stdout
    reached = {part: parts[part]["ratio_of_cpu_with_start_up"] >= GOALS[part] for part in ("japanese", "mix")}
    reached["filters"] = min(parts["filters"]["ratio"].values()) >= GOALS["filters"]
    hardware = {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}
    value = {
        **parts,
        "goals": {name: {"goal": goal, "reached": reached[name]} for name, goal in GOALS.items()},
        "rapid_check": rapid,
        "repeats": args.repeats,
        "software": manifest.software(*PACKAGES),
        "peers": json.loads(peers),
        "hardware": hardware,
    }
    write_json(args.out, value)


if __name__ == "__main__":
    main()

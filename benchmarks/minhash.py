"""MinHash deduplication at 10k, 100k and 1M documents: time a document, peak memory, found pairs against theory, and against peers.

    python -m benchmarks.minhash --documents build/real/walk/corpus --sizes 10000 100000 1000000
    python -m benchmarks.minhash --documents build/real/walk/corpus --sizes 100000 --peers /path/to/venv/bin/python

Documents of about 1,000 characters are made from the paragraphs of real Japanese text: each is a seeded choice of sentences, so that
documents share sentences but are not alike. For every 100 documents two are replaced by edited copies of others whose Jaccard similarity is
near .7, .8, .9 or .95 (the true one is computed by brute force and kept). They are written as the extract stage writes them, and
the stages minhash and dedup run over them, each in a process of its own whose peak resident set is what is reported
(the workers' included). Nothing in the measured time is left out but Python's start. `--bands` and `--rows` change the setting.
Growth is of CPU seconds a document, workers and their start included, which other load on the machine moves less than the clock on the wall; both
stand in the result. Peers are compared by the clock: datatrove's processes are not all counted in its CPU time.

The share of planted pairs that is found must lie within 3 standard errors of the mean of 1 - (1 - J^rows)^bands. Peers (datatrove,
text-dedup) run in their own environment on the same documents, by the same n-grams and b x r; what they can't be told is said.
Writes benchmarks/results/minhash.json, adding to what other sizes left there. What a reader must know of the circumstances (other
load, pauses) is told with --note and stands below the table; measuring without it takes an earlier note away, and
`--sizes --note TEXT`, without a size, writes the note alone.
"""

import argparse
import dataclasses
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import dedup, minhash
from beam_pipelines.buckets import LINK, Tables, read_rows, tasks
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.settings.dedup import Dedup, MinHash
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, run_units, stage, write_file
from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.documents import Document, document_id, read_documents, to_example, write_record
from ja_llm.files import read_json, write_json
from ja_llm.text.normalise import squeeze
from ja_llm.text.sentences import sentences

RESULT = Path(__file__).parent / "results" / "minhash.json"
LEVELS = (0.7, 0.8, 0.9, 0.95)
CHARACTERS, PER_UNIT, PAIRS_PER_100 = 1000, 10_000, 2
GIB = 1 << 30


def log(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def source_sentences(folder: Path) -> list[str]:
    """Distinct sentences of the Japanese training documents, in an order of their own."""
    entries = manifest.read(folder, manifest.DOCUMENTS)["shards"]
    found: dict[str, None] = {}
    for shard in entries:
        if shard["lang"] == "ja":
            for document in read_documents(folder / shard["name"]):
                found.update(dict.fromkeys(s for s in sentences(document.text) if 15 <= len(s) <= 120))
    return sorted(found)


def make_text(pool: Sequence[str], rng: random.Random) -> str:
    """About 1,000 characters of sentences, four a paragraph."""
    parts, size = [], 0
    while size < CHARACTERS:
        parts.append(pool[rng.randrange(len(pool))])
        size += len(parts[-1])
    return "\n".join("".join(parts[i : i + 4]) for i in range(0, len(parts), 4))


def edited(text: str, level: float, rng: random.Random) -> str:
    """A copy whose Jaccard similarity is near the level: one stretch is replaced. Of n n-grams, changing m leaves (n - m)/(n + m)."""
    size = int(len(text) * (1 - level) / (1 + level))
    at = rng.randrange(max(1, len(text) - size))
    other = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(size))
    return text[:at] + other + text[at + size :]


def jaccard(a: str, b: str, n: int) -> float:
    """By brute force, over sets of n-grams without white space."""
    sets = [{t[i : i + n] for i in range(max(1, len(t) - n + 1))} for t in (squeeze(a), squeeze(b))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def generate(pool: Sequence[str], count: int, seed: int, n: int) -> Iterator[tuple[Document, float | None]]:
    """Documents; an edited copy comes right after its original, with its true Jaccard similarity."""
    rng = random.Random(seed)
    number = 0
    while number < count:
        text = make_text(pool, rng)
        copies: list[tuple[str, float | None]] = [(text, None)]
        if rng.random() < PAIRS_PER_100 / 100 and number + 1 < count:
            copy = edited(text, LEVELS[rng.randrange(len(LEVELS))], rng)
            copies.append((copy, jaccard(text, copy, n)))
        for text, true in copies:
            url = f"http://site{number % 997}.example/{number}"
            yield Document(document_id("bench", url, "", text), text, "bench", url, "ja", "2024-01-01T00:00:00Z"), true
            number += 1


def write_extracted(work: Path, pool: Sequence[str], count: int, n: int) -> tuple[Stage, list[Unit], list[tuple[int, float]]]:
    """Write them as the extract stage would. Returns it, its units and the pairs: (number of the copy, Jaccard to the one before)."""
    extracted = stage(work, "extract", 1, [count, CHARACTERS])
    extracted.folder.mkdir(parents=True, exist_ok=True)
    units, pairs, documents = [], [], generate(pool, count, count, n)
    for first in range(0, count, PER_UNIT):
        unit = Unit(f"{first // PER_UNIT:06d}", f"{first}", "")
        tally, offsets = Tally(0, 0, 1), []
        with write_file(extracted.file(unit, ".tfrecord")) as file:
            for number in range(first, min(first + PER_UNIT, count)):
                document, true = next(documents)
                offsets.append(file.tell())
                write_record(file, to_example(document))
                tally.keep(document.text)
                if true is not None:
                    pairs.append((number, true))
        extracted.finish(unit, {**tally.to_json(), "offsets": offsets, "damaged": []})
        units.append(unit)
    return extracted, units, pairs


def found_pairs(
    work: Path, signed: Stage, linked: Stage, units: list[Unit], pairs: list[tuple[int, float]], config: Corpus
) -> dict[str, Any]:
    """Of the planted pairs by level: how many share a bucket, and what theory says."""
    tables = Tables.open(signed, units)
    hits: set[tuple[int, int]] = set()
    wanted = {(number, number - 1) for number, _ in pairs}
    for task in tasks(1 + config.minhash.bands, tables.documents):
        for rows in read_rows(linked.file(task.key, ".links"), LINK):
            for a, b in zip(rows["document"].tolist(), rows["better"].tolist(), strict=True):
                if (max(a, b), min(a, b)) in wanted:
                    hits.add((max(a, b), min(a, b)))
    table = {}
    for level in LEVELS:
        these = [(n, j) for n, j in pairs if abs(j - level) == min(abs(j - other) for other in LEVELS)]
        if not these:
            continue
        expected = np.array([1 - (1 - j**config.minhash.rows) ** config.minhash.bands for _, j in these])
        found = np.mean([(n, n - 1) in hits for n, _ in these])
        error = float(np.sqrt((expected * (1 - expected)).sum()) / len(these))
        table[str(level)] = {
            "pairs": len(these),
            "mean_jaccard": round(float(np.mean([j for _, j in these])), 4),
            "found": round(float(found), 4),
            "theory": round(float(expected.mean()), 4),
            "standard_error": round(error, 5),
            "within_3_standard_errors": bool(abs(found - expected.mean()) <= max(3 * error, 1e-9)),
        }
    return table


def cpu_seconds() -> float:
    """Of this process and of its children that have ended: less at the mercy of a busy machine than the clock on the wall."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def peak_gib() -> float:
    """Largest resident set of this process and of its children, GiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024 / GIB, 3)


def measure(work: Path, size: int, config: Corpus, workers: int) -> dict[str, Any]:
    """The stages over what `write_extracted` left; runs in a process of its own."""
    made = read_json(work / "made.json")
    extracted, units = stage(work, "extract", 1, [size, CHARACTERS]), [Unit(k, k, "") for k in made["units"]]
    seconds: dict[str, float] = {}
    cpu = cpu_seconds()
    before, execution = [extracted], Execution([], workers, size)
    for spec in (minhash.STAGE, dedup.STAGE):
        this = stage(work, spec.name, spec.version, spec.values(config), before[-1:])
        shutil.rmtree(this.folder, ignore_errors=True)
        this.folder.mkdir(parents=True)
        start = time.perf_counter()
        _run(spec, this, units, before, config, execution)
        seconds[spec.name] = round(time.perf_counter() - start, 3)
        log(f"{size}: {spec.name} {seconds[spec.name]:.1f} s, peak {peak_gib()} GiB")
        before.append(this)
    total, cpu = sum(seconds.values()), cpu_seconds() - cpu
    pairs = found_pairs(work, before[1], before[2].part("dedup_links"), units, [tuple(p) for p in made["pairs"]], config)
    dropped = sum(len(before[2].result(unit)["drops"]) for unit in units)
    return {
        "documents": size,
        "characters": made["characters"],
        "seconds": seconds,
        "microseconds_a_document": round(total / size * 1e6, 2),
        "cpu_microseconds_a_document": round(cpu / size * 1e6, 2),
        "peak_gib": peak_gib(),
        "dropped": dropped,
        "planted_pairs": len(made["pairs"]),
        "found_pairs": pairs,
    }


def _run(spec: StageSpec, this: Stage, units: list[Unit], before: list[Stage], config: Corpus, execution: Execution) -> None:
    if spec.run_all:
        spec.run_all(this, units, before, config, execution)
    elif spec.run:
        run_units(this, units, spec.run, (before, config), execution)


def run_size(args: argparse.Namespace, size: int, pool: Sequence[str]) -> dict[str, Any]:
    """Generate, then measure in a fresh process."""
    work = args.work / str(size)
    shutil.rmtree(work, ignore_errors=True)
    log(f"{size}: writing documents")
    extracted, units, pairs = write_extracted(work, pool, size, args.ngram)
    characters = sum(extracted.result(unit)["kept"][""][1] for unit in units)
    write_json(work / "made.json", {"units": [u.key for u in units], "pairs": pairs, "characters": characters})
    log(f"{size}: {len(pairs)} planted pairs, {characters / size:.0f} characters a document")
    settings = [f"--{name}={getattr(args, name)}" for name in ("ngram", "bands", "rows", "workers")]
    command = [sys.executable, "-m", "benchmarks.minhash", "--measure", str(size), "--work", str(args.work), *settings]
    subprocess.run(command, check=True)
    value = read_json(work / "measured.json")
    if args.peers:
        value["peers"] = run_peers(args, work, units, extracted, pairs)
    if not args.keep:
        shutil.rmtree(work)
    return value


def _removed_share(path: Path, pairs: list[tuple[int, float]]) -> dict[str, float]:
    """By level the share of planted pairs of which the peer dropped a member."""
    removed = {int(unit) + int(number) for unit, number in (id.split(":") for id in read_json(path))}
    table = {}
    for level in LEVELS:
        these = [n for n, j in pairs if abs(j - level) == min(abs(j - other) for other in LEVELS)]
        table[str(level)] = round(sum(n in removed or n - 1 in removed for n in these) / max(1, len(these)), 4)
    return table


def run_peers(
    args: argparse.Namespace, work: Path, units: list[Unit], extracted: Stage, pairs: list[tuple[int, float]]
) -> dict[str, Any]:
    """Each peer in its own environment, on the same documents as JSONL."""
    from beam_pipelines.stage_files import remaining

    folder = work / "jsonl"
    folder.mkdir()
    for unit in units:
        with open(folder / f"{unit.key}.jsonl", "w", encoding="utf-8") as file:
            for number, document, _ in remaining(unit, [extracted]):
                file.write(json.dumps({"id": f"{unit.name}:{number}", "text": document.text}, ensure_ascii=False) + "\n")
    found = {}
    for name in ("datatrove", "text_dedup"):
        log(f"peer {name}")
        script = Path(__file__).with_name("minhash_peers.py")
        settings = [str(args.ngram), str(args.bands), str(args.rows), str(args.workers)]
        done = subprocess.run(
            [args.peers, str(script), name, str(folder), str(work / name), *settings], capture_output=True, text=True
        )
        last = done.stdout.strip().splitlines()[-1:] or [""]
        found[name] = json.loads(last[0]) if last[0].startswith("{") else {"failed": (done.stderr or done.stdout)[-500:]}
        if "removed" in found[name]:
            found[name]["found_pairs"] = _removed_share(work / name / "removed.json", pairs)
        log(f"peer {name}: {found[name]}")
    return found


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="document set whose Japanese sentences are used")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000])
    parser.add_argument("--work", type=Path, default=Path("build/minhash"))
    parser.add_argument("--ngram", type=int, default=5)
    parser.add_argument("--bands", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--peers", help="Python of an environment with datatrove and text-dedup")
    parser.add_argument("--keep", action="store_true", help="leave the documents on the disk")
    parser.add_argument("--note", help="a sentence about the circumstances, without a full stop, for the foot of the table")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work.absolute()
    config = Corpus(minhash=MinHash(args.ngram, args.bands, args.rows), dedup=Dedup(), samples=0)
    if args.measure:
        write_json(
            args.work / str(args.measure) / "measured.json",
            measure(args.work / str(args.measure), args.measure, config, args.workers),
        )
        return
    value = with_note(read_json(args.out) if args.out.exists() else {"sizes": {}}, args.note)
    if not args.sizes:
        write_json(args.out, value)
        return
    pool = source_sentences(args.documents)
    log(f"{len(pool)} sentences")
    for size in args.sizes:
        value["sizes"][str(size)] = run_size(args, size, pool)
        value |= {
            "what": "MinHash deduplication of generated documents (stages minhash and dedup)",
            "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
            "software": manifest.software("numpy", "xxhash", "apache-beam"),
            "config": {**dataclasses.asdict(config.minhash), "workers": args.workers, "sentences": len(pool)},
            "goals": {"peak_gib_at_1m": 6, "growth_a_decade": 1.3, "times_faster_than_peers_at_100k": 1.5},
        }
        value["growth_a_decade"] = growth(value["sizes"])
        write_json(args.out, value)
        log(f"{size}: {value['sizes'][str(size)]}")
    log(str(args.out))


def with_note(value: dict[str, Any], note: str | None) -> dict[str, Any]:
    """The result with this run's note in place of an earlier run's; without one if it has none."""
    rest = {key: held for key, held in value.items() if key != "note"}
    return {**rest, "note": note} if note else rest


def growth(sizes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Time a document at ten times as many documents over that at this many: of CPU, and on the wall."""
    found = {}
    for size in sorted(map(int, sizes)):
        if str(10 * size) in sizes:
            here, there = sizes[str(size)], sizes[str(10 * size)]
            ratios = {key: there[key] / here[key] for key in ("cpu_microseconds_a_document", "microseconds_a_document")}
            found[f"{size} to {10 * size}"] = {
                "cpu": round(ratios["cpu_microseconds_a_document"], 3),
                "wall": round(ratios["microseconds_a_document"], 3),
            }
    return found


if __name__ == "__main__":
    main()

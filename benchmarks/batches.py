"""Speed of batches from a token store: tokens a second on one core, the way to a far step, and memory over many batches.

    python -m benchmarks.batches [--tokens 40000000] [--length 4096] [--batch 64] [--repeats 7]

A store of random documents (lengths as of web pages: log-normal) is written, and batches are read from it in the calling thread, packing
included: documents in memory, and on disk as a store above 256 MB is. Goals of the project: 10M tokens a second on a core; a
first batch at step 1,000,000 within twice the time of step 0; memory flat over 10,000 batches.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.data import cache
from ja_llm.data.batches import BatchSource
from ja_llm.files import write_json

RESULT = Path(__file__).parent / "results" / "batches.json"


def make_store(folder: Path, tokens: int) -> Path:
    """A cache of two tasks, 90 to 10, with `tokens` random tokens in all."""
    rng = np.random.default_rng(0)
    entries = []
    rates = {"ja": 0.9, "en": 0.1}
    for task, rate in rates.items():
        sizes = (rng.lognormal(6.5, 1.0, int(tokens * rate / 1090)).astype(int) + 3).tolist()
        rows = ((f"{i:032x}", rng.integers(3, 32000, n).astype(np.int32), "") for i, n in enumerate(sizes))
        value = cache._write_documents(folder / task / "train", rows, {"task": task, "split": "train", "seed": 0}, ["0" * 64])
        part = {"path": f"{task}/train", "fingerprint": manifest.fingerprint(value), **value["totals"]}
        entries.append({"task": task, "rate": rate, "splits": {"train": part}})
    request = {"name": "bench", "rates": rates, "seed": 0, "splits": ["train"], "vocabulary": "0" * 64}
    cache._write_mixture(folder, request, entries, ["0" * 64])
    return folder


def measure(source: BatchSource, repeats: int, batches: int = 8) -> dict[str, Any]:
    """Tokens a second of wall and of processor time."""
    source.local(0, 0, 1)
    wall, processor = [], []
    for repeat in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        for step in range(batches):
            source.local(repeat * batches + step, 0, 1)
        wall.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    tokens = batches * source.batch_size * source.length
    return {
        "tokens_per_second": tokens / statistics.median(wall),
        "tokens_per_cpu_second": tokens / statistics.median(processor),
        "repeats_seconds": wall,
        "repeats_cpu_seconds": processor,
    }


def first_batch(folder: Path, step: int, arguments: dict[str, Any]) -> float:
    """Seconds from opening the source to its batch of `step`."""
    begun = time.perf_counter()
    BatchSource(folder, **arguments).local(step, 0, 1)
    return time.perf_counter() - begun


def memory(folder: str, length: int) -> None:
    """Print, as JSON, the MiB that this process holds after 0, 2000, ... 10,000 batches; in a new process, which has built no store."""
    held = []
    with mock.patch("ja_llm.data.batches.SMALL_BYTES", 0):
        source = BatchSource(folder, length=length, batch_size=4, seed=0)
    for step in range(10_001):
        source.local(step, 0, 1)
        if step % 2000 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    print(json.dumps(held))


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=40_000_000)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    arguments = {"length": args.length, "batch_size": args.batch, "seed": 0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_store(Path(temporary) / "cache", args.tokens)
        results: dict[str, Any] = {}
        for packing in ("concatenate", "best_fit"):
            source = BatchSource(folder, **arguments, packing=packing)
            results[f"{packing}, in memory"] = {**measure(source, args.repeats), "padding": source.statistics()["ja"]["padding"]}
            with mock.patch("ja_llm.data.batches.SMALL_BYTES", 0):
                source = BatchSource(folder, **arguments, packing=packing)
            results[f"{packing}, on disk"] = measure(source, args.repeats)
        source = BatchSource(folder, **arguments, repeat_filter=True)
        results["concatenate, in memory, repeat filter"] = measure(source, args.repeats)
        near, far = [], []
        for _ in range(args.repeats):
            near.append(first_batch(folder, 0, arguments))
            far.append(first_batch(folder, 1_000_000, arguments))
        program = f"from benchmarks.batches import memory; memory({str(folder)!r}, {args.length})"
        memory = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    value = {
        "arguments": vars(args),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("numpy", "grain", "tensorstore"),
        "batches": results,
        "first_batch_seconds": {"step 0": near, "step 1000000": far, "ratio": statistics.median(far) / statistics.median(near)},
        "memory_mib_every_2000_batches": memory,
    }
    write_json(RESULT, value)
    for name, result in results.items():
        print(
            f"{name:38} {result['tokens_per_second'] / 1e6:6.1f}M tokens/s, {result['tokens_per_cpu_second'] / 1e6:6.1f}M tokens/CPU-s"
        )
    print(f"first batch at step 1,000,000 / step 0: {value['first_batch_seconds']['ratio']:.2f}; memory {memory}")


if __name__ == "__main__":
    main()

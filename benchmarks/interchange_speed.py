"""Import and export of a 7B-shaped checkpoint of random bfloat16 numbers: time beside safetensors alone, and host memory.

    python -m benchmarks.interchange_speed [--layers 4] [--shard_mb 500] [--repeats 3] [--work DIR] [--shrink N] [--results FILE]

Widths, vocabulary and tensor names are Llama 2 7B's; its 32 layers would not fit beside the rest of a small disk, so a few of
them stand for all (every layer is alike; the share of the tables is larger than in the whole model). Each task's files are read once
before it, so that they are in the system's cache for all (warm); `read`, `copy`, `import` and `export` are measured a second time with
what they read put out of it (cold), as a checkpoint lies on a user's disk that was not made a moment ago: each file is synced, given up by
posix_fadvise, and mincore has to say that it is gone. `import` and `export` are `import_hf` and `export_hf` as the commands call them,
parameters in bfloat16, with everything: digests, checkpoint, reading back, comparing, and waiting until all of it is on the disk;
`import_texts` reads its two sentences too (once).
`import_tensors` and `export_tensors` are their inner part in memory, `read_params` into numpy arrays and the writing of all files from
such; `read` and `save` are `safetensors.numpy.load_file` and `save_file` of the same. `copy` reads those files and writes their bytes to
others, which go to the disk: the least that a command can do which writes a model, without hashing or looking at a byte. No task's time
has the start of its process in it. Each repeat is a process of its own; memory is sampled every five milliseconds: RssAnon (what the
process owns) and RssFile (mapped files, which the system may take back), both beyond what was there before and, where they are held, the
parameters.
"""

import argparse
import ctypes
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ja_llm.files import write_json
from ja_llm.interop.safetensors_files import TensorFolder, write_tensors
from ja_llm.manifest import software
from ja_llm.models.config import DecoderConfig
from ja_llm.models.families import tensors

RESULTS = Path(__file__).resolve().parent / "results" / "interchange_speed.json"
BF16 = np.dtype(ml_dtypes.bfloat16)


def config(layers: int, shrink: int = 1) -> DecoderConfig:
    """Llama 2 7B with fewer layers; `shrink` divides its widths."""
    return DecoderConfig(
        vocab_size=32000,
        embed_dim=4096 // shrink,
        num_layers=layers,
        num_heads=32 // shrink,
        num_kv_heads=32 // shrink,
        head_dim=128,
        mlp_dim=11008 // shrink,
        max_length=4096,
        param_dtype="bfloat16",
    )


def make(folder: Path, model: DecoderConfig, shard_bytes: int) -> list[Path]:
    """The checkpoint."""
    plan = [(tensor.name, BF16, tensor.shape) for tensor in tensors(model)]
    shapes = {name: shape for name, _, shape in plan}

    def values(name: str) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        yield rng.integers(0, 0x3F80, math.prod(shapes[name]), np.uint16).view(BF16)  # exponents below that of infinity

    return [folder / name for name in write_tensors(folder, plan, values, shard_bytes)]


class Memory(threading.Thread):
    """Peaks of this process's memory while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = {"RssAnon": 0, "RssFile": 0, "VmRSS": 0}
        self.first = self.now()
        self.stopping = False

    def now(self) -> dict[str, int]:
        """Bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.split(":")[0] in self.peak}

    def run(self) -> None:
        while not self.stopping:
            for name, value in self.now().items():
                self.peak[name] = max(self.peak[name], value)
            time.sleep(0.005)


def make_source(folder: Path, model: DecoderConfig, shard_bytes: int) -> list[Path]:
    """The checkpoint with its configuration and a tokenizer, which has fewer ids than the table has rows."""
    from ja_llm.interop import hf_config
    from ja_llm.quickstart.run import embedded_base
    from ja_llm.vocab.base import load_tokenizer

    files = make(folder, model, shard_bytes)
    tokenizer = load_tokenizer(embedded_base())
    tokenizer.export_hf(folder)
    write_json(folder / "config.json", hf_config.to_hf(model, "bfloat16", tokenizer.bos_id, tokenizer.eos_id))
    return files


def prepared(task: str, work: Path, model: DecoderConfig, shard_bytes: int) -> tuple[Callable[[], Any], bool]:
    """What to measure, and whether the parameters come into memory while it runs."""
    from safetensors.numpy import load_file, save_file

    from ja_llm.interop.hf import export_hf, import_hf
    from ja_llm.interop.parameters import check_names, read_params, write_published

    source, out = work / "source", work / task
    shutil.rmtree(out, ignore_errors=True)
    if task in ("import", "import_texts"):
        return lambda: import_hf(
            source, out, "bfloat16", try_texts=task == "import_texts", spare_rows=32000
        ), task == "import_texts"
    if task == "export":
        return lambda: export_hf(work / "import", out, max_shard_bytes=shard_bytes), False
    if task == "import_tensors":

        def read() -> Any:
            folder = TensorFolder(source)
            check_names(folder, model, source)
            return read_params(folder, model, source)

        return read, True
    if task == "copy":
        return lambda: copy(source, out), False
    if task == "read":
        return lambda: [load_file(path) for path in sorted(source.glob("*.safetensors"))], True
    out.mkdir()
    if task == "export_tensors":
        params = read_params(TensorFolder(source), model, source)
        return lambda: write_published(out, params, model, "bfloat16", shard_bytes), False
    ready = {path.name: load_file(path) for path in sorted(source.glob("*.safetensors"))}

    def save() -> None:
        for name, values in ready.items():
            save_file(values, out / name, metadata={"format": "pt"})

    return save, False


def copy(source: Path, out: Path) -> None:
    """The safetensors of a folder, byte by byte, to the disk."""
    out.mkdir()
    room = bytearray(1 << 22)
    for path in sorted(source.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file, (out / path.name).open("wb", buffering=0) as to:
            while size := file.readinto(room):
                to.write(memoryview(room)[:size])
            os.fsync(to.fileno())


def warm(*folders: Path) -> None:
    """Read the files, which the system may have put out of its cache."""
    room = bytearray(1 << 22)
    for path in _files(folders):
        with path.open("rb", buffering=0) as file:
            while file.readinto(room):
                pass


def _files(folders: tuple[Path, ...]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def chill(*folders: Path) -> float:
    """Put the files out of the system's cache.

    Returns:
      The share of their pages that is still in it.
    """
    for path in _files(folders):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # a page that is not on the disk can't be given up
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = [resident(path) for path in _files(folders)]
    return sum(there for there, _ in pages) / sum(all_ for _, all_ in pages)


def resident(path: Path) -> tuple[int, int]:
    """(pages of a file that are in the system's cache, all); by mincore(2), which brings none of them in."""
    mapped = np.memmap(path, np.uint8, "r")
    pages = (ctypes.c_ubyte * -(-len(mapped) // os.sysconf("SC_PAGESIZE")))()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), pages):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int((np.ctypeslib.as_array(pages) & 1).sum()), len(pages)


TASKS = ("read", "copy", "import_tensors", "import", "import_texts", "save", "export_tensors", "export")
COLD = ("read", "copy", "import", "export")
GOAL = 2.0  # times `read`


def one(task: str, work: Path, model: DecoderConfig, shard_bytes: int, cold: bool = False) -> dict[str, Any]:
    """One task, in this process: seconds, and memory beyond what was there before and the parameters."""
    run, holds = prepared(task, work, model, shard_bytes)
    destination = sum(2 * int(np.prod(tensor.shape)) for tensor in tensors(model)) if holds else 0
    sources = work / "import" if task == "export" else work / "source"
    warm(sources)
    if cold and (left := chill(sources)) > 0.01:
        raise SystemExit(
            f"{sources}: {left:.0%} of it stays in the system's cache, so nothing cold can be measured on this file system."
        )
    memory = Memory()
    memory.start()
    began, cpu = time.perf_counter(), time.process_time()
    kept = run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    memory.stopping = True
    memory.join()
    del kept
    beyond = {name: memory.peak[name] - memory.first[name] for name in memory.peak}
    beyond["RssAnon"] -= destination
    beyond["VmRSS"] -= destination
    return {"seconds": seconds, "cpu_seconds": cpu, "beyond_bytes": beyond, **({"left_in_cache": left} if cold else {})}


def summed(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of the repeats, beside `read`'s, and whether the commands meet the goal."""
    median = {task: statistics.median(value["seconds"] for value in values) for task, values in found.items()}
    over = {task: seconds / median["read"] for task, seconds in median.items() if task != "read"}
    return {
        "median_seconds": median,
        "over_read": over,
        "goal": {task: {"at_most": GOAL, "met": over[task] <= GOAL} for task in ("import", "export")},
    }


def main() -> None:
    """Run all in turns and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shard_mb", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/interchange_speed"))
    parser.add_argument("--shrink", type=int, default=1, help="divides the widths, to try the script; 1 measures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--task", help="internal: run one task and print its result")
    parser.add_argument("--cold", action="store_true", help="internal: with what it reads out of the system's cache")
    args = parser.parse_args()
    shard, model = args.shard_mb * 10**6, config(args.layers, args.shrink)
    if args.task:
        print(json.dumps(one(args.task, args.work, model, shard, args.cold)))
        return
    shutil.rmtree(args.work, ignore_errors=True)
    (args.work / "source").mkdir(parents=True)
    files = make_source(args.work / "source", model, shard)
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    cold: dict[str, list[dict[str, Any]]] = {task: [] for task in COLD}
    command = [
        sys.executable,
        "-m",
        "benchmarks.interchange_speed",
        "--layers",
        str(args.layers),
        "--shard_mb",
        str(args.shard_mb),
        "--shrink",
        str(args.shrink),
        "--work",
        str(args.work),
    ]
    for repeat in range(args.repeats):
        for task, values, more in [
            *((task, values, []) for task, values in found.items()),
            *((task, values, ["--cold"]) for task, values in cold.items()),
        ]:
            if task == "import_texts" and repeat:  # many times the others' time
                continue
            result = subprocess.run([*command, "--task", task, *more], stdout=subprocess.PIPE, text=True, check=True)
            values.append(json.loads(result.stdout.splitlines()[-1]))
            print(task, *more, values[-1], flush=True)
    same = all((args.work / "export" / path.name).read_bytes() == path.read_bytes() for path in files)
    sums = summed(found)
    sizes = [path.stat().st_size for path in files]
    largest = max(2 * int(np.prod(tensor.shape)) for tensor in tensors(model))
    worst = {task: max(v["beyond_bytes"]["VmRSS"] for v in values) for task, values in found.items()}
    value = {
        "settings": {"layers": args.layers, "shard_mb": args.shard_mb, "repeats": args.repeats, "shrink": args.shrink},
        "bytes": sum(sizes),
        "largest_shard_bytes": max(sizes),
        "largest_tensor_bytes": largest,
        "limit_bytes": 2 * max(sizes) + largest,
        "export_gives_the_sources_bytes": same,
        **sums,
        "export_tensors_over_save": sums["median_seconds"]["export_tensors"] / sums["median_seconds"]["save"],
        "memory_beyond_arrays_bytes": worst,
        "results": found,
        "cold": {**summed(cold), "results": cold},
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "load": os.getloadavg()},
        "software": software("numpy", "safetensors", "ml_dtypes"),
    }
    write_json(args.results, value)
    print(json.dumps({k: v for k, v in value.items() if k not in ("results", "cold")} | {"cold": summed(cold)}, indent=1))
    shutil.rmtree(args.work)


if __name__ == "__main__":
    main()

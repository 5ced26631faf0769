"""Attention on whatever device is there: implementations x shapes, with the share of tiles visited and the roofline beside it.

    make bench-attention                       # or: python -m benchmarks.attention [--repeats 20] [--only NAME] [--quick]
    make bench-attention EXTRAS=cuda           # in a fresh clone on a GPU; EXTRAS=tpu on a TPU

Rows are dense (one document) or packed (lognormal lengths, sigma 1.2, a given mean; seeded). Before anything is timed each
implementation's output and gradients, of 512 queries all over a row, are compared with the float32 reference. One of ours that is wrong by
more than `LIMITS`, or fails on a platform of its own, makes the command fail; what another one can't do stands in its line.
All implementations run in turns on inputs that rotate, so that neither a cache nor another load favours one. Reported: median
milliseconds of the forward pass and of forward with backward; TFLOP/s of the pairs that are visible (4 D FLOPs a pair forward,
10 D more backward, of each query head), the backward pass as the difference of the two; bytes beside arguments and results; the
roofline: those FLOPs at the speed of this device's own large matrix product, or the arrays' bytes at the speed of its own copy, whichever
takes longer, as a share of the measured time. On a GPU its clocks are sampled meanwhile, and what was aimed at (`goals`) is printed and stored with what came out.
"""

import argparse
import dataclasses
import functools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_clocks import sampled
from ja_llm.attention import attention, block_sizes
from ja_llm.attention.registry import IMPLEMENTATIONS, device_kind
from ja_llm.attention.registry import platform as jax_platform
from ja_llm.attention.spans import visited
from ja_llm.errors import UsageError
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software

RESULTS = Path(__file__).resolve().parent / "results" / "attention.json"
PEERS = ("jax.nn xla", "torch sdpa")  # with the packed documents' mask as an array
OWN = tuple(name for name, entry in IMPLEMENTATIONS.items() if entry.own)
# Largest relative L2 distance of (output, each gradient) to the float32 reference: what rounding leaves of bfloat16 products.
LIMITS = {"float32": (1e-5, 1e-5), "bfloat16": (4e-3, 6e-3)}
INPUTS = 3  # that rotate
_CHECKED = 512  # queries


@dataclasses.dataclass(frozen=True)
class Shape:
    """One case; `mean` is the mean document length, None: one document fills the row."""

    batch: int
    length: int
    heads: int
    kv_heads: int
    width: int
    mean: int | None
    dtype: str

    def __str__(self) -> str:
        documents = "dense" if self.mean is None else f"mean {self.mean}"
        return f"B{self.batch} S{self.length} H{self.heads}/{self.kv_heads} D{self.width} {self.dtype} {documents}"


def shapes(quick: bool) -> list[Shape]:
    """Cases that suit the device: B*S = 16k on an accelerator, less on a CPU."""
    if jax_platform() == "cpu":
        sizes = [(1, 1024, 4, 2, 64)] if quick else [(1, 1024, 4, 2, 64), (1, 4096, 2, 1, 64)]
        dtype = "float32"
    else:
        sizes = (
            [(2, 8192, 16, 16, 128)]
            if quick
            else [(4, 4096, 16, 4, 128), (2, 8192, 16, 16, 128), (2, 8192, 32, 8, 64), (1, 32768, 16, 4, 128)]
        )
        dtype = "bfloat16"
    return [Shape(*size, mean, dtype) for size in sizes for mean in (None, min(1000, size[1] // 4))]


def segment_ids(shape: Shape, seed: int = 0) -> np.ndarray:
    """int32 [B, L]: packed documents of lognormal length, the last one cut."""
    if shape.mean is None:
        return np.ones((shape.batch, shape.length), np.int32)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(shape.batch):
        lengths = np.maximum(1, rng.lognormal(np.log(shape.mean) - 1.2**2 / 2, 1.2, shape.length).astype(int))
        rows.append(np.searchsorted(np.cumsum(lengths), np.arange(shape.length), side="right") + 1)
    return np.stack(rows).astype(np.int32)


Step = Callable[..., Any]


def ours(name: str, ids: np.ndarray, dense: bool) -> tuple[Step, Step]:
    """(forward, forward and backward) of one implementation."""
    given = None if dense else ids  # concrete, which cuDNN's packed mode needs

    def forward(q: Any, k: Any, v: Any, dout: Any) -> Any:
        return attention(q, k, v, segment_ids=given, implementation=name)

    return jax.jit(forward), jax.jit(functools.partial(_both, forward))


def _both(forward: Step, q: Any, k: Any, v: Any, dout: Any) -> Any:
    out, vjp = jax.vjp(lambda *x: forward(*x, dout), q, k, v)
    return out, *vjp(dout.astype(out.dtype))


def jax_nn(ids: np.ndarray) -> tuple[Step, Step]:
    """jax.nn.dot_product_attention with the mask as an array."""
    mask = jnp.asarray((ids[:, None, :, None] == ids[:, None, None, :]) & np.tri(ids.shape[1], dtype=bool))

    def forward(q: Any, k: Any, v: Any, dout: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")

    return jax.jit(forward), jax.jit(functools.partial(_both, forward))


def torch_sdpa(ids: np.ndarray) -> tuple[Step, Step]:
    """torch's scaled_dot_product_attention on the CPU with the same mask and threads."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    mask = torch.from_numpy((ids[:, None, :, None] == ids[:, None, None, :]) & np.tri(ids.shape[1], dtype=bool))

    def heads_first(x: Any) -> Any:
        return torch.from_numpy(np.array(x)).transpose(1, 2)

    def run(q: Any, k: Any, v: Any, dout: Any, backward: bool) -> Any:
        q, k, v = (x.requires_grad_(backward) for x in (heads_first(q), heads_first(k), heads_first(v)))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        if not backward:
            return out.transpose(1, 2).numpy()
        out.backward(heads_first(dout))
        return [x.detach().transpose(1, 2).numpy() for x in (out, q.grad, k.grad, v.grad)]

    return functools.partial(run, backward=False), functools.partial(run, backward=True)


def inputs(shape: Shape, seed: int) -> list[jax.Array]:
    """q, k, v and the gradient of the output."""
    rng = np.random.default_rng(seed)
    counts = (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    return [jnp.asarray(rng.normal(size=(shape.batch, shape.length, n, shape.width)), shape.dtype) for n in counts]


def seconds(f: Step, arguments: list[jax.Array]) -> float:
    """Wall time of one call, waited for."""
    began = time.perf_counter()
    jax.block_until_ready(f(*arguments))
    return time.perf_counter() - began


@functools.cache
def ceiling(dtype: str) -> tuple[float, float]:
    """(FLOP/s of a large matrix product, bytes/s of a copy) as measured here."""
    n = 1024 if jax_platform() == "cpu" else 8192
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(n, n)), dtype) for _ in range(2))
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    large = jnp.zeros((2**24 if jax_platform() == "cpu" else 2**29,), dtype)
    times = {}
    for name, call in (
        ("product", functools.partial(seconds, product, [a, b])),
        ("copy", functools.partial(seconds, copy, [large])),
    ):
        call()
        times[name] = min(call() for _ in range(10))
    return 2 * n**3 / times["product"], 2 * large.nbytes / times["copy"]


def roofline(shape: Shape, pairs: float, backward: bool) -> tuple[float, float]:
    """(FLOPs of the visible pairs, least seconds) of one call."""
    flops = (14 if backward else 4) * shape.width * shape.heads * pairs
    bytes_each = jnp.dtype(shape.dtype).itemsize * shape.batch * shape.length * shape.width
    moved = bytes_each * ((2 * shape.heads + 2 * shape.kv_heads) + ((4 * shape.heads + 4 * shape.kv_heads) if backward else 0))
    product, copy = ceiling(shape.dtype)
    return flops, max(flops / product, moved / copy)


def candidates(shape: Shape, ids: np.ndarray, only: str | None) -> dict[str, Callable[[], tuple[Step, Step]]]:
    """Name -> what makes its two functions."""
    dense = shape.mean is None
    # The reference holds every score: above this it is left out.
    names = [n for n in IMPLEMENTATIONS if n != "reference" or shape.length <= 2048]
    found: dict[str, Any] = {name: functools.partial(ours, name, ids, dense) for name in names}
    if shape.length <= 8192:
        found["jax.nn xla"] = functools.partial(jax_nn, ids)
    if jax_platform() == "cpu":
        found["torch sdpa"] = functools.partial(torch_sdpa, ids)
    return {name: make for name, make in found.items() if only is None or only == name}


def errors_of(step: Step, shape: Shape, ids: np.ndarray) -> tuple[float, float]:
    """Relative L2 distances to the float32 reference: of the output, and the largest of the three gradients.

    Of the last row. Only some queries, spread over it, get a gradient: what the reference has to compute for these (its scores are
    [heads, queries, length]) is all that arrives at q, k and v.
    """
    arrays = inputs(shape, 99)
    picked = np.sort(np.random.default_rng(1).choice(shape.length, min(_CHECKED, shape.length), replace=False))
    here = np.zeros((shape.length, 1, 1), bool)
    here[picked] = True
    arrays[3] = jnp.where(here, arrays[3], 0)
    ours_all = [np.asarray(x[-1:], np.float32) for x in step(*arrays)]
    q, k, v, dout = (jnp.asarray(x[-1:], jnp.float32) for x in arrays)
    place, row = np.arange(shape.length)[None], ids[-1:]
    pairs, places = (row[:, picked], row), (place[:, picked], place)
    exact, vjp = jax.vjp(
        lambda *x: attention(*x, segment_ids=pairs, positions=places, implementation="reference"), q[:, picked], k, v
    )
    dq, dk, dv = vjp(dout[:, picked])
    dq = jnp.zeros_like(q).at[:, picked].set(dq)
    gradients = [_distance(a, b) for a, b in zip(ours_all[1:], (dq, dk, dv), strict=True)]
    return _distance(ours_all[0][:, picked], exact), max(gradients)


def _distance(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def visited_by(name: str, shape: Shape, ids: np.ndarray) -> dict[str, float] | None:
    """Tiles that an implementation computes, forward and backward, as shares of a causal row's; None where that is not known."""
    if name == "splash" or (name == "cudnn" and shape.mean is None):
        return {"forward": 1.0, "backward": 1.0}
    if name in ("reference", *PEERS):  # the whole square under a mask
        square = 2 * shape.length / (shape.length + 1)
        return {"forward": square, "backward": square}
    if name not in OWN:
        return None
    sizes = block_sizes.sizes(name, shape.width, dtype=shape.dtype)
    forward, dq, dkv = (visited(ids, tiles.queries, tiles.keys)["share"] for tiles in sizes)
    return {"forward": forward, "backward": (dq + dkv) / 2}


def compiled(step: Step, arguments: list[jax.Array]) -> tuple[Step, int | None]:
    """(the compiled program, bytes that it needs beside arguments and results); a function that is not JAX's as it is."""
    if not hasattr(step, "lower"):
        return step, None
    made = step.lower(*arguments).compile()
    memory = made.memory_analysis()
    return made, None if memory is None else int(memory.temp_size_in_bytes)


def prepared(line: dict[str, Any], make: Any, shape: Shape, ids: np.ndarray, given: list[jax.Array]) -> tuple[Step, Step] | None:
    """Compile and check one implementation; its errors and bytes, or why it can't, go into its line."""
    try:
        forward, both = make()
        (forward, _), (both, line["temp_bytes"]) = compiled(forward, given), compiled(both, given)
        line["error"], line["error_gradients"] = errors_of(both, shape, ids)
        jax.block_until_ready(forward(*given))
    except UsageError as error:
        line["cannot"] = str(error)
    except Exception as error:  # a kernel that fails is a line of the table, not the end of it
        line["cannot"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        line["failed"] = True
    else:
        return forward, both
    return None


def measure(shape: Shape, repeats: int, only: str | None) -> list[dict[str, Any]]:
    """A line for each implementation."""
    ids = segment_ids(shape)
    visible = visited(ids, shape.length, shape.length)["exact"]
    pairs = visible * shape.batch * shape.length * (shape.length + 1) / 2
    sets = [inputs(shape, seed) for seed in range(INPUTS)]
    steps: dict[str, tuple[Step, Step]] = {}
    lines: dict[str, dict[str, Any]] = {}
    for name, make in candidates(shape, ids, only).items():
        lines[name] = {"shape": str(shape), **dataclasses.asdict(shape), "implementation": name, "pairs_visible": visible}
        lines[name]["tiles_visited"] = visited_by(name, shape, ids)
        if (steps_of := prepared(lines[name], make, shape, ids, sets[0])) is not None:
            steps[name] = steps_of
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in steps}
    for repeat in range(repeats):
        for name, pair in steps.items():
            for kind in (0, 1):
                times[name][kind].append(seconds(pair[kind], sets[repeat % INPUTS]))
    for name, measured in times.items():
        for kind, label in enumerate(("forward", "both")):
            median = statistics.median(measured[kind])
            flops, least = roofline(shape, pairs, bool(kind))
            lines[name][label] = {
                "median_ms": median * 1e3,
                "tflops_visible": flops / median / 1e12,
                "share_of_roofline": least / median,
                "seconds": measured[kind],
            }
        backward = lines[name]["both"]["median_ms"] - lines[name]["forward"]["median_ms"]
        lines[name]["backward_tflops"] = 10 * shape.width * shape.heads * pairs / max(backward, 1e-9) / 1e9
    return list(lines.values())


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the GPU kernel was to reach on a Hopper GPU (D 128, bfloat16, 16k tokens), and what it does; without a cuDNN line, no ratio."""

    def found(name: str, length: int, dense: bool) -> dict[str, Any] | None:
        fitting = (
            r for r in rows if r["implementation"] == name and "both" in r and r["width"] == 128 and r["dtype"] == "bfloat16"
        )
        return next((r for r in fitting if r["length"] == length and (r["mean"] is None) == dense), None)

    def verdict(goal: str, least: float, value: float | None) -> dict[str, Any]:
        return {"goal": goal, "least": least, "value": value, "met": value is not None and value >= least}

    def faster(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> float | None:
        return None if ours is None or theirs is None else theirs["both"]["median_ms"] / ours["both"]["median_ms"]

    dense, packed, long = found("triton", 8192, True), found("triton", 8192, False), found("triton", 32768, False)
    return [
        verdict("dense forward, TFLOP/s", 340, None if dense is None else dense["forward"]["tflops_visible"]),
        verdict("dense backward, TFLOP/s", 310, None if dense is None else dense["backward_tflops"]),
        verdict("packed 8k, times dense-causal cuDNN", 2.2, faster(packed, found("cudnn", 8192, True))),
        verdict("packed 8k, times cuDNN's packed mode", 0.9, faster(packed, found("cudnn", 8192, False))),
        verdict("packed 32k, times dense-causal cuDNN", 5, faster(long, found("cudnn", 32768, True))),
    ]


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with implementations of ours: numbers, or that one fails on a platform of its own."""
    sentences = []
    for row in (r for r in rows if r["implementation"] in OWN):
        name, entry = row["implementation"], IMPLEMENTATIONS[row["implementation"]]
        if "cannot" in row:
            if row.get("failed") or not entry.platforms or jax_platform() in entry.platforms:
                sentences.append(f"{row['shape']}: {name} does not run: {row['cannot']}")
            continue
        for part, error, limit in zip(
            ("output", "gradients"), (row["error"], row["error_gradients"]), LIMITS[row["dtype"]], strict=True
        ):
            if not error <= limit:
                sentences.append(f"{row['shape']}: {name}'s {part} is off by {error:.1e}, more than {limit:.0e}")
    return sentences


def line_of(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    tiles = row["tiles_visited"]
    shares = "visited      ?" if tiles is None else f"visited {tiles['forward']:4.0%}/{tiles['backward']:4.0%}"
    head = f"{row['shape']:46} {row['implementation']:11} {shares} visible {row['pairs_visible']:6.1%}"
    if "cannot" in row:
        return f"{head}  {row['cannot']}"
    parts = [
        f"{label} {row[label]['median_ms']:9.2f} ms {row[label]['tflops_visible']:8.3f} TFLOP/s {row[label]['share_of_roofline']:5.1%} of roofline"
        for label in ("forward", "both")
    ]
    memory = "" if row["temp_bytes"] is None else f"  {row['temp_bytes'] / 2**20:.0f} MiB"
    errors = f"error {row['error']:.1e} gradients {row['error_gradients']:.1e}"
    return f"{head}  {'  '.join(parts)}  backward {row['backward_tflops']:.3f} TFLOP/s{memory}  {errors}"


def machine() -> dict[str, Any]:
    """The device, what nvidia-smi tells of it (its clocks while it computes: `gpu_clocks`), and the host."""
    found = {"device": device_kind(), "platform": jax_platform(), "host": platform.platform(), "cpus": os.cpu_count()}
    if jax_platform() == "gpu":
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit",
            "--format=csv,noheader",
        ]
        try:
            found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except OSError:
            found["nvidia_smi"] = "not there"
    return found


def check_device() -> None:
    """Refuse to measure the CPU of a machine whose accelerator JAX does not see.

    Raises:
      UsageError: there is one, JAX's platform is the CPU, and nobody asked for that.
    """
    if jax_platform() != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return
    for extra, devices in {"cuda": ("/dev/nvidia0",), "tpu": ("/dev/accel0", "/dev/vfio/0")}.items():
        if device := next((d for d in devices if Path(d).exists()), None):
            raise UsageError(
                f"this machine has {device}, but its JAX computes on the CPU only; run make again with EXTRAS={extra} "
                "(or set JAX_PLATFORMS=cpu to measure the CPU)."
            )


def main() -> int:
    """Measure every shape, print the table, write the device's entry of the results file; 1 if an implementation of ours is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", help="one implementation; prints, writes nothing")
    parser.add_argument("--quick", action="store_true", help="one size; prints, writes nothing")
    args = parser.parse_args()
    try:
        check_device()
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows = []
    with sampled(jax_platform() == "gpu") as clocks:
        for shape in shapes(args.quick):
            for row in measure(shape, args.repeats, args.only):
                rows.append(row)
                print(line_of(row), flush=True)
    reached = goals(rows) if jax_platform() == "gpu" and not args.only and not args.quick else []
    for goal in reached:
        value = "not measured" if goal["value"] is None else f"{goal['value']:.2f}"
        print(f"goal {goal['goal']} >= {goal['least']}: {value}, {'met' if goal['met'] else 'NOT met'}")
    if not args.only and not args.quick:
        product, copy = ceiling(rows[0]["dtype"])
        entry = {
            "machine": machine() | ({"clocks": clocks} if clocks else {}),
            "software": software("jax", "jaxlib", "libtpu", "torch", "tokamax", "numpy"),
            "ceiling": {"product_flops": product, "copy_bytes": copy},
            "repeats": args.repeats,
            "results": rows,
            "goals": reached,
        }
        write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | {device_kind(): entry})
    wrong = faults(rows)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

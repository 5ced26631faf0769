"""Attention on whatever device is there: implementations x shapes, with the share of tiles visited and the roofline beside it.

    make bench-attention                       # or: python -m benchmarks.attention [--repeats 20] [--only NAME] [--quick]

Rows are dense (one document) or packed (lognormal lengths, sigma 1.2, a given mean; seeded). Before anything is timed each
implementation's output and gradients are compared with the float32 reference; one that is wrong, or can't run here, says so in its line.
All implementations run in turns on inputs that rotate, so that neither a cache nor another load favours one. Reported: median
milliseconds of the forward pass and of forward with backward; TFLOP/s of the pairs that are visible (4 D FLOPs a pair forward,
10 D more backward, of each query head); the roofline: those FLOPs at the speed of this device's own large matrix product, or the arrays'
bytes at the speed of its own copy, whichever takes longer, as a share of the measured time.
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

from ja_llm.attention import attention, block_sizes
from ja_llm.attention.registry import IMPLEMENTATIONS, device_kind
from ja_llm.attention.registry import platform as jax_platform
from ja_llm.attention.spans import visited
from ja_llm.errors import UsageError
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software

RESULTS = Path(__file__).resolve().parent / "results" / "attention.json"
PEERS = ("jax.nn xla", "torch sdpa")  # with the packed documents' mask as an array
_INPUTS = 3  # that rotate


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
        rows.append(np.repeat(np.arange(1, len(lengths) + 1), lengths)[: shape.length])
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


def error_of(step: Step, shape: Shape, ids: np.ndarray) -> float:
    """Largest relative L2 distance of output and gradients to the float32 reference, on one row cut to 2048 tokens' worth of documents."""
    arrays = inputs(shape, 99)
    ours_all = step(*arrays)
    cut = min(shape.length, 2048)
    # What comes later has no influence on the first tokens' outputs; gradients of k and v need whole documents, so those stay out.
    wide = [jnp.asarray(x[:1, :cut], jnp.float32) for x in arrays]
    exact = attention(*wide[:3], segment_ids=ids[:1, :cut], implementation="reference")
    errors = [_distance(np.asarray(ours_all[0], np.float32)[:1, :cut], exact)]
    if cut == shape.length:
        _, vjp = jax.vjp(lambda *x: attention(*x, segment_ids=ids[:1], implementation="reference"), *wide[:3])
        errors += [_distance(np.asarray(a, np.float32)[:1], b) for a, b in zip(ours_all[1:], vjp(wide[3]), strict=True)]
    return max(errors)


def _distance(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def measure(shape: Shape, repeats: int, only: str | None) -> list[dict[str, Any]]:
    """A line for each implementation."""
    ids = segment_ids(shape)
    tile = block_sizes.sizes(
        "xla" if jax_platform() == "cpu" else {"gpu": "triton", "tpu": "tpu"}[jax_platform()], shape.width
    ).forward
    share = visited(ids, tile.queries, tile.keys)
    pairs = share["exact"] * shape.batch * shape.length * (shape.length + 1) / 2
    sets = [inputs(shape, seed) for seed in range(_INPUTS)]
    steps: dict[str, tuple[Step, Step]] = {}
    lines: dict[str, dict[str, Any]] = {}
    for name, make in candidates(shape, ids, only).items():
        lines[name] = {
            "shape": str(shape),
            **dataclasses.asdict(shape),
            "implementation": name,
            "tiles_visited": share["share"],
            "pairs_visible": share["exact"],
        }
        try:
            made = make()
            lines[name]["error"] = error_of(made[1], shape, ids)
            jax.block_until_ready(made[0](*sets[0]))
            steps[name] = made
        except UsageError as error:
            lines[name]["cannot"] = str(error)
        except Exception as error:  # a foreign kernel that fails is a line of the table, not the end of it
            lines[name]["cannot"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in steps}
    for repeat in range(repeats):
        for name, pair in steps.items():
            for kind in (0, 1):
                times[name][kind].append(seconds(pair[kind], sets[repeat % _INPUTS]))
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
    return list(lines.values())


def line_of(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    head = f"{row['shape']:46} {row['implementation']:11} visited {row['tiles_visited']:6.1%} visible {row['pairs_visible']:6.1%}"
    if "cannot" in row:
        return f"{head}  {row['cannot']}"
    parts = [
        f"{label} {row[label]['median_ms']:9.2f} ms {row[label]['tflops_visible']:8.3f} TFLOP/s {row[label]['share_of_roofline']:5.1%} of roofline"
        for label in ("forward", "both")
    ]
    return f"{head}  {'  '.join(parts)}  error {row['error']:.1e}"


def machine() -> dict[str, Any]:
    """The device, its clocks where nvidia-smi tells them, and the host."""
    found = {"device": device_kind(), "platform": jax_platform(), "host": platform.platform(), "cpus": os.cpu_count()}
    if jax_platform() == "gpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        try:
            found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except OSError:
            found["nvidia_smi"] = "not there"
    return found


def main() -> int:
    """Measure every shape, print the table, write the device's entry of the results file; 1 if an implementation of ours is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", help="one implementation; prints, writes nothing")
    parser.add_argument("--quick", action="store_true", help="one size; prints, writes nothing")
    args = parser.parse_args()
    rows = []
    for shape in shapes(args.quick):
        for row in measure(shape, args.repeats, args.only):
            rows.append(row)
            print(line_of(row), flush=True)
    if not args.only and not args.quick:
        product, copy = ceiling(rows[0]["dtype"])
        entry = {
            "machine": machine(),
            "software": software("jax", "jaxlib", "libtpu", "torch", "tokamax", "numpy"),
            "ceiling": {"product_flops": product, "copy_bytes": copy},
            "repeats": args.repeats,
            "results": rows,
        }
        write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | {device_kind(): entry})
    wrong = [row for row in rows if row.get("error", 0.0) > 2e-2 and row["implementation"] in ("xla", "tpu", "triton")]
    for row in wrong:
        print(f"{row['shape']}: {row['implementation']} is wrong by {row['error']:.1e}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

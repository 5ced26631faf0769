"""Measure tile lengths of a tiled implementation on this device and write the best into `ja_llm/attention/block_sizes.json`.

    python -m benchmarks.attention_sweep [--implementation triton|tpu|xla] [--widths 64 128] [--repeats 20] [--dry_run]

On a new device `make sweep-attention` (with EXTRAS=cuda or tpu in a fresh clone) does this and what belongs before and after it. The three
kernels (forward, gradient of q, gradients of k and v) are timed apart, each over its own candidates, on packed rows (mean 1,000 tokens) and
on dense ones; the sum decides. A candidate that does not compile, does not fit, or gives other numbers than the plain loop of `blocks` in
float32 is left out and counted.
"""

import argparse
import importlib
import itertools
import statistics
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import INPUTS, LIMITS, Shape, check_device, inputs, machine, seconds, segment_ids
from benchmarks.gpu_clocks import sampled
from ja_llm.attention import block_sizes, blocks, flash
from ja_llm.attention.registry import DEFAULTS, device_kind
from ja_llm.attention.registry import platform as jax_platform
from ja_llm.attention.spans import packed_spans
from ja_llm.errors import UsageError
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software

KERNELS = ("forward", "dq", "dkv")


def candidates(implementation: str, kernel: str) -> list[flash.Tiles]:
    """Tile lengths to try."""
    if implementation == "tpu":
        lengths = itertools.product((256, 512, 1024), (256, 512, 1024), (1024, 2048, 4096, 8192))
        return [flash.Tiles(q, k, s) for q, k, s in lengths if s >= (q if kernel == "dkv" else k)]
    if implementation == "triton":
        sizes = itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
        return [flash.Tiles(q, k, 0, warps, stages) for q, k, warps, stages in sizes]
    return [flash.Tiles(q, k) for q, k in itertools.product((128, 256, 512), (128, 256, 512))]


def kernel_step(kernel: str, plan: flash.Plan, ids: np.ndarray) -> Any:
    """A function of (q, k, v, dout, lse, delta) that runs one kernel; lengths are multiples of every candidate."""
    batch, length = ids.shape

    def step(q: Any, k: Any, v: Any, dout: Any, lse: Any, delta: Any) -> Any:
        spans = packed_spans(jnp.asarray(ids), batch, length, causal=True)
        if kernel == "forward":
            return plan.backend.forward(plan, q, k, v, spans)
        return getattr(plan.backend, kernel)(plan, flash.Residuals(q, k, v, spans, dout, lse, delta))

    return jax.jit(step)


def arguments_of(case: Shape, seed: int = 1) -> list[Any]:
    """q, k, v, dout, and for each query the lse (log-2 units) and delta of a softmax, which the backward kernels read."""
    q, k, v, dout = inputs(case, seed)
    # A random query's scores over n keys have a log-sum-exp of about ln n + 1/2; what it is exactly does not matter for time.
    rows = jnp.full((case.batch, case.heads, case.length), (np.log(case.length) + 0.5) * flash.LOG2E, jnp.float32)
    return [q, k, v, dout, rows, jnp.zeros_like(rows)]


def exact(kernel: str, case: Shape) -> list[np.ndarray]:
    """What a kernel has to give, by the loop in plain JAX, in float32, with its own tiles."""
    tiles = block_sizes.sizes("xla", case.width)
    plan = flash.Plan(blocks, case.width**-0.5, None, tiles)
    given = [x.astype(jnp.float32) for x in arguments_of(case)]
    return [np.asarray(x, np.float32) for x in jax.tree.leaves(kernel_step(kernel, plan, segment_ids(case))(*given))]


def time_of(kernel: str, plan: flash.Plan, case: Shape, expected: list[np.ndarray], repeats: int) -> float:
    """Median seconds of one kernel on one case, over inputs that rotate.

    Raises:
      ValueError: one of its results is not `expected`.
    """
    step, given = kernel_step(kernel, plan, segment_ids(case)), [arguments_of(case, seed) for seed in range(1, 1 + INPUTS)]
    for number, (ours, theirs) in enumerate(zip(jax.tree.leaves(step(*given[0])), expected, strict=True)):
        distance = np.linalg.norm(np.asarray(ours, np.float32) - theirs) / np.linalg.norm(theirs)
        if not distance <= LIMITS[case.dtype][1]:
            raise ValueError(f"result {number} is off by {distance:.1e}")
    return statistics.median(seconds(step, given[repeat % INPUTS]) for repeat in range(repeats))


def sweep(implementation: str, width: int, repeats: int) -> dict[str, Any]:
    """The best tiles of each kernel, and every figure."""
    backend = importlib.import_module(f"ja_llm.attention.{'blocks' if implementation == 'xla' else implementation}")
    cpu = jax_platform() == "cpu"
    length, heads, kv_heads, dtype = (2048, 4, 2, "float32") if cpu else (8192, 16, 4, "bfloat16")
    cases = [Shape(1 if cpu else 2, length, heads, kv_heads, width, mean, dtype) for mean in (1000 if not cpu else 250, None)]
    best, figures = {}, {}
    for kernel in KERNELS:
        times: dict[flash.Tiles, float] = {}
        dropped, expected = 0, [exact(kernel, case) for case in cases]
        for tiles in candidates(implementation, kernel):
            plan = flash.Plan(backend, width**-0.5, None, flash.BlockSizes(tiles, tiles, tiles))
            try:
                total = sum(time_of(kernel, plan, case, right, repeats) for case, right in zip(cases, expected, strict=True))
            except Exception as error:  # does not compile, does not fit, or is wrong
                dropped += 1
                why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
                print(f"{kernel} {tuple(tiles)}: left out ({why})", file=sys.stderr)
                continue
            times[tiles] = total
            print(f"{implementation} D{width} {kernel:8} {tuple(tiles)}: {total * 1e3:.2f} ms", flush=True)
        if not times:
            raise SystemExit(f"{implementation}: no candidate of {kernel} runs on {device_kind()}")
        best[kernel] = min(times, key=times.__getitem__)
        figures[kernel] = {"milliseconds": times[best[kernel]] * 1e3, "candidates": len(times), "left_out": dropped}
    return {"sizes": block_sizes.to_json(flash.BlockSizes(**best)), "figures": figures}


def main() -> int:
    """Sweep, print, extend the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--implementation", choices=("triton", "tpu", "xla"), default=DEFAULTS.get(jax_platform(), "xla"))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dry_run", action="store_true", help="measure and print, change nothing")
    args = parser.parse_args()
    try:
        check_device()
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    table = read_json(block_sizes.TABLE)
    entry = table.setdefault(args.implementation, {}).setdefault(device_kind(), {})
    for width in args.widths:
        with sampled(jax_platform() == "gpu") as clocks:
            entry[str(width)] = sweep(args.implementation, width, args.repeats)
        entry[str(width)] |= {
            "software": software("jax", "jaxlib"),
            "machine": machine() | ({"clocks": clocks} if clocks else {}),
        }
        print(f"{args.implementation} on {device_kind()}, head dimension {width}: {entry[str(width)]['sizes']}")
    if not args.dry_run:
        write_json(block_sizes.TABLE, table)
        print(f"written: {block_sizes.TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

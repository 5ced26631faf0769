"""Measure tile lengths of a tiled implementation on this device and write the best into `ja_llm/attention/block_sizes.json`.

    python -m benchmarks.attention_sweep [--implementation triton|tpu|xla] [--widths 64 128] [--repeats 20] [--dry_run]

On a new device this and `make bench-attention` after it are all there is to do. The three kernels (forward, gradient of q, gradients
of k and v) are timed apart, each over its own candidates, on packed rows (mean 1,000 tokens) and on dense ones; the sum decides.
A candidate that does not compile, does not fit or gives other numbers is left out and counted.
"""

import argparse
import itertools
import statistics
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import Shape, inputs, machine, seconds, segment_ids
from ja_llm.attention import block_sizes, flash
from ja_llm.attention.registry import DEFAULTS, device_kind
from ja_llm.attention.registry import platform as jax_platform
from ja_llm.attention.spans import packed_spans
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

    def step(q: Any, k: Any, v: Any, dout: Any, lse: Any, delta: Any) -> Any:
        spans = packed_spans(jnp.asarray(ids), *ids.shape, True)
        if kernel == "forward":
            return plan.backend.forward(plan, q, k, v, spans)
        return getattr(plan.backend, kernel)(plan, flash.Residuals(q, k, v, spans, dout, lse, delta))

    return jax.jit(step)


def sweep(implementation: str, width: int, repeats: int) -> dict[str, Any]:
    """The best tiles of each kernel, and every figure."""
    import importlib

    backend = importlib.import_module(f"ja_llm.attention.{'blocks' if implementation == 'xla' else implementation}")
    cpu = jax_platform() == "cpu"
    length, heads, kv_heads, dtype = (2048, 4, 2, "float32") if cpu else (8192, 16, 4, "bfloat16")
    cases = [Shape(1 if cpu else 2, length, heads, kv_heads, width, mean, dtype) for mean in (1000 if not cpu else 250, None)]
    best, figures = {}, {}
    for kernel in KERNELS:
        times: dict[flash.Tiles, float] = {}
        dropped, expected = 0, [None] * len(cases)
        for tiles in candidates(implementation, kernel):
            plan = flash.Plan(backend, width**-0.5, None, flash.BlockSizes(tiles, tiles, tiles))
            try:
                total = 0.0
                for i, case in enumerate(cases):
                    q, k, v, dout = inputs(case, 1)
                    rows = jnp.full((case.batch, heads, length), 5.0, jnp.float32)
                    step, arguments = kernel_step(kernel, plan, segment_ids(case)), [q, k, v, dout, rows, rows * 0]
                    first = np.asarray(jax.tree.leaves(step(*arguments))[0], np.float32)
                    if expected[i] is None:
                        expected[i] = first  # type: ignore[call-overload]
                    elif np.linalg.norm(first - expected[i]) > 2e-2 * np.linalg.norm(expected[i]):  # type: ignore[arg-type]
                        raise ValueError("other numbers than the first candidate's")
                    total += statistics.median(seconds(step, arguments) for _ in range(repeats))
                times[tiles] = total
            except Exception as error:  # does not compile, or does not fit
                dropped += 1
                print(
                    f"{kernel} {tuple(tiles)}: left out ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})",
                    file=sys.stderr,
                )
                continue
            print(f"{implementation} D{width} {kernel:8} {tuple(tiles)}: {total * 1e3:.2f} ms", flush=True)
        if not times:
            raise SystemExit(f"{implementation}: no candidate of {kernel} runs on {device_kind()}")
        best[kernel] = min(times, key=times.__getitem__)
        figures[kernel] = {"milliseconds": times[best[kernel]] * 1e3, "candidates": len(times), "left_out": dropped}
    return {"sizes": block_sizes.to_json(flash.BlockSizes(**best)), "figures": figures}


def main() -> None:
    """Sweep, print, extend the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--implementation", choices=("triton", "tpu", "xla"), default=DEFAULTS.get(jax_platform(), "xla"))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dry_run", action="store_true", help="measure and print, change nothing")
    args = parser.parse_args()
    table = read_json(block_sizes.TABLE)
    entry = table.setdefault(args.implementation, {}).setdefault(device_kind(), {})
    for width in args.widths:
        entry[str(width)] = sweep(args.implementation, width, args.repeats)
        entry[str(width)] |= {"software": software("jax", "jaxlib"), "machine": machine()}
        print(f"{args.implementation} on {device_kind()}, head dimension {width}: {entry[str(width)]['sizes']}")
    if not args.dry_run:
        write_json(block_sizes.TABLE, table)


if __name__ == "__main__":
    main()

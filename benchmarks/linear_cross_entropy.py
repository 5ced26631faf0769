"""The loss without logits beside the loss of logits that are held: memory, error, speed.

    python -m benchmarks.linear_cross_entropy [--repeats 9]

Memory is what XLA's buffer assignment says for 32k tokens x 4096 x 131k ids in bfloat16, compiled for this device but not run (the TPU
figures are in results/attention_aot.json). Error is that of the mean loss against numpy in float64 on the same rounded inputs.
Speed is of a smaller shape on a CPU, of the full one on an accelerator; the two run in turns.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.files import write_json
from ja_llm.losses.cross_entropy import cross_entropy
from ja_llm.losses.linear_cross_entropy import linear_cross_entropy
from ja_llm.manifest import software
from ja_llm.models.matmul import product

RESULTS = Path(__file__).resolve().parent / "results" / "linear_cross_entropy.json"
FULL = (32768, 4096, 131072)


def without_logits(x: Any, w: Any, targets: Any, weights: Any) -> Any:
    """Ours."""
    return linear_cross_entropy(x, w, targets, weights, z_loss=1e-4).loss_sum


def with_logits(x: Any, w: Any, targets: Any, weights: Any) -> Any:
    """The step as it was: all logits in float32."""
    return cross_entropy(product(x, w, 1, "float32"), targets, weights, 1e-4)[0]


LOSSES = {"linear": without_logits, "logits": with_logits}


def arrays(tokens: int, embed: int, vocab: int, dtype: str) -> list[Any]:
    """x, w, targets, weights."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), dtype) for s in ((1, tokens, embed), (embed, vocab)))
    return [
        x,
        w * jnp.asarray(embed**-0.5, dtype),
        jnp.asarray(rng.integers(0, vocab, (1, tokens))),
        jnp.ones((1, tokens), jnp.float32),
    ]


def memory() -> dict[str, Any]:
    """Bytes beside arguments and results at the full size.

    Raises:
      SystemExit: the platform's compiler does not tell them.
    """
    n, e, v = FULL
    shapes = [((1, n, e), "bfloat16"), ((e, v), "bfloat16"), ((1, n), "int32"), ((1, n), "float32")]
    given = [jax.ShapeDtypeStruct(*s) for s in shapes]
    found = {}
    for name, loss in LOSSES.items():
        analysis = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*given).compile().memory_analysis()
        if analysis is None:
            raise SystemExit(f"{jax.default_backend()}: its compiler does not say what memory a program needs.")
        found[name] = {"temp_bytes": analysis.temp_size_in_bytes, "output_bytes": analysis.output_size_in_bytes}
    return found


def error() -> dict[str, float]:
    """Difference of the mean loss to float64, bfloat16 inputs, 512 tokens x 64 x 32768."""
    x, w, targets, weights = arrays(512, 64, 32768, "bfloat16")
    logits = np.asarray(x[0], np.float64) @ np.asarray(w, np.float64)
    largest = logits.max(1)
    lse = np.log(np.exp(logits - largest[:, None]).sum(1)) + largest
    exact = (lse - logits[np.arange(512), np.asarray(targets[0])] + 1e-4 * lse**2).mean()
    return {name: float(loss(x, w, targets, weights)) / 512 - float(exact) for name, loss in LOSSES.items()}


def speed(repeats: int) -> dict[str, Any]:
    """Seconds of value and gradients, in turns."""
    small = jax.default_backend() == "cpu"
    shape, dtype = ((4096, 192, 16384), "float32") if small else (FULL, "bfloat16")
    given = arrays(*shape, dtype)
    steps = {name: jax.jit(jax.value_and_grad(loss, (0, 1))) for name, loss in LOSSES.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        jax.block_until_ready(step(*given))
    for _ in range(repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*given))
            times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(t) for name, t in times.items()}
    return {
        "shape": shape,
        "dtype": dtype,
        "seconds": times,
        "median": median,
        "speed_of_linear": median["logits"] / median["linear"],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    found: dict[str, Any] = {
        "shape_of_memory": FULL,
        "memory": memory(),
        "error_of_mean_loss": error(),
        "speed": speed(args.repeats),
    }
    for name, part in found["memory"].items():
        print(
            f"{name}: {part['temp_bytes'] / 1e9:.2f} GB beside arguments and results; mean loss off by {found['error_of_mean_loss'][name]:.1e}"
        )
    print(f"speed of linear / logits: {found['speed']['speed_of_linear']:.2f}")
    where = {"platform": platform.platform(), "cpus": os.cpu_count(), "device": jax.devices()[0].device_kind}
    write_json(RESULTS, {"machine": where, "software": software("jax", "jaxlib", "numpy"), **found})


if __name__ == "__main__":
    main()

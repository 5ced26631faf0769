"""What asynchronous checkpoints cost a run, and what restoring takes: time and peak memory.

    python -m benchmarks.checkpoint_overhead [--layers 8] [--width 768] [--steps 100] [--period 50] [--repeats 3]

Steps are timed with a checkpoint every `--period` steps and without any, in turns; the goal of the project is at most 5 % more time.
"""

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.debian_docs import cpu_name
from benchmarks.step_speed import packed_batch
from ja_llm import manifest, sharding
from ja_llm.files import write_json
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.checkpoints import Checkpoints
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.optimizers import AdamW
from ja_llm.train.state import plan_state
from ja_llm.train.step import PLAIN, TrainState, init_optimizer, make_train_step

RESULT = Path(__file__).parent / "results" / "checkpoint_overhead.json"


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--period", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    width = args.width
    config = DecoderConfig(
        vocab_size=32000, embed_dim=width, num_layers=args.layers, num_heads=width // 64, num_kv_heads=width // 64, head_dim=64,
        mlp_dim=3 * width, max_length=args.length,
    )  # fmt: skip
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    plan, transformation = plan_state(config, AdamW(), PLAIN, mesh, sharding.DEFAULT_RULES)
    step = jax.jit(make_train_step(Decoder(config), transformation, WarmupConstant(1e-4, 10)), donate_argnums=0)
    params = init_params(config, jax.random.key(0))
    state = TrainState(jnp.zeros((), jnp.int32), params, init_optimizer(transformation, params))
    batch = packed_batch(config.vocab_size, args.batch, args.length)
    state, _ = step(state, batch)
    timed: dict[str, list[float]] = {"without": [], "with": []}
    blocked: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        for repeat in range(args.repeats):
            for kind in timed:
                checkpoints = Checkpoints(Path(temporary) / f"{kind}{repeat}", keep=1) if kind == "with" else None
                begun = time.perf_counter()
                for number in range(args.steps):
                    state, metrics = step(state, batch)
                    float(metrics["loss"])
                    if checkpoints is not None and (number + 1) % args.period == 0:
                        before = time.perf_counter()
                        checkpoints.save(number + 1, state.params, state.optimizer)
                        blocked.append(time.perf_counter() - before)
                if checkpoints is not None:
                    checkpoints.close()
                timed[kind].append(time.perf_counter() - begun)
        path = Path(temporary) / f"with{args.repeats - 1}"
        restored = Checkpoints(path)
        begun = time.perf_counter()
        both = restored.restore(restored.steps()[-1], *plan.restorable())
        jax.block_until_ready(both)
        seconds = time.perf_counter() - begun
    value: dict[str, Any] = {
        "arguments": vars(args),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("jax", "orbax-checkpoint", "numpy"),
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(plan.abstract.params)),
        "seconds": timed,
        "overhead": statistics.median(timed["with"]) / statistics.median(timed["without"]) - 1,
        "seconds_blocked_a_save": blocked,
        "restore_seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_json(RESULT, value)
    print(
        f"{value['parameters'] / 1e6:.0f}M parameters: checkpoints every {args.period} steps add {value['overhead']:.1%}; restore {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()

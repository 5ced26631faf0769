"""What asynchronous checkpoints cost a run, and what restoring takes: time and peak memory.

    python -m benchmarks.checkpoint_overhead [--steps 100] [--period 50] [--repeats 3] [--only overhead|restore]

`overhead` times steps of a model of 110M parameters with a checkpoint every `--period` steps and without any, in turns, each with what a
run writes (parameters, AdamW's moments, digests); the goal of the project is at most 5 % more time. `restore` saves the state of
a model of 0.3B parameters once and restores it in processes of their own: onto one device, and onto eight simulated ones (fsdp 8). Memory
is the peak resident set of the process, beside the size of the state.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.debian_docs import cpu_name
from benchmarks.step_speed import packed_batch
from ja_llm import manifest, sharding
from ja_llm.files import read_json, write_json
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.checkpoints import Checkpoints
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.optimizers import AdamW
from ja_llm.train.state import plan_state
from ja_llm.train.step import PLAIN, TrainState, init_optimizer, loss_sums, make_train_step

RESULT = Path(__file__).parent / "results" / "checkpoint_overhead.json"
SHAPES = {"110m": (8, 768), "0.3b": (16, 1152)}  # layers, width


def shape(name: str, length: int = 128) -> DecoderConfig:
    """A Llama with heads of 64 and an untied head of 32,000 pieces."""
    layers, width = SHAPES[name]
    return DecoderConfig(
        vocab_size=32000, embed_dim=width, num_layers=layers, num_heads=width // 64, num_kv_heads=width // 64, head_dim=64,
        mlp_dim=3 * width, max_length=length,
    )  # fmt: skip


def first_state(config: DecoderConfig, transformation: Any) -> TrainState:
    """Step 0 on the first device."""
    params = init_params(config, jax.random.key(0))
    return TrainState(jnp.zeros((), jnp.int32), params, init_optimizer(transformation, params))


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of so many steps with and without checkpoints, in turns."""
    config = shape("110m", args.length)
    plan, transformation = plan_state(config, AdamW(), PLAIN, sharding.make_mesh({}, jax.devices()[:1]), sharding.DEFAULT_RULES)
    step = jax.jit(make_train_step(loss_sums, Decoder(config), transformation, WarmupConstant(1e-4, 10)), donate_argnums=0)
    batch = packed_batch(config.vocab_size, args.batch, args.length)
    state, _ = step(first_state(config, transformation), batch)
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
                    checkpoints.close()  # the last write is waited for, which a longer run would hide
                timed[kind].append(time.perf_counter() - begun)
                print(f"{kind}: {timed[kind][-1]:.1f} s for {args.steps} steps", flush=True)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(plan.abstract.params)),
        "seconds": timed,
        "overhead": statistics.median(timed["with"]) / statistics.median(timed["without"]) - 1,
        "seconds_blocked_a_save": blocked,
    }


def task(name: str, folder: Path) -> dict[str, Any]:
    """Save the large state, or restore it onto the devices of this process."""
    config = shape("0.3b")
    mesh = sharding.make_mesh({"fsdp": len(jax.devices())})
    plan, transformation = plan_state(config, AdamW(), PLAIN, mesh, sharding.DEFAULT_RULES)
    begun = time.perf_counter()
    if name == "save":
        state = first_state(config, transformation)
        begun = time.perf_counter()
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state.params, state.optimizer)
        checkpoints.close()
    else:
        both = Checkpoints(folder).restore(1, *plan.restorable())
        jax.block_until_ready(both)
    return {
        "devices": len(jax.devices()),
        "seconds": time.perf_counter() - begun,
        "state_mib": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan.restorable())) / 2**20,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def restore(args: argparse.Namespace) -> dict[str, Any]:
    """Save once; restore onto 1 and 8 devices, each in processes of their own."""
    found: dict[str, Any] = {"parameters": 0, "save": [], "restore, 1 device": [], "restore, 8 devices": []}
    config = shape("0.3b")
    found["parameters"] = sum(
        x.size for x in jax.tree.leaves(jax.eval_shape(lambda k: init_params(config, k), jax.random.key(0)))
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in ["save", *["restore, 1 device", "restore, 8 devices"] * args.repeats]:
            flags = f"--xla_force_host_platform_device_count={8 if '8' in name else 1}"
            command = [sys.executable, "-m", "benchmarks.checkpoint_overhead", "--task", name, "--folder", f"{temporary}/run"]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
            told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name].append(json.loads(told.splitlines()[-1]))
            print(name, found[name][-1], flush=True)
    return found


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 2), ("length", 128), ("steps", 100), ("period", 50), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=("overhead", "restore"), help="the other part stays in the result file as it is")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(task(args.task, args.folder)))
        return
    value = read_json(RESULT, "result") if RESULT.exists() else {}
    settings = {key: getattr(args, key) for key in ("batch", "length", "steps", "period", "repeats")}
    value.update(
        hardware={"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        software=manifest.software("jax", "orbax-checkpoint", "numpy"),
    )
    for name, part in (("overhead", overhead), ("restore", restore)):
        if args.only in (None, name):
            value[name] = {"settings": settings, "load_average": os.getloadavg()[0], **part(args)}
            write_json(RESULT, value)
    print(f"checkpoints every {args.period} steps add {value['overhead']['overhead']:.1%}" if "overhead" in value else "")


if __name__ == "__main__":
    main()

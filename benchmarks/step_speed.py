"""Tokens per second of whole training steps (forward, backward, AdamW) on this machine, for a few shapes.

    python -m benchmarks.step_speed
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.debian_docs import cpu_name
from ja_llm.files import write_json
from ja_llm.manifest import software
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.optimizers import AdamW
from ja_llm.train.schedules import WarmupConstant
from ja_llm.train.step import TrainState, make_train_step

RESULT = Path(__file__).parent / "results" / "step_speed.json"
BASE = {"embed_dim": 192, "num_layers": 6, "num_heads": 6, "num_kv_heads": 2, "head_dim": 32, "mlp_dim": 512, "max_length": 512, "vocab_size": 8000}
CASES: dict[str, dict[str, Any]] = {
    "tied, scan": {"tie_embeddings": True},
    "tied, unrolled": {"tie_embeddings": True, "scan_layers": False},
    "untied, scan": {},
    "tied, scan, vocabulary 4000": {"tie_embeddings": True, "vocab_size": 4000},
}


def measure(config: DecoderConfig, batch: int, length: int, steps: int) -> dict[str, Any]:
    """Seconds of each step after two for warming up."""
    optimizer = AdamW().transformation()
    params = jax.jit(lambda k: init_params(config, k))(jax.random.key(0))
    step = jax.jit(make_train_step(Decoder(config), optimizer, WarmupConstant(peak=1e-3, warmup_steps=10)), donate_argnums=0)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (batch, length + 1)).astype(np.int32)
    # Four documents a row, as packed text has.
    segments = np.broadcast_to(np.arange(length) * 4 // length + 1, (batch, length)).astype(np.int32)
    data = {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": np.ones((batch, length), np.float32),
        "decoder_segment_ids": segments,
        "decoder_positions": np.broadcast_to(np.arange(length) % (length // 4), (batch, length)).astype(np.int32),
    }
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        state, metrics = step(state, data)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    seconds = seconds[2:]
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "median_tokens_per_second": batch * length / statistics.median(seconds),
        "seconds": [round(s, 4) for s in seconds],
    }


def main() -> None:
    """Measure all cases in one process and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=7)
    args = parser.parse_args()
    results = {}
    for name, changes in CASES.items():
        results[name] = measure(DecoderConfig(**{**BASE, **changes}), args.batch, args.length, args.steps)
        print(f"{name:<30} {results[name]['parameters'] / 1e6:.2f}M {results[name]['median_tokens_per_second']:.0f} tokens/s")
    write_json(RESULT, {"hardware": {"cpu": cpu_name(), "cores": os.cpu_count()}, "software": software("jax", "jaxlib", "flax", "optax"), "batch": args.batch, "length": args.length, "results": results})


if __name__ == "__main__":
    main()

"""Speed of the whole training step (forward, backward, AdamW) of small decoders on this machine, and of transformers' on the same.

    python -m benchmarks.step_speed [--batch 16] [--length 256] [--vocab 6000] [--repeats 7] [--only NAME]

The peer is transformers' LlamaForCausalLM in PyTorch (eager, its own attention with the packed documents' mask, torch's fused
AdamW) with the shape of `gin_configs/models/tiny_3m.gin`, on the same batch with the same threads.

All variants are compiled first, then run in turns, so that another load on the machine hits them alike. Reported: median
tokens per second of wall time, the same per second of CPU time (all threads of the process; hardly moved by other
processes), and every repeat.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.files import write_json
from ja_llm.interop import hf_config
from ja_llm.manifest import software
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import TrainState, loss_sums, make_train_step

RESULTS = Path(__file__).resolve().parent / "results" / "step_speed.json"


def decoder(width: int, layers: int, heads: int, kv_heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    """Fields of a DecoderConfig."""
    sizes = {"embed_dim": width, "num_layers": layers, "num_heads": heads, "num_kv_heads": kv_heads, "mlp_dim": mlp}
    return {**sizes, "head_dim": width // heads, "max_length": 1024, **more}


PEER = "tiny_3m, transformers in PyTorch"
OURS = "tiny_3m (d192 L6, 3 heads of 64), scanned, tied"
VARIANTS: dict[str, dict[str, Any]] = {
    OURS: decoder(192, 6, 3, 1, 512, tie_embeddings=True),
    "d192 L6, scanned, tied": decoder(192, 6, 4, 2, 512, tie_embeddings=True),
    "d192 L6, unrolled, tied": decoder(192, 6, 4, 2, 512, tie_embeddings=True, scan_layers=False),
    "d192 L6, scanned, own head": decoder(192, 6, 4, 2, 512),
    "d192 L6, scanned, tied, full remat": decoder(192, 6, 4, 2, 512, tie_embeddings=True, remat_policy="full"),
    "d256 L4, scanned, tied": decoder(256, 4, 4, 2, 704, tie_embeddings=True),
    "d256 L6, scanned, tied": decoder(256, 6, 4, 2, 704, tie_embeddings=True),
    "d128 L10, scanned, tied": decoder(128, 10, 4, 2, 352, tie_embeddings=True),
    "d320 L3, scanned, tied": decoder(320, 3, 5, 1, 896, tie_embeddings=True),
}


def packed_batch(vocab: int, batch: int, length: int) -> dict[str, np.ndarray]:
    """Rows of packed documents with lengths from 20 to 300 tokens."""
    rng = np.random.default_rng(0)
    segments, positions = np.zeros((2, batch, length), np.int32)
    for row in range(batch):
        start = number = 0
        while start < length:
            end, number = min(length, start + int(rng.integers(20, 300))), number + 1
            segments[row, start:end], positions[row, start:end] = number, np.arange(end - start)
            start = end
    tokens = rng.integers(0, vocab, (batch, length + 1)).astype(np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": np.ones((batch, length), np.float32),
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
    }


class Runner:
    """One compiled variant and its state."""

    def __init__(self, config: DecoderConfig, batch: dict[str, np.ndarray]):
        optimizer = AdamW().transformation()
        step = make_train_step(loss_sums, Decoder(config), optimizer, WarmupConstant(peak=1e-4, warmup_steps=10))
        params = init_params(config, jax.random.key(0))
        self.parameters = sum(x.size for x in jax.tree.leaves(params))
        self.batch = {k: jnp.asarray(v) for k, v in batch.items()}
        self.state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        began = time.perf_counter()
        self.step = jax.jit(step, donate_argnums=0).lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - began
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def once(self, record: bool = True) -> None:
        """One step, waited for."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.state, metrics = self.step(self.state, self.batch)
        assert np.isfinite(float(metrics["loss"]))
        if record:
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)


class PeerRunner:
    """The same step by transformers and torch."""

    def __init__(self, config: DecoderConfig, batch: dict[str, np.ndarray]):
        import torch
        import transformers

        torch.set_num_threads(os.cpu_count() or 1)
        settings = transformers.LlamaConfig(**hf_config.to_hf(config, "float32", 1, 2) | {"attn_implementation": "sdpa"})
        began = time.perf_counter()
        self.model = transformers.LlamaForCausalLM(settings).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        segments = torch.from_numpy(batch["decoder_segment_ids"])
        same = segments[:, None, :, None] == segments[:, None, None, :]
        self.mask = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        self.tokens, self.targets, self.positions = (
            torch.from_numpy(batch[f"decoder_{name}"].astype(np.int64)) for name in ("input_tokens", "target_tokens", "positions")
        )
        self.compile_seconds = time.perf_counter() - began
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def once(self, record: bool = True) -> None:
        """One step."""
        import torch

        wall, cpu = time.perf_counter(), time.process_time()
        out = self.model(input_ids=self.tokens, attention_mask=self.mask, position_ids=self.positions, use_cache=False)
        loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), self.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        assert np.isfinite(float(loss.detach()))
        if record:
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)


def step_flops(config: DecoderConfig, batch: int, length: int) -> float:
    """FLOPs of matrix products in one step: 6 per weight and token (the tied head counted once), attention at full square."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    kernels = sum(x.size for path, x in leaves if "kernel" in jax.tree_util.keystr(path))
    if config.tie_embeddings:
        kernels += config.vocab_size * config.embed_dim
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * length
    return float(batch * length * (6 * kernels + attention))


def measure(vocab: int, batch: int, length: int, repeats: int, only: str | None) -> dict[str, Any]:
    """Compile and run all variants in turns."""
    rows = packed_batch(vocab, batch, length)
    configs = {n: DecoderConfig(vocab_size=vocab, **v) for n, v in VARIANTS.items() if not only or only in n}
    makers: dict[str, Any] = dict.fromkeys(configs, Runner)
    if OURS in configs:
        configs[PEER], makers[PEER] = configs[OURS], PeerRunner
    runners = {}
    for name, config in configs.items():
        runners[name] = makers[name](config, rows)
        print(f"{name} is ready after {runners[name].compile_seconds:.0f} s", file=sys.stderr, flush=True)
        runners[name].once(record=False)
    for _ in range(repeats):
        for runner in runners.values():
            runner.once()
    tokens = batch * length
    return {
        name: {
            "parameters": runner.parameters,
            "tokens_per_second": tokens / statistics.median(runner.wall),
            "tokens_per_cpu_second": tokens / statistics.median(runner.cpu),
            "gflops_per_cpu_second": step_flops(configs[name], batch, length) / statistics.median(runner.cpu) / 1e9,
            "compile_seconds": runner.compile_seconds,
            "wall_seconds": runner.wall,
            "cpu_seconds": runner.cpu,
        }
        for name, runner in runners.items()
    }


def main() -> None:
    """Measure, print a table, write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"batch": 16, "length": 256, "vocab": 6000, "repeats": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", help="variants whose name contains this; prints, writes nothing")
    args = parser.parse_args()
    results = measure(args.vocab, args.batch, args.length, args.repeats, args.only)
    for name, r in results.items():
        print(
            f"{name:50} {r['parameters'] / 1e6:5.2f}M {r['tokens_per_second']:7.0f} tokens/s {r['tokens_per_cpu_second']:7.0f} tokens/CPU-s"
            f" {r['gflops_per_cpu_second']:6.1f} GFLOP/CPU-s  ready in {r['compile_seconds']:.1f} s"
        )
    if PEER in results:
        print(
            f"ours / transformers: {results[OURS]['tokens_per_second'] / results[PEER]['tokens_per_second']:.2f} x tokens per second"
        )
    if not args.only:
        where = {"platform": platform.platform(), "cpus": os.cpu_count(), "device": str(jax.devices()[0])}
        setting = {"batch": args.batch, "length": args.length, "vocab": args.vocab, "repeats": args.repeats}
        versions = software("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
        write_json(RESULTS, {"machine": where, "setting": setting, "software": versions, "results": results})


if __name__ == "__main__":
    main()

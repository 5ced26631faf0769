"""Whole training steps on one GPU: 1B, and layers of 8B's shape, in rows of 4k and 8k, beside PyTorch's on the same GPU.

    python -m benchmarks.step_speed_gpu [--tokens 16384] [--repeats 10] [--rounds 2] [--remat none] [--only NAME] [--peak_tflops T]
    python -m benchmarks.step_speed_gpu --dry_run      # the same code on a tiny shape, on whatever device there is; writes nothing

Shapes are `gin_configs/models/llama32_1b.gin` and `llama31_8b.gin` with 4 of its 32 layers (8 billion parameters, their gradients and
moments do not fit on one GPU; embedding and head stay whole). Both sides hold float32 parameters and AdamW moments, compute in bfloat16,
clip the global gradient norm, and read the same random tokens, one document a row. The peer is transformers' LlamaForCausalLM with
SDPA's causal kernels, its forward and loss under torch.compile, torch's fused AdamW; with `--remat` other than "none" it recomputes its
layers too.

Each side runs in a process of its own, so that neither's memory pool is in the other's way, in turns (`--rounds`); a step is timed until
its loss is on the host. Reported: the median step of all rounds, tokens per second, MFU (causal attention counted half, no recomputation:
`ja_llm.train.flops`) with the peak that it is a share of, every repeat, the GPU's clocks. Goals: MFU >= 0.50 and 1.2 times the peer.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np

from benchmarks.gpu_clocks import sampled
from benchmarks.step_speed import Runner
from ja_llm import gin_utils
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.interop import hf_config
from ja_llm.manifest import software
from ja_llm.models.config import REMAT_POLICIES, DecoderConfig
from ja_llm.train import flops

RESULTS = Path(__file__).resolve().parent / "results" / "step_speed_gpu.json"
MFU_GOAL, RATIO_GOAL = 0.50, 1.2
# name -> (gin file, layers of it; None: all)
SHAPES: dict[str, tuple[str, int | None]] = {"1b": ("llama32_1b", None), "8b_layers": ("llama31_8b", 4)}
LENGTHS = (4096, 8192)
VOCABULARY = 128_256
WHO = ("ours", "peer")

Case = dict[str, Any]


@gin.configurable("shape_of", module="benchmarks")
def _shape_of(model: Callable[..., DecoderConfig], vocab_size: int) -> DecoderConfig:
    return model(vocab_size=vocab_size)


def decoder_config(case: Case) -> DecoderConfig:
    """The shape of a case, computing in bfloat16 on float32 parameters."""
    with gin_utils.parsed([f"models/{case['model']}.gin"], ["benchmarks.shape_of.model = %MODEL"]):
        config = _shape_of(vocab_size=case["vocab"])
    changes = {"dtype": "bfloat16", "param_dtype": "float32", "remat_policy": case["remat"]}
    return dataclasses.replace(config, num_layers=case["layers"] or config.num_layers, **changes)


def batch_of(case: Case) -> dict[str, np.ndarray]:
    """Random tokens, one document a row: int32 and float32 [rows, length]."""
    shape = case["rows"], case["length"]
    tokens = np.random.default_rng(0).integers(0, case["vocab"], (shape[0], shape[1] + 1)).astype(np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": np.ones(shape, np.float32),
        "decoder_segment_ids": np.ones(shape, np.int32),
        "decoder_positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    }


class Peer:
    """The same step by transformers and torch."""

    def __init__(self, config: DecoderConfig, batch: dict[str, np.ndarray], device: str, backend: str):
        import torch
        import transformers

        torch.set_float32_matmul_precision("high")  # what autocast leaves in float32; ours has nothing there
        settings = transformers.LlamaConfig(**hf_config.to_hf(config, "float32", 1, 2) | {"attn_implementation": "sdpa"})
        with torch.device(device):
            self.model = transformers.LlamaForCausalLM(settings).train()
        if config.remat_policy != "none":
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.tokens, self.targets = (
            torch.from_numpy(batch[f"decoder_{name}_tokens"].astype(np.int64)).to(device) for name in ("input", "target")
        )

        def loss(tokens: Any, targets: Any) -> Any:
            with torch.autocast(device, dtype=torch.bfloat16):
                logits = self.model(input_ids=tokens, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

        self.loss = torch.compile(loss, backend=backend)
        self.wall: list[float] = []

    def once(self, record: bool = True) -> None:
        """One step, waited for."""
        import torch

        began = time.perf_counter()
        loss = self.loss(self.tokens, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        assert np.isfinite(float(loss.detach()))
        if record:
            self.wall.append(time.perf_counter() - began)


def work(case: Case) -> dict[str, Any]:
    """One side's steps in this process: {"wall_seconds", "parameters", "ready_seconds", "memory_gib" (peak; None on a CPU)}."""
    config, batch, gpu = decoder_config(case), batch_of(case), case["gpu"]
    began = time.perf_counter()
    if case["who"] == "ours":
        runner: Any = Runner(config, batch)
    else:
        import torch

        if gpu and not torch.cuda.is_available():
            raise UsageError(
                f"torch {torch.__version__} sees no GPU; install a torch that is built for CUDA to measure the peer."
            )
        runner = Peer(config, batch, "cuda" if gpu else "cpu", "inductor" if gpu else "eager")
    for _ in range(case["warmup"]):
        runner.once(record=False)
    ready = time.perf_counter() - began
    for _ in range(case["repeats"]):
        runner.once()
    peak = None
    if gpu and case["who"] == "ours":
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    elif gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
    return {"wall_seconds": runner.wall, "parameters": runner.parameters, "ready_seconds": ready, "memory_gib": peak}


def in_child(case: Case) -> dict[str, Any]:
    """`work` in a process of its own.

    Raises:
      JaLlmError: it failed; says how.
    """
    command = [sys.executable, "-m", "benchmarks.step_speed_gpu", "--work", json.dumps(case)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    if found.returncode:
        last = [line for line in found.stderr.splitlines() if line.strip()][-1:] or [f"it ended with code {found.returncode}"]
        raise JaLlmError(last[0].strip()[:300])
    return json.loads(found.stdout.splitlines()[-1])


def measure(case: Case, rounds: int, peak: float | None, run: Callable[[Case], dict[str, Any]]) -> dict[str, Any]:
    """Both sides of a case, in turns; a side that fails has "cannot" instead of numbers."""
    flops_a_token = flops.flops_per_token(decoder_config(case), case["length"])
    tokens = case["rows"] * case["length"]
    sides: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for who in WHO:
            side = sides.setdefault(who, {"wall_seconds": []})
            if "cannot" in side:
                continue
            try:
                found = run({**case, "who": who})
            except JaLlmError as error:
                side["cannot"] = str(error)
                continue
            side |= {**found, "wall_seconds": [*side["wall_seconds"], *found["wall_seconds"]]}
    for side in sides.values():
        if "cannot" not in side:
            side["median_seconds"] = statistics.median(side["wall_seconds"])
            side["tokens_per_second"] = tokens / side["median_seconds"]
            side["mfu"] = flops.mfu(flops_a_token, side["tokens_per_second"], 1, peak) if peak else None
    return {**case, "flops_per_token": flops_a_token, **sides}


def ratio(row: dict[str, Any]) -> float | None:
    """Our tokens per second over the peer's; None where a side has none."""
    ours, peer = (row[who].get("tokens_per_second") for who in WHO)
    return ours / peer if ours and peer else None


def line_of(row: dict[str, Any]) -> str:
    """One line of the printed table."""
    parts = [f"{row['shape']:10} {row['rows']} x {row['length']:5}"]
    for who in WHO:
        side = row[who]
        if "cannot" in side:
            parts.append(f"{who}: {side['cannot']}")
        else:
            share = "" if side["mfu"] is None else f" MFU {side['mfu']:.3f}"
            parts.append(
                f"{who} {side['median_seconds'] * 1e3:9.1f} ms {side['tokens_per_second']:9.0f} tokens/s{share} "
                f"(ready in {side['ready_seconds']:.0f} s)"
            )
    found = ratio(row)
    return "  ".join([*parts, *([] if found is None else [f"{found:.2f} x"])])


def cases(args: argparse.Namespace) -> list[Case]:
    """What is measured.

    Raises:
      UsageError: a row is longer than --tokens.
    """
    tiny = [("tiny", "tiny_test", None, 64)]
    whole = [(name, file, layers, length) for name, (file, layers) in SHAPES.items() for length in LENGTHS]
    tokens = 128 if args.dry_run else args.tokens
    found = []
    for name, file, layers, length in tiny if args.dry_run else whole:
        if args.only and args.only not in name:
            continue
        if tokens < length:
            raise UsageError(f"--tokens is {tokens}, less than one row of {length}; give {length} or more.")
        found.append(
            {
                "shape": name,
                "model": file,
                "layers": layers,
                "rows": tokens // length,
                "length": length,
                "vocab": 512 if args.dry_run else VOCABULARY,
                "remat": args.remat,
                "repeats": args.repeats,
                "warmup": 1 if args.dry_run else 3,
                "gpu": not args.dry_run,
            }
        )
    if not found:
        raise UsageError(f"--only {args.only} names no shape; there are {', '.join(SHAPES)}.")
    return found


def gpu_peak(tflops: float | None) -> float:
    """Peak FLOP/s of the GPU that is measured.

    Raises:
      UsageError: JAX sees no GPU, or its peak is not known.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of this process, which only asks
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UsageError(
            f"this measures a GPU, and JAX sees only {device.platform!r} here; run it where JAX has one (pip install 'ja_llm[cuda]'), or try it with "
            "--dry_run."
        )
    peak = flops.peak_flops(device, tflops)
    if peak is None:
        raise UsageError(f"the peak of {device.device_kind!r} is not known; give it with --peak_tflops (dense bfloat16).")
    return peak


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384, help="of a step; rows are as many as fill it")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of a side in a round")
    parser.add_argument("--rounds", type=int, default=2, help="how often both sides take their turn")
    parser.add_argument("--remat", choices=REMAT_POLICIES, default="none")
    parser.add_argument("--only", help="shapes whose name contains this; prints, writes nothing")
    parser.add_argument("--peak_tflops", type=float, help="of the GPU, dense bfloat16, where the table does not know it")
    parser.add_argument("--dry_run", action="store_true", help="a tiny shape on any device")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, run: Callable[[Case], dict[str, Any]] = in_child) -> int:
    """Measure, print the table, write the device's entry of the results file; 1 where a side failed, 2 for wrong use."""
    args = arguments(argv)
    if args.work:
        print(json.dumps(work(json.loads(args.work))))
        return 0
    try:
        peak = None if args.dry_run else gpu_peak(args.peak_tflops)
        todo = cases(args)
    except UsageError as error:
        print(f"step_speed_gpu: {error}", file=sys.stderr)
        return error.exit_code
    rows = []
    with contextlib.ExitStack() as stack:
        clocks = stack.enter_context(sampled(not args.dry_run))
        for case in todo:
            rows.append(measure(case, 1 if args.dry_run else args.rounds, peak, run))
            print(line_of(rows[-1]), flush=True)
    if peak:
        for row in rows:
            share, times = row["ours"].get("mfu"), ratio(row)
            met = share is not None and times is not None and share >= MFU_GOAL and times >= RATIO_GOAL
            print(f"goal {row['shape']} {row['length']}: MFU >= {MFU_GOAL}, >= {RATIO_GOAL} x: {'met' if met else 'NOT met'}")
        print(f"MFU is of {peak / 1e12:.4g} TFLOP/s; {flops.CONVENTION}")
        if not args.only:
            device = jax.devices()[0].device_kind
            entry = {
                "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "clocks": clocks},
                "setting": {"tokens": args.tokens, "repeats": args.repeats, "rounds": args.rounds, "remat": args.remat},
                "peak_tflops": peak / 1e12,
                "convention": flops.CONVENTION,
                "software": software("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers"),
                "rows": rows,
            }
            write_json(RESULTS, {**(read_json(RESULTS) if RESULTS.exists() else {}), device: entry})
    return int(any("cannot" in row[who] for row in rows for who in WHO))


if __name__ == "__main__":
    sys.exit(main())

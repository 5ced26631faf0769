"""FLOPs against published figures, and MFU against a published one."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from ja_llm.models.config import DecoderConfig
from ja_llm.progress import Progress
from ja_llm.train.flops import adapted_flops_per_token, flops_per_token, matmul_weights, mfu, peak_flops
from ja_llm.train.lora import Lora
from ja_llm.train.reporting import Report
from ja_llm.train.run_config import RunConfig
from ja_llm.train.step import StepOptions

LLAMA_8B = DecoderConfig(
    vocab_size=128256, embed_dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128, mlp_dim=14336, max_length=8192
)
SMALL = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=64
)


class Batches:
    batch_size, length = 3, 8


def test_what_is_frozen_has_no_gradient_of_its_own():
    """Of 6 FLOPs a weight the two of its own gradient fall away; the adapters' weights are few."""
    config = DecoderConfig(
        vocab_size=32, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=8
    )
    whole, adapted = flops_per_token(config, 8), adapted_flops_per_token(config, 8, 100)
    assert whole - adapted == 2 * matmul_weights(config) - 600
    lora = Lora(rank=1, parameters=("logits_dense/kernel",))
    report = Report(RunConfig(Path(), 1, step=StepOptions(lora=lora)), config, Batches, None, None)
    assert report._flops == adapted_flops_per_token(config, 8, 16 + 32)


def test_llama_3_1_8b_at_8192():
    # Megatron's formula gives 57.9 G with full attention; with the causal half 51.5 G (as MaxText counts since its PR 1988).
    assert flops_per_token(LLAMA_8B, 8192, causal=False) == pytest.approx(57.9e9, rel=0.002)
    assert flops_per_token(LLAMA_8B, 8192) == pytest.approx(51.5e9, rel=0.002)
    assert matmul_weights(LLAMA_8B) == 8_030_261_248 - 128256 * 4096 - 65 * 4096


def test_mfu_of_a_published_run():
    # MaxText, Llama-3.1-8B on v6e-256 at 8k: 7,207 tokens a second a chip are 40.4 % causal, 45.5 % with full attention.
    peak = peak_flops(type("Device", (), {"device_kind": "TPU v6 lite"}))
    assert mfu(flops_per_token(LLAMA_8B, 8192), 7207, 1, peak) == pytest.approx(0.404, abs=0.002)
    assert peak_flops(type("Device", (), {"device_kind": "NVIDIA H100 80GB HBM3"})) == 989e12
    assert peak_flops(type("Device", (), {"device_kind": "cpu"})) is None and peak_flops(None, 7.0) == 7e12


def test_the_logged_mfu_counts_every_position_of_the_step_padding_too(tmp_path):
    lines = []
    writer = SimpleNamespace(write=lambda step, values: lines.append(values))
    data = SimpleNamespace(batch_size=4, length=64)
    report = Report(RunConfig(tmp_path, 1, peak_tflops=2.0), SMALL, data, writer, Progress("train", 1, "step"))
    report.pending = (1, (0, 0), {"finite": 1, "loss": 1.0, "target_tokens": 200})
    report.fetch()
    seconds = 200 / lines[0]["tokens_per_second"]
    by_hand = flops_per_token(SMALL, 64) * 4 * 64 / seconds / (jax.device_count() * 2e12)
    assert lines[0]["mfu"] == pytest.approx(by_hand, rel=1e-9)


def test_windows_and_experts_count_what_is_computed():
    small = SMALL
    window = dataclasses.replace(small, sliding_window=8, window_pattern="LG")
    seen = sum(min(i + 1, 8) for i in range(64)) / 64  # keys that a token of the local layer sees, counted
    expected = flops_per_token(small, 64) - 12 * 16 * (32 - (seen - 0.5))
    assert flops_per_token(window, 64) == pytest.approx(expected, rel=0.01)
    experts = dataclasses.replace(small, num_experts=4, experts_per_token=2)
    assert matmul_weights(experts) == matmul_weights(small) + 2 * (3 * 16 * 32) + 2 * (16 * 4)
    tied = dataclasses.replace(small, tie_embeddings=True)
    assert matmul_weights(tied) == matmul_weights(small)

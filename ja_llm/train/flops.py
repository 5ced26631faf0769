"""FLOPs of a training step and MFU, with the convention said.

A token costs 6 FLOPs for each weight of a matrix product (2 forward, 4 backward; Kaplan et al. 2020, arXiv 2001.08361, section 2.1), and
12 * layers * heads * head_dim * length for attention over a whole row (PaLM, arXiv 2204.02311, appendix B); a causal mask halves the
latter, and a sliding window shortens it. The embedding's lookup counts nothing, the head does; of experts those a token goes through;
what remat computes again counts nothing. MFU here is causal; documents packed into a row are counted as if each saw the whole row.
"""

import math
from typing import Any

import jax

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.train.settings import name_of

CONVENTION = "causal attention counted half, packed rows as one document, no recomputation"

# Dense bfloat16 peak of one JAX device in TFLOP/s, by the beginning of its `device_kind`; makers' data sheets (without sparsity).
PEAK_TFLOPS = (
    ("NVIDIA H200", 989.0),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA H100", 989.0),
    ("NVIDIA GH200", 989.0),
    ("NVIDIA A100", 312.0),
    ("NVIDIA B200", 2250.0),
    ("NVIDIA L40S", 362.0),
    ("NVIDIA A10", 125.0),
    ("NVIDIA GeForce RTX 4090", 165.0),
    ("TPU v4", 275.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5e", 197.0),
    ("TPU v5", 459.0),
    ("TPU v6", 918.0),
)


def matmul_weights(config: DecoderConfig) -> int:
    """Weights that a token is multiplied with."""
    return sum(layer_weights(config).values()) + config.vocab_size * config.embed_dim


def layer_weights(config: DecoderConfig) -> dict[str, int]:
    """Of all layers, by the kernel's name ("query", ..., "wo"); of experts those that a token goes through."""
    found: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        *part, kernel, last = ("", *name_of(path).split("/"))
        if last == "kernel" and kernel != "logits_dense":
            size = math.prod(leaf.shape)
            routed = config.num_experts > 1 and "mlp" in part and kernel != "router"
            found[kernel] = found.get(kernel, 0) + (size * config.experts_per_token // config.num_experts if routed else size)
    return found


def flops_per_token(config: DecoderConfig, length: int, causal: bool = True) -> float:
    """Training FLOPs (forward and backward) of a token in rows of `length`."""
    attention = 0.0
    for window in config.layer_windows():
        seen = length if window is None else min(window, length)
        # Keys a token sees: with a window w, w after the first w positions, of which the mean is w - w(w - 1) / 2L.
        mean = seen - seen * (seen - 1) / (2 * length) if window is not None and seen < length else length / 2
        attention += 12 * config.num_heads * config.head_dim * (mean if causal else length)
    return 6.0 * matmul_weights(config) + attention


def adapted_flops_per_token(config: DecoderConfig, length: int, adapters: int) -> float:
    """`flops_per_token` where only adapters of so many weights learn: a frozen weight has no gradient of its own, so it costs 4 FLOPs."""
    return flops_per_token(config, length) - 2.0 * matmul_weights(config) + 6.0 * adapters


def peak_flops(device: Any, tflops: float | None = None) -> float | None:
    """Peak FLOP/s of one device; `tflops` overrides the table; None where it is not known (a CPU)."""
    if tflops is not None:
        return tflops * 1e12
    kind = getattr(device, "device_kind", "")
    return next((value * 1e12 for name, value in PEAK_TFLOPS if kind.startswith(name)), None)


def mfu(flops_a_token: float, tokens_per_second: float, devices: int, peak: float) -> float:
    """Share of the devices' peak (FLOP/s of one) that the model's FLOPs make up."""
    return flops_a_token * tokens_per_second / (devices * peak)

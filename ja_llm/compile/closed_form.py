"""An expected step without a compilation: for a Llama-like decoder whose rows and parameters are spread over fsdp, slices over data.

What `ja_llm.compile.expected` reads from a compiled schedule is counted here: executed products, attention kernels, and the bytes that are waited
for (`EXPOSED_BYTES`). Of memory only a lower bound is told: how much it is knows a compiler.
"""

import itertools
import math
from typing import Any

import jax

from ja_llm.compile.expected import ACHIEVED, between_slices, step_seconds
from ja_llm.compile.hardware import CHIPS, group_bandwidth
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.train.flops import flops_per_token, layer_weights, matmul_weights

# Bytes that a chip sends and waits for, of each parameter in each microbatch, as libtpu 0.0.42 compiles 8B without flags: (where each dimension
# of the slice is a ring, where one is none). On rings it sums the bfloat16 gradient by an all-reduce, which is twice its bytes, on 8x16 by a
# reduce-scatter, which is once. For v5e it hides the two gathers behind products; for v6e it does not; for v5p:4x4x4 it writes the
# gathers as all-reduces, too, and hides none. v5p without rings was compiled for 8 chips alone, where no such sum is right.
EXPOSED_BYTES = {"v5e": (4, 2), "v6e": (8, 6), "v5p": (12, 12)}


def expected_step(
    model: DecoderConfig,
    chip: str,
    shape: tuple[int, ...],
    *,
    slices: int = 1,
    batch_size: int,
    length: int,
    microbatches: int,
) -> dict[str, Any]:
    """Seconds of a step and what they are made of.

    Args:
      model: its `remat_policy` says what is computed again.
      chip: generation, e.g. "v5p".
      shape: chips along each dimension of a slice; all are fsdp.
      slices: how many.
      batch_size: rows.
      length: tokens in each.
      microbatches: parts of the batch.

    Raises:
      UsageError: rows do not divide over chips and microbatches.
    """
    chips = math.prod(shape)
    rows, rest = divmod(batch_size, chips * slices * microbatches)
    if rest or not rows:
        raise UsageError(
            f"{batch_size} rows can't be split over {chips * slices} chips in {microbatches} microbatches; choose fewer of either."
        )
    tokens = batch_size * length / (chips * slices)
    weights = layer_weights(model)
    again = 0.0 if model.remat_policy in ("none", "minimal") else 2.0 * (sum(weights.values()) - weights["wo"])
    products = tokens * (6.0 * matmul_weights(model) + again)
    speeds = ACHIEVED[chip]
    forwards = 2 if model.remat_policy == "full" else 1
    kernel_flops = tokens * model.num_layers * 2.0 * model.num_heads * model.head_dim * length * (forwards + 2.5)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(model)))
    coords = list(itertools.product(*map(range, shape)))
    bandwidth = group_bandwidth(CHIPS[chip], shape, coords)
    on_rings, off_rings = EXPOSED_BYTES[chip]
    bytes_each = on_rings if all(size % CHIPS[chip].wraps == 0 for size in shape) else off_rings
    waited = microbatches * bytes_each * parameters * (chips - 1) / chips
    exposed = waited / bandwidth
    if slices > 1:  # the gradient's part of each chip, in every microbatch, as its sum is spread like the parameters
        exposed += microbatches * between_slices(parameters / chips, slices, chip)
    found = step_seconds(chip, length, products, kernel_flops / speeds.attention_flops(length), exposed)
    seconds = found["step_seconds"]
    causal, full = (flops_per_token(model, length, causal=way) * tokens for way in (True, False))
    return {
        **found,
        "executed_products": products * chips * slices,
        "least_gib": least_bytes(model, parameters / chips, rows, length) / 2**30,
        "exposed_bytes": waited,
        "tokens_per_second_per_chip": tokens / seconds,
        "mfu_causal": causal / seconds / speeds.peak,
        "mfu_full": full / seconds / speeds.peak,
    }


def least_bytes(model: DecoderConfig, parameters: float, rows: int, length: int) -> float:
    """Bytes that a chip needs at least: float32 parameters, AdamW's moments and the gradient's sum; what the layers keep of a microbatch's rows (their
    input, and unless all is computed again attention's output, bfloat16); the head's float32 gradient, which the loss sums up whole.

    Args:
      model: the architecture and its `remat_policy`.
      parameters: on this chip.
      rows: of this chip in a microbatch.
      length: tokens in each.
    """
    width = model.embed_dim + (0 if model.remat_policy == "full" else model.num_heads * model.head_dim)
    return 16.0 * parameters + 2.0 * model.num_layers * rows * length * width + 4.0 * model.vocab_size * model.embed_dim

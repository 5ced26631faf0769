"""An expected step without a compilation: for a Llama-like decoder whose rows and parameters are spread over fsdp, slices over data.

What `ja_llm.compile.expected` reads from a compiled schedule is counted here: executed products, attention kernels, bytes of collectives. The
links are taken as waited for whole. That is pessimistic where a compiler splits a collective and hides it, and where it does not
(docs/compile.md has both beside each other) it is what is compiled. Memory is not told: that is a compiler's.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax

from ja_llm.compile.expected import ACHIEVED, between_slices, step_seconds
from ja_llm.compile.hardware import CHIPS, group_bandwidth
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.train.flops import flops_per_token, matmul_weights
from ja_llm.train.settings import name_of

# Bytes of a parameter on the wire for each microbatch: gathered for the forward and for the backward pass, its gradient reduced; bfloat16.
_WIRE_BYTES = 2 + 2 + 2


def expected_step(
    model: DecoderConfig,
    chip: str,
    shape: tuple[int, ...],
    *,
    slices: int = 1,
    batch_size: int,
    length: int,
    microbatches: int,
    passes: float = 1.0,
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
      passes: how often a collective's bytes cross a chip's links: 1 for gathers and scatters, 2 where both are all-reduces.

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
    wire = microbatches * passes * _WIRE_BYTES * parameters * (chips - 1) / chips
    exposed = wire / bandwidth
    if slices > 1:  # the gradient's part of each chip, in every microbatch, as its sum is spread like the parameters
        exposed += microbatches * between_slices(parameters / chips, slices, chip)
    found = step_seconds(chip, length, products, kernel_flops / speeds.attention_flops(length), exposed)
    seconds = found["step_seconds"]
    causal, full = (flops_per_token(model, length, causal=way) * tokens for way in (True, False))
    return {
        **found,
        "executed_products": products * chips * slices,
        "wire_bytes": wire,
        "tokens_per_second_per_chip": tokens / seconds,
        "mfu_causal": causal / seconds / speeds.peak,
        "mfu_full": full / seconds / speeds.peak,
    }


def layer_weights(model: DecoderConfig) -> Mapping[str, float]:
    """Weights of all layers' products, by kernel name ("query", ..., "wo")."""
    found: dict[str, float] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(model)):
        *_, kernel, last = name_of(path).split("/")
        if last == "kernel" and kernel not in ("logits_dense",):
            found[kernel] = found.get(kernel, 0.0) + math.prod(leaf.shape)
    return found

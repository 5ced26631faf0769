"""A recipe scaled down: a model of the same proportions, a schedule of the same shape. Arithmetic only; `twin.py` writes it down.

Width and depth shrink by one factor, so depth / width stays, and with the width the feed-forward width. Heads shrink by the root of that
factor in number and in width alike, in the base's groups of query heads to a key-value head. A standard deviation that the recipe draws parameters
with rises with the root of the width's fall, so that products keep their spread. The rate rises as the width falls (Yang et al. 2022,
arXiv 2203.03466, table 3: for AdamW a matrix's rate goes with 1 / width).
"""

import dataclasses
import math
from typing import Any

import jax

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params

SHORTEST_ROW = 16  # tokens: in fewer there is nothing to attend to
_STEP = 8  # widths are multiples of it
_NARROWEST = 16
HIGHEST_RATE = 4e-3  # models of some 100 columns diverge above
FEWEST_STEPS = 20  # of a run: fewer have no warm-up, no middle and no end


def count_params(config: DecoderConfig) -> int:
    """Parameters of a model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


def weights(config: DecoderConfig) -> int:
    """About as many parameters as `count_params`, in no time: tables and matrices, without norms and biases."""
    width = config.embed_dim
    attention = 2 * width * (config.num_heads + config.num_kv_heads) * config.head_dim
    block = width * config.mlp_dim * (3 if config.gated_mlp else 2) * config.num_experts
    tables = config.vocab_size * (1 if config.tie_embeddings else 2)
    tables += config.max_length if config.positions == "learned" else 0
    return width * tables + config.num_layers * (attention + block)


def shrunk_model(config: DecoderConfig, params: int, vocab_size: int, base_length: int, length: int) -> DecoderConfig:
    """The model of about `params` parameters in the proportions of `config`, in float32 and without recomputation.

    Args:
      config: the recipe's.
      params: parameters in all, tables counted; about, since widths go by eights.
      vocab_size: rows of the new embedding table.
      base_length: tokens in a row of the recipe.
      length: tokens in a row of the small run; a sliding window shrinks with it.

    Raises:
      UsageError: there is no model so small with such a vocabulary, or none so large that is smaller than the recipe's.
    """
    fixed: dict[str, Any] = {
        "vocab_size": vocab_size,
        "padding_ids": 0,
        "max_length": length,
        "dtype": "float32",
        "param_dtype": "float32",
        "remat_policy": "none",
        "attention": "default",
        "sliding_window": config.sliding_window and max(1, round(config.sliding_window * length / base_length)),
    }
    period = len(config.window_pattern)
    wanted, best, off = config.num_layers / config.embed_dim, None, math.inf
    for layers in range(max(2, period), config.num_layers + 1, period):
        found = _of_depth(dataclasses.replace(config, **fixed), layers, params)
        if found is None:
            break
        here = abs(math.log(layers / found.embed_dim / wanted))
        if here >= off:
            break
        best, off = found, here
    if best is None:
        raise UsageError(
            f"--params {params:,}: a model of {config.family}'s kind with {vocab_size:,} ids has more parameters at its narrowest; raise it, or lower --vocab_size."
        )
    if best.embed_dim >= config.embed_dim:
        raise UsageError(f"--params {params:,}: that is no smaller than the recipe's own model; lower it.")
    return best


def _of_depth(config: DecoderConfig, layers: int, params: int) -> DecoderConfig | None:
    """The model of so many layers whose width comes nearest to `params`; None where even the narrowest has more."""

    def at(width: int) -> DecoderConfig:
        return _of_shape(config, width * _STEP, layers)

    low, high = _NARROWEST // _STEP, config.embed_dim // _STEP
    if weights(at(low)) > params:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if weights(at(middle)) <= params else (low, middle)
    return min((at(low), at(high)), key=lambda model: abs(weights(model) - params))


def _of_shape(config: DecoderConfig, width: int, layers: int) -> DecoderConfig:
    """`config` at another width and depth; see the module's own words for the heads."""
    scale = width / config.embed_dim
    group = config.num_heads // config.num_kv_heads
    kv = max(1, round(config.num_kv_heads * math.sqrt(scale)))
    # One key-value head for all: then the query heads are free, and 48 of them would be 6 wide.
    heads = max(1, round(config.num_heads * math.sqrt(scale))) if config.num_kv_heads == 1 else kv * group
    all_heads = config.num_heads * config.head_dim * scale
    head_dim = max(4, 2 * round(all_heads / heads / 2))
    return dataclasses.replace(
        config,
        embed_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        mlp_dim=max(_STEP, _STEP * round(config.mlp_dim * scale / _STEP)),
        query_scalar=config.query_scalar and max(1, round(config.query_scalar * head_dim / config.head_dim)),
        init_std=config.init_std and float(f"{config.init_std / math.sqrt(scale):.4g}"),
    )


def shrunk_steps(tokens: int, batch_size: int, length: int) -> int:
    """Optimizer steps that read about `tokens` tokens.

    Raises:
      UsageError: they are too few for a schedule, or a row or a batch is too small.
    """
    for flag, value, least in (("--batch_size", batch_size, 1), ("--length", length, SHORTEST_ROW)):
        if value < least:
            raise UsageError(f"{flag} {value}: give {least} or more.")
    steps = round(tokens / (batch_size * length))
    if steps < FEWEST_STEPS:
        raise UsageError(
            f"--tokens {tokens:,}: that is {steps} steps of {batch_size} rows of {length} tokens, and a schedule needs {FEWEST_STEPS}; raise it, or lower "
            "--batch_size or --length."
        )
    return steps


def scaled_step(value: int, steps: int, of_steps: int) -> int:
    """A number of steps of the recipe in the small run: the same share, at least 1 where there was 1."""
    return max(min(value, 1), round(value * steps / of_steps))


def rate_factor(config: DecoderConfig, small: DecoderConfig, peak: float) -> float:
    """By what learning rates, of which the highest is `peak`, are multiplied: the ratio of the widths, up to `HIGHEST_RATE`."""
    return min(config.embed_dim / small.embed_dim, HIGHEST_RATE / peak)


def proportions(config: DecoderConfig) -> dict[str, Any]:
    """What shrinking keeps, for the words that come with it."""
    return {
        "depth / width": config.num_layers / config.embed_dim,
        "feed-forward / width": config.mlp_dim / config.embed_dim,
        "query heads to a key-value head": config.num_heads // config.num_kv_heads,
        "all heads / width": config.num_heads * config.head_dim / config.embed_dim,
    }

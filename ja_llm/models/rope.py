"""Rotary position embeddings: frequencies, their scaling for longer rows, and the turn itself."""

import math

import jax
import jax.numpy as jnp

from ja_llm.models.config import DecoderConfig


def frequencies(config: DecoderConfig) -> jax.Array:
    """Angle per position of each pair: float32 [head_dim / 2], theta ** (-2i / head_dim), scaled as the configuration says.

    "llama3" (Llama 3.1's model code; Grattafiori et al. 2024, arXiv 2407.21783, section 3.4.2 trains with it): with t turns
    in the original length, a frequency stays where t > high, is divided by the factor where t < low, and is blended linearly
    in t between the two. "linear" is position interpolation (arXiv 2306.15595, eq. 3).
    """
    width = config.head_dim
    plain = config.rope_theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    if config.rope_scaling == "none":
        return plain
    slow = plain / config.rope_factor
    if config.rope_scaling == "linear":
        return slow
    turns = config.rope_original_length * plain / (2 * math.pi)
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * slow + kept * plain


def rotation(positions: jax.Array, config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [B, L, 1, head_dim / 2], of the rotary angles (RoFormer, arXiv 2104.09864, eq. 15)."""
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (i, i + D/2) of each head (Llama's "half-split" layout) in float32; x is [B, L, heads, D]."""
    cos, sin = cos_sin
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)

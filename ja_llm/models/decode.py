"""Generation's two steps as pure functions: read the prompts, then one token at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder


def init_cache(config: DecoderConfig, batch: int) -> Any:
    """An empty cache for `batch` rows of up to `config.max_length` tokens."""
    tokens = jnp.zeros((batch, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: Decoder(config).init(jax.random.key(0), tokens, decode=True)["cache"])
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill(config: DecoderConfig, params: Any, cache: Any, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Any]:
    """Read prompts.

    Args:
      config: the decoder's.
      params: its parameters.
      cache: from `init_cache`.
      tokens: int32 [B, L], prompts padded on the right with any id.
      lengths: int32 [B], tokens of each prompt; at least 1.

    Returns:
      (logits [B, V] of the token after each prompt, cache).
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logits, changed = _apply(config, params, cache, tokens, positions)
    return jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0], changed


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode_step(config: DecoderConfig, params: Any, cache: Any, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, Any]:
    """Read one token a row: tokens int32 [B] at positions int32 [B] -> (logits [B, V] of the next, cache)."""
    logits, changed = _apply(config, params, cache, tokens[:, None], positions[:, None])
    return logits[:, 0], changed


def _apply(config: DecoderConfig, params: Any, cache: Any, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, Any]:
    logits, changed = Decoder(config).apply(
        {"params": params, "cache": cache}, tokens, decoder_positions=positions, decode=True, mutable=["cache"]
    )
    return logits, changed["cache"]

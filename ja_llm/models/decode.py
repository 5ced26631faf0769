"""Decoding with a key-value cache: pure functions to put under `jax.jit` (config static).

    cache = init_cache(config, batch, length)
    cache, logits = prefill(config, params, cache, prompts, lengths)       # prompts padded on the right
    cache, logits = decode_step(config, params, cache, chosen)             # as often as there is room

Every row has its own length, so prompts of different lengths share a batch. A token's slot in the cache is its position.
Tokens beyond the cache's length are not stored: the caller stops a row before that (`cache_lengths` says where it is).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder

Cache = Any


def init_cache(config: DecoderConfig, batch: int, length: int) -> Cache:
    """An empty cache of `length` positions for `batch` rows; keys and values are of `config.dtype`.

    Raises:
      UsageError: the model was not made for that many positions.
    """
    if not 1 <= length <= config.max_length:
        raise UsageError(f"a cache of {length} positions was asked for; this model takes 1 to {config.max_length}.")
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    variables = jax.eval_shape(lambda t: Decoder(config).init(jax.random.key(0), t, t, decode=True), tokens)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables["cache"])


def cache_lengths(cache: Cache) -> jax.Array:
    """Tokens that each row holds: int32 [B]."""
    return cache["cache_slots"]["filled"].sum(axis=1)


def unscanned(config: DecoderConfig) -> DecoderConfig:
    """The same model with an array for each layer; `layers_apart` makes its parameters and caches."""
    return dataclasses.replace(config, scan_layers=False)


def layers_apart(config: DecoderConfig, tree: Any) -> Any:
    """Parameters, or a cache, of scanned layers as those of layers by themselves."""
    apart = {name: value for name, value in tree.items() if name != "layers"}
    for i in range(config.num_layers):
        apart[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], tree["layers"])
    return apart


def prefill(config: DecoderConfig, params: Any, cache: Cache, tokens: jax.Array, lengths: jax.Array) -> tuple[Cache, jax.Array]:
    """Append prompts (or further pieces of them) to the rows.

    Args:
      config: of the model.
      params: of the model.
      cache: from `init_cache` or an earlier call.
      tokens: int [B, n], padded on the right with anything.
      lengths: int [B], how many of the n are real; 0 leaves a row as it is.

    Returns:
      (cache, logits float32 [B, vocab] after each row's last real token; meaningless for a row of length 0).
    """
    real = (jnp.arange(tokens.shape[1])[None] < lengths[:, None]).astype(jnp.int32)
    module = Decoder(config)
    hidden: Any
    hidden, changed = module.apply(
        {"params": params, "cache": cache}, tokens, real, decode=True, mutable=["cache"], method="hidden"
    )
    # The head is computed for one position a row: for a whole prompt it would be the largest array of all.
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    logits: Any = module.apply({"params": params}, last, method="logits")
    return changed["cache"], logits[:, 0]


def decode_step(config: DecoderConfig, params: Any, cache: Cache, tokens: jax.Array) -> tuple[Cache, jax.Array]:
    """Append one token to each row.

    Args:
      config: of the model.
      params: of the model.
      cache: from `prefill` or an earlier step.
      tokens: int [B].

    Returns:
      (cache, logits float32 [B, vocab] for the token after it).
    """
    return prefill(config, params, cache, tokens[:, None], jnp.ones(tokens.shape, jnp.int32))

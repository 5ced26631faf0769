"""Self-attention with grouped key-value heads, and its cache."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ja_llm.attention import attention, for_pairs
from ja_llm.models.config import DecoderConfig
from ja_llm.models.layers import Linear, Norm, input_std, output_std
from ja_llm.models.rope import rotate
from ja_llm.sharding import constrain


class Context(NamedTuple):
    """What all blocks of one call share.

    Attributes:
      rotation: cos and sin, float32 [B, L, 1, kv / 2]; None: positions are learned.
      segment_ids: int32 [B, L], a pair (queries, keys), or None.
      positions: int32 [B, L], a pair (queries, keys), or None for indices.
      slots: int32 [B, L] cache slot that each token's keys and values go to (beyond the cache for padding); None: no cache.
      order: int32 [B, L] place of each token in its packed row, where rows are in another order (`ja_llm.attention.balance`); None: as
        they stand.
    """

    rotation: tuple[jax.Array, jax.Array] | None
    segment_ids: Any
    positions: Any
    slots: jax.Array | None
    order: jax.Array | None = None

    @property
    def real(self) -> jax.Array | None:
        """Bool [B, L], False for padding; None: there is none."""
        ids = self.segment_ids[0] if isinstance(self.segment_ids, tuple) else self.segment_ids
        return None if ids is None else ids != 0


def implementation(config: DecoderConfig) -> str | None:
    """As `ja_llm.attention.attention` takes it: None for the platform's own."""
    return None if config.attention == "default" else config.attention


class Attention(nn.Module):
    """Self-attention with grouped key-value heads, and its cache."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, window: jax.Array | None = None) -> jax.Array:
        """x is [B, L, embed]; `window` is the layer's own where layers differ."""
        c = self.config

        def project(name: str, heads: int, axis: str) -> jax.Array:
            shape, bias = (c.embed_dim, heads, c.head_dim), c.attention_bias != "none"
            return Linear(c, shape, ("embed", axis, "kv"), input_std(c), bias=bias, name=name)(x)

        q = self._placed("query_norm", project("query", c.num_heads, "heads"), "heads", context)
        k = self._placed("key_norm", project("key", c.num_kv_heads, "kv_heads"), "kv_heads", context)
        v = project("value", c.num_kv_heads, "kv_heads")
        q = constrain(q, ("batch", "length", "heads", "kv"))
        if context.slots is not None:
            k, v = self._through_cache(k, v, context.slots)
        name = implementation(c)
        out: Any = attention(
            q,
            k,
            v,
            segment_ids=context.segment_ids,
            positions=context.positions,
            causal=True,
            window=c.sliding_window if window is None else window,
            scale=None if c.query_scalar is None else c.query_scalar**-0.5,
            softcap=c.attention_softcap,
            # A cache, or a prefix that sees itself whole, is no packed row in order.
            implementation=for_pairs(name) if isinstance(context.positions, tuple) else name,
            order=context.order,
        )
        kernel, bias = (c.num_heads, c.head_dim, c.embed_dim), c.attention_bias == "qkvo"
        return Linear(c, kernel, ("heads", "kv", "embed"), output_std(c), contract=2, bias=bias, name="out")(out)

    def _placed(self, name: str, x: jax.Array, axis: str, context: Context) -> jax.Array:
        """Queries or keys [B, L, heads, kv], normed (of each head, or over all of them) and turned to their positions."""
        if self.config.qk_norm == "head":
            x = Norm(self.config, x.shape[-1:], ("kv",), name=name)(x)
        elif self.config.qk_norm == "width":
            x = Norm(self.config, x.shape[-2:], (axis, "kv"), name=name)(x)
        return x if context.rotation is None else rotate(x, context.rotation)

    def _through_cache(self, k: jax.Array, v: jax.Array, slots: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Write new keys and values [B, n, KV, D] to their slots; give the whole cache [B, length, KV, D]."""
        rows = jnp.arange(k.shape[0])[:, None]
        filled = self.has_variable("cache", "cached_key")
        both = []
        for name, new in (("cached_key", k), ("cached_value", v)):
            # At initialisation the tokens' own length is the cache's length, as t5x has it.
            cached = self.variable("cache", name, jnp.zeros, new.shape, new.dtype)
            if filled:
                cached.value = cached.value.at[rows, slots].set(new, mode="drop")
            both.append(constrain(cached.value, ("batch", None, "kv_heads", "kv")))
        return both[0], both[1]


class CacheSlots(nn.Module):
    """Which slots of the cache are filled: every row by itself, slot = position, padding on the right.

    Right padding, because then a token's slot is its position whatever stands beside it in the batch: nothing is shifted,
    and what a row gives does not depend on the longest prompt.
    """

    @nn.compact
    def __call__(self, new: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Take slots for tokens.

        Args:
          new: bool [B, n], False for padding, which gets no slot.

        Returns:
          (slots int32 [B, n], filled int32 [B, length]: 1 for each slot that holds a token, these included).
        """
        begun = self.has_variable("cache", "filled")
        filled = self.variable("cache", "filled", jnp.zeros, new.shape, jnp.int32)
        slots = filled.value.sum(axis=1, keepdims=True) + jnp.arange(new.shape[1])[None]
        slots = jnp.where(new, slots, filled.value.shape[1])  # beyond the end: dropped
        if begun:
            filled.value = filled.value.at[jnp.arange(new.shape[0])[:, None], slots].set(1, mode="drop")
        return slots, filled.value

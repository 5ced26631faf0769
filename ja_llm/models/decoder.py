"""The decoder: Llama's architecture as a small Flax linen module tree.

Shape, dtype, logical axes and initialiser of a parameter are declared once, at its `_parameter` call. Parameters are a plain
pytree; their logical axes are in the collection `params_axes`, as t5x has it. Logical axes: vocab, embed, heads, kv_heads,
kv (width of a head), mlp, layers; of activations also batch and length.

Parameter tree (with `scan_layers`; else `layers_0`, `layers_1`, ... without the leading axis):

    token_embedder/embedding             [vocab, embed]
    layers/pre_attention_norm/scale      [layers, embed]
    layers/self_attention/query/kernel   [layers, embed, heads, kv]
    layers/self_attention/key/kernel     [layers, embed, kv_heads, kv]     value/kernel alike
    layers/self_attention/out/kernel     [layers, heads, kv, embed]
    layers/pre_mlp_norm/scale            [layers, embed]
    layers/mlp/wi_0/kernel (gate)        [layers, embed, mlp]              wi_1/kernel (up) alike
    layers/mlp/wo/kernel                 [layers, mlp, embed]
    decoder_norm/scale                   [embed]
    logits_dense/kernel                  [embed, vocab]                    unless the head is tied
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.linen import partitioning

from ja_llm.attention import attention
from ja_llm.models.config import DecoderConfig
from ja_llm.models.matmul import product
from ja_llm.sharding import constrain

Shape = tuple[int, ...]


class Context(NamedTuple):
    """What all blocks of one call share.

    Attributes:
      rotation: cos and sin, float32 [B, L, 1, kv / 2].
      segment_ids: int32 [B, L], a pair (queries, keys), or None.
      positions: int32 [B, L], a pair (queries, keys), or None for indices.
      slots: int32 [B, L] cache slot that each token's keys and values go to (beyond the cache for padding); None: no cache.
    """

    rotation: tuple[jax.Array, jax.Array]
    segment_ids: Any
    positions: Any
    slots: jax.Array | None


def _parameter(
    module: nn.Module, config: DecoderConfig, name: str, shape: Shape, axes: tuple[str, ...], std: float | None
) -> jax.Array:
    """Declare a parameter and give it in the computation's dtype; `std` None starts at one, else normal(0, std)."""
    init = nn.initializers.ones if std is None else nn.initializers.normal(std)
    value = partitioning.param_with_axes(name, init, shape, jnp.dtype(config.param_dtype), axes=axes, module=module)
    return value.astype(config.dtype)


def input_std(config: DecoderConfig) -> float:
    """Standard deviation of embeddings and of weights that read the residual stream: sqrt(2 / (5 d)).

    Nguyen and Salazar 2019 (arXiv 1910.05895), "SmallInit"; 0.0456 at d = 192, 0.0099 at d = 4096.
    """
    return math.sqrt(2 / (5 * config.embed_dim))


def output_std(config: DecoderConfig) -> float:
    """Standard deviation of weights that write to the residual stream: 2 / (layers sqrt(d)), as in GPT-J (mesh-transformer-jax)."""
    return min(2 / (config.num_layers * math.sqrt(config.embed_dim)), input_std(config))


# Elementwise work is done again in the backward pass rather than kept: every array that is not written and read again counts
# for more than its arithmetic. In a scan nothing else would keep JAX from storing each intermediate of each layer.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(_recomputed, static_argnums=2)
def _normalise(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale


@_recomputed
def _gate(gate: jax.Array, up: jax.Array) -> jax.Array:
    return nn.silu(gate) * up


class RMSNorm(nn.Module):
    """x / rms(x) * scale; the mean square is taken in float32."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = _parameter(self, self.config, "scale", (self.config.embed_dim,), ("embed",), None)
        return _normalise(x, scale, self.config.norm_eps)


class Linear(nn.Module):
    """Product with a kernel whose leading `contract` dimensions meet the last ones of the input; no bias."""

    config: DecoderConfig
    shape: Shape
    axes: tuple[str, ...]
    std: float
    contract: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = _parameter(self, self.config, "kernel", self.shape, self.axes, self.std)
        return product(x, kernel, self.contract)


class Embed(nn.Module):
    """The token table."""

    config: DecoderConfig

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.embed_dim)
        self.embedding = _parameter(self, self.config, "embedding", shape, ("vocab", "embed"), input_std(self.config))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, L] -> [B, L, embed]; an id outside the table gives NaN, which the trainer stops at, and not another row."""
        return jnp.take(self.embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits of a tied head, float32 [B, L, vocab]."""
        return product(x, self.embedding.T, 1, "float32")


class Head(nn.Module):
    """A head of its own: logits float32 [B, L, vocab]."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.config.embed_dim, self.config.vocab_size)
        kernel = _parameter(self, self.config, "kernel", shape, ("embed", "vocab"), input_std(self.config))
        return product(x, kernel, 1, "float32")


def rotation(positions: jax.Array, width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [B, L, 1, width / 2], of the rotary angles (RoFormer, arXiv 2104.09864, eq. 15)."""
    frequencies = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (i, i + D/2) of each head (Llama's "half-split" layout) in float32; x is [B, L, heads, D]."""
    cos, sin = cos_sin
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Self-attention with grouped key-value heads, and its cache."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        c = self.config

        def project(name: str, heads: int, axis: str) -> jax.Array:
            return Linear(c, (c.embed_dim, heads, c.head_dim), ("embed", axis, "kv"), input_std(c), name=name)(x)

        q = rotate(project("query", c.num_heads, "heads"), context.rotation)
        k = rotate(project("key", c.num_kv_heads, "kv_heads"), context.rotation)
        v = project("value", c.num_kv_heads, "kv_heads")
        q = constrain(q, ("batch", "length", "heads", "kv"))
        if context.slots is not None:
            k, v = self._through_cache(k, v, context.slots)
        out = attention(
            q, k, v, segment_ids=context.segment_ids, positions=context.positions, causal=True, implementation=c.attention
        )
        kernel = (c.num_heads, c.head_dim, c.embed_dim)
        return Linear(c, kernel, ("heads", "kv", "embed"), output_std(c), contract=2, name="out")(out)

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


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202): wo(silu(wi_0 x) * wi_1 x)."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        up = functools.partial(Linear, c, (c.embed_dim, c.mlp_dim), ("embed", "mlp"), input_std(c))
        hidden = constrain(_gate(up(name="wi_0")(x), up(name="wi_1")(x)), ("batch", "length", "mlp"))
        return Linear(c, (c.mlp_dim, c.embed_dim), ("mlp", "embed"), output_std(c), name="wo")(hidden)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, None]:
        c = self.config
        x = x + Attention(c, name="self_attention")(RMSNorm(c, name="pre_attention_norm")(x), context)
        x = x + MLP(c, name="mlp")(RMSNorm(c, name="pre_mlp_norm")(x))
        return constrain(x, ("batch", "length", "embed")), None


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


_REMAT = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def _block(config: DecoderConfig) -> Any:
    """The block's class, under the remat policy and, with `scan_layers`, scanned over layers."""
    block: Any = Block
    if config.remat_policy != "none":
        # Inside a scan nothing can be merged with the forward pass; outside, XLA must be kept from it.
        block = nn.remat(block, policy=_REMAT[config.remat_policy], prevent_cse=not config.scan_layers)
    if config.scan_layers:
        block = partitioning.scan_with_axes(
            block,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,),
            length=config.num_layers,
            axis_name="layers",
        )
    return block


class Decoder(nn.Module):
    """Decoder-only language model, called as t5x calls one."""

    config: DecoderConfig

    def setup(self) -> None:
        c, block = self.config, _block(self.config)
        self.token_embedder = Embed(c)
        if c.scan_layers:
            self.layers = block(c)
        else:
            self.layers = [block(c) for _ in range(c.num_layers)]
        self.decoder_norm = RMSNorm(c)
        self.cache_slots = CacheSlots()
        if not c.tie_embeddings:
            self.logits_dense = Head(c)

    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        enable_dropout: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """Logits.

        Args:
          decoder_input_tokens: int [B, L].
          decoder_target_tokens: int [B, L]; part of t5x's call, not read.
          decoder_segment_ids: int [B, L], 0 = padding, from 1; None: each row is one document without padding.
          decoder_positions: int [B, L], restarting in each document; None: the index in the row.
          decoder_causal_attention: int [B, L]; tokens with 1 (a prefix of their document) see each other in both directions.
          enable_dropout: part of t5x's call; the architecture has no dropout.
          decode: append the tokens to the cache (collection "cache", mutable) instead; see `ja_llm.models.decode`.

        Returns:
          float32 [B, L, vocab]. What stands at padding has no meaning.
        """
        del decoder_target_tokens, enable_dropout
        hidden = self.hidden(decoder_input_tokens, decoder_segment_ids, decoder_positions, decoder_causal_attention, decode)
        return self.logits(hidden)

    def hidden(
        self,
        tokens: jax.Array,
        segment_ids: jax.Array | None = None,
        positions: jax.Array | None = None,
        causal_attention: jax.Array | None = None,
        decode: bool = False,
    ) -> jax.Array:
        """What the head reads: [B, L, embed] of the configuration's dtype; arguments as in `__call__`."""
        c = self.config
        seen: Any
        tokens = constrain(tokens, ("batch", "length"))
        if decode:
            real = jnp.ones(tokens.shape, bool) if segment_ids is None else segment_ids != 0
            slots, filled = self.cache_slots(real)
            seen = (slots, jnp.broadcast_to(jnp.arange(filled.shape[1])[None], filled.shape))
            context = Context(rotation(slots, c.head_dim, c.rope_theta), (real.astype(jnp.int32), filled), seen, slots)
        else:
            index = jnp.arange(tokens.shape[1])[None] if positions is None else positions
            seen = positions
            if causal_attention is not None:
                # A key of the prefix counts as one before everything in its document.
                seen = (jnp.broadcast_to(index, tokens.shape), jnp.where(causal_attention != 0, -1, index))
            context = Context(rotation(index, c.head_dim, c.rope_theta), segment_ids, seen, None)
        x = constrain(self.token_embedder(tokens), ("batch", "length", "embed"))
        if c.scan_layers:
            x, _ = self.layers(x, context)
        else:
            for layer in self.layers:
                x, _ = layer(x, context)
        return self.decoder_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The head: [B, L, embed] -> float32 [B, L, vocab]."""
        logits = self.token_embedder.attend(hidden) if self.config.tie_embeddings else self.logits_dense(hidden)
        return constrain(logits, ("batch", "length", "vocab"))


def _dummy(config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return tokens, tokens


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: DecoderConfig, rng: jax.Array) -> Any:
    """Random parameters of `config.param_dtype`; the same key gives the same values on any mesh."""
    return Decoder(config).init(rng, *_dummy(config))["params"]


@functools.lru_cache(maxsize=64)
def _abstract_variables(config: DecoderConfig) -> Any:
    return jax.eval_shape(lambda key: Decoder(config).init(key, *_dummy(config)), jax.random.key(0))


def abstract_params(config: DecoderConfig) -> Any:
    """The parameters' shapes and dtypes: a tree of ShapeDtypeStruct."""
    return jax.tree.map(lambda x: x, _abstract_variables(config)["params"])


def param_axes(config: DecoderConfig) -> Any:
    """Logical axis names: the parameters' tree with a tuple of names in place of each array."""
    names = unfreeze(partitioning.get_axis_names(_abstract_variables(config)["params_axes"]))
    return jax.tree.map(tuple, names, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))

"""The decoder: one small Flax linen module tree for every family; `DecoderConfig` says which parts a model has.

Parameters are a plain pytree; their logical axes are in the collection `params_axes`, as t5x has it. Logical axes: vocab,
embed, positions, heads, kv_heads, kv (width of a head), mlp, expert, layers; of activations also batch and length.

Parameter tree (with `scan_layers`; else `layers_0`, `layers_1`, ... without the leading axis):

    token_embedder/embedding             [vocab, embed]
    position_embedder/embedding          [positions, embed]                where positions are learned
    layers/pre_attention_norm/scale      [layers, embed]                   post_attention_norm by norm_placement; bias with "layer"
    layers/self_attention/query/kernel   [layers, embed, heads, kv]        bias [layers, heads, kv] by attention_bias
    layers/self_attention/key/kernel     [layers, embed, kv_heads, kv]     value/kernel alike
    layers/self_attention/query_norm/scale [layers, kv] or [layers, heads, kv]   by qk_norm; key_norm alike
    layers/self_attention/out/kernel     [layers, heads, kv, embed]
    layers/pre_mlp_norm/scale            [layers, embed]                   post_mlp_norm alike
    layers/mlp/wi_0/kernel (gate)        [layers, embed, mlp]              wi_1/kernel (up) alike; plain: wi/kernel; bias by mlp_bias
    layers/mlp/wo/kernel                 [layers, mlp, embed]
    layers/mlp/router/kernel             [layers, embed, expert]           with experts; wi_0, wi_1, wo then have expert after layers
    decoder_norm/scale                   [embed]
    logits_dense/kernel                  [embed, vocab]                    unless the head is tied
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.linen import partitioning

from ja_llm.attention.balance import order_over_mesh
from ja_llm.attention.flash import SAVED_NAMES
from ja_llm.errors import UsageError
from ja_llm.models.adapters import LORA
from ja_llm.models.config import DecoderConfig
from ja_llm.models.experts import BALANCE, Experts
from ja_llm.models.layers import MLP, PRODUCT, Embed, Head, Norm, PositionEmbed
from ja_llm.models.rope import rotation
from ja_llm.models.self_attention import Attention, CacheSlots, Context, implementation
from ja_llm.sharding import constrain

# Finite, so that the difference of two is no NaN; its exponential is 0 in every dtype beside any logit.
PADDING_LOGIT = -1e30


class Block(nn.Module):
    """One layer: attention, then the feed-forward block, each added to the residual stream.

    With the norm before it ("pre"), x + f(norm(x)); behind it ("post"), x + norm(f(x)); on both sides ("sandwich").
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, window: jax.Array | None = None) -> tuple[jax.Array, None]:
        """x is [B, L, embed]; `window` is an int scalar where the layers' windows differ."""
        c = self.config

        def norm(place: str, part: str, y: jax.Array) -> jax.Array:
            return Norm(c, name=f"{place}_{part}_norm")(y) if c.norm_placement in (place, "sandwich") else y

        y = Attention(c, name="self_attention")(norm("pre", "attention", x), context, window)
        x = x + norm("post", "attention", y)
        y = norm("pre", "mlp", x)
        y = MLP(c, name="mlp")(y) if c.num_experts == 1 else Experts(c, name="mlp")(y, context.real)
        x = x + norm("post", "mlp", y)
        return constrain(x, ("batch", "length", "embed")), None


# The kernels' output and log-sum-exp are what their backward pass reads; without them it runs the forward kernel again.
_KERNELS = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)
_REMAT = {
    # A policy does not see into `product`, which has a gradient of its own: its results are kept by name, the experts' by what they are.
    "minimal": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES, PRODUCT),
    ),
    "attention": _KERNELS,
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
            variable_axes={"params": 0, "cache": 0, BALANCE: 0, LORA: 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=config.num_layers,
            axis_name="layers",
        )
    return block


def _windows(config: DecoderConfig) -> jax.Array | None:
    """int32 [layers] where layers differ (a window that nothing exceeds for those that see everything), else None."""
    windows = config.layer_windows()
    if len(set(windows)) == 1:
        return None
    return jnp.array([np.iinfo(np.int32).max if window is None else window for window in windows], jnp.int32)


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
        if c.positions == "learned":
            self.position_embedder = PositionEmbed(c)
        self.decoder_norm = Norm(c)
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

        Raises:
          UsageError: a prefix that sees itself whole is asked of a model with a sliding window.
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
        order = None
        tokens = constrain(tokens, ("batch", "length"))
        if decode:
            real = jnp.ones(tokens.shape, bool) if segment_ids is None else segment_ids != 0
            slots, filled = self.cache_slots(real)
            seen = (slots, jnp.broadcast_to(jnp.arange(filled.shape[1])[None], filled.shape))
            index = jnp.where(real, slots, 0)
            context = Context(self._rotation(index), (real.astype(jnp.int32), filled), seen, slots)
        else:
            if causal_attention is None:
                order = order_over_mesh(implementation(c), segment_ids, tokens.shape[0], tokens.shape[1], c.sliding_window)
            index = jnp.arange(tokens.shape[1])[None] if positions is None else positions
            if order is not None:
                tokens, index, segment_ids = (_taken(x, order) for x in (tokens, index, segment_ids))
            seen = None if positions is None else index
            if causal_attention is not None:
                if c.sliding_window is not None:
                    raise UsageError("decoder_causal_attention is given to a model with a sliding window; leave it out.")
                # A key of the prefix counts as one before everything in its document.
                seen = (jnp.broadcast_to(index, tokens.shape), jnp.where(causal_attention != 0, -1, index))
            context = Context(self._rotation(index), segment_ids, seen, None, order)
        x = self.token_embedder(tokens)
        if c.scale_embeddings:
            x = x * jnp.asarray(c.embed_dim**0.5, x.dtype)
        if c.positions == "learned":
            x = x + self.position_embedder(index)
        x = constrain(x, ("batch", "length", "embed"))
        windows = _windows(c)
        if c.scan_layers:
            x, _ = self.layers(x, context, windows)
        else:
            for i, layer in enumerate(self.layers):
                x, _ = layer(x, context, None if windows is None else windows[i])
        x = self.decoder_norm(x)
        if order is not None:
            x = constrain(jnp.take_along_axis(x, jnp.argsort(order, axis=1)[..., None], axis=1), ("batch", "length", "embed"))
        return x

    def _rotation(self, index: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        return rotation(index, self.config) if self.config.positions == "rope" else None

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The head: [B, L, embed] -> float32 [B, L, vocab]; rows that pad the table get a constant, and so no gradient."""
        logits = self.token_embedder.attend(hidden) if self.config.tie_embeddings else self.logits_dense(hidden)
        if (cap := self.config.logits_softcap) is not None:
            logits = cap * jnp.tanh(logits / cap)
        if self.config.padding_ids:
            ids = self.config.vocab_size - self.config.padding_ids
            logits = jnp.where(jnp.arange(self.config.vocab_size) < ids, logits, PADDING_LOGIT)
        return constrain(logits, ("batch", "length", "vocab"))


def _taken(x: Any, order: jax.Array) -> Any:
    """An array [B or 1, L] (or None) in another order."""
    return None if x is None else jnp.take_along_axis(jnp.broadcast_to(x, order.shape), order, axis=1)


def head_kernel(config: DecoderConfig, params: Any) -> jax.Array:
    """The head as [embed, vocab] of the parameters' dtype, for `ja_llm.losses.linear_cross_entropy`."""
    return params["token_embedder"]["embedding"].T if config.tie_embeddings else params["logits_dense"]["kernel"]


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

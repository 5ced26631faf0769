"""The decoder: Llama's architecture as a small Flax linen tree, called as t5x calls its decoders.

Shape, dtype, logical axes and initialiser of each parameter are declared once, by `_param`. Parameters are a plain tree; the
axes stand in the collection `params_axes` (t5x's contract). The model knows nothing of meshes.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning

from ja_llm.attention import attention, document_mask
from ja_llm.models.config import DecoderConfig

_STD = 0.02
_REMAT = {"minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": jax.checkpoint_policies.nothing_saveable}


def _param(config: DecoderConfig, name: str, shape: tuple[int, ...], axes: tuple[str, ...], std: float | None = _STD) -> jax.Array:
    """A parameter of the running module, cast to the compute dtype; `std` None starts at one (norm scales)."""
    init = nn.initializers.ones if std is None else nn.initializers.normal(std)
    value = nn_partitioning.param_with_axes(name, init, shape, jnp.dtype(config.param_dtype), axes=axes)
    return jnp.asarray(value, jnp.dtype(config.dtype))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale (Zhang and Sennrich 2019), statistics in float32."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., E] -> [..., E]."""
        scale = _param(self.config, "scale", (x.shape[-1],), ("embed",), std=None)
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.config.norm_eps)
        return x32.astype(x.dtype) * scale


class Projection(nn.Module):
    """A matrix without bias, contracted over the leading `inputs` dimensions of its kernel."""

    config: DecoderConfig
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    inputs: int = 1
    std: float = _STD

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Contract x's last `inputs` dimensions with the kernel's first."""
        kernel = _param(self.config, "kernel", self.shape, self.axes, self.std)
        contract = tuple(range(x.ndim - self.inputs, x.ndim)), tuple(range(self.inputs))
        return jax.lax.dot_general(x, kernel, (contract, ((), ())))


def rotary(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (Su et al. 2021), pairing dimension i with i + D/2 as Hugging Face's Llama does.

    Args:
      x: [B, L, H, D].
      positions: int [B, L].
      theta: base of the frequencies.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions: jax.Array, decode: bool) -> jax.Array:
        """[B, L, E] -> [B, L, E]."""
        c = self.config
        heads, kv_heads = (c.embed_dim, c.num_heads, c.head_dim), (c.embed_dim, c.num_kv_heads, c.head_dim)
        q = Projection(c, heads, ("embed", "heads", "kv"), name="query")(x)
        k = Projection(c, kv_heads, ("embed", "kv_heads", "kv"), name="key")(x)
        v = Projection(c, kv_heads, ("embed", "kv_heads", "kv"), name="value")(x)
        q, k = rotary(q, positions, c.rope_theta), rotary(k, positions, c.rope_theta)
        if decode:
            k, v, mask = self._cached(k, v, positions)
        out = attention(q, k, v, mask=mask, implementation=c.attention)
        out_shape = (c.num_heads, c.head_dim, c.embed_dim)
        return Projection(c, out_shape, ("heads", "kv", "embed"), inputs=2, std=_out_std(c), name="out")(out)

    def _cached(self, k: jax.Array, v: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Write keys and values at their positions; slot i holds position i, so a query at p may see slots 0 to p.

        Prompts are padded on the right: what padding wrote is overwritten when generation gets there, and hidden until then.
        """
        shape = (k.shape[0], self.config.max_length, *k.shape[2:])
        keys = self.variable("cache", "key", jnp.zeros, shape, k.dtype)
        values = self.variable("cache", "value", jnp.zeros, shape, v.dtype)
        rows = jnp.arange(k.shape[0])[:, None]
        keys.value = keys.value.at[rows, positions].set(k)
        values.value = values.value.at[rows, positions].set(v)
        mask = jnp.arange(keys.value.shape[1])[None, None, :] <= positions[:, :, None]
        return keys.value, values.value, mask


class MLP(nn.Module):
    """Gated MLP: down(silu(gate(x)) * up(x)) (Shazeer 2020, SwiGLU)."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, E] -> [B, L, E]."""
        c = self.config
        gate = Projection(c, (c.embed_dim, c.mlp_dim), ("embed", "mlp"), name="gate")(x)
        up = Projection(c, (c.embed_dim, c.mlp_dim), ("embed", "mlp"), name="up")(x)
        return Projection(c, (c.mlp_dim, c.embed_dim), ("mlp", "embed"), std=_out_std(c), name="down")(nn.silu(gate) * up)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    config: DecoderConfig
    decode: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, positions: jax.Array) -> tuple[jax.Array, None]:
        """[B, L, E] -> ([B, L, E], None): the pair is what a scan wants."""
        c = self.config
        x = x + Attention(c, name="attention")(RMSNorm(c, name="attention_norm")(x), mask, positions, self.decode)
        return x + MLP(c, name="mlp")(RMSNorm(c, name="mlp_norm")(x)), None


class Decoder(nn.Module):
    """Tokens to logits."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        enable_dropout: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """Logits of the next token.

        Args:
          decoder_input_tokens: int [B, L].
          decoder_target_tokens: not read; t5x passes it.
          decoder_segment_ids: int [B, L], 0 for padding; one document when None.
          decoder_positions: int [B, L]; 0 ... L-1 when None.
          decoder_causal_attention: must be None, there are no prefixes that see both ways.
          enable_dropout: not read, there is none.
          decode: keep keys and values in the collection "cache" (see `models/decode.py`).

        Returns:
          float32 [B, L, vocab_size].

        Raises:
          ValueError: decoder_causal_attention is given.
        """
        del decoder_target_tokens, enable_dropout
        if decoder_causal_attention is not None:
            raise ValueError("this decoder is causal everywhere; decoder_causal_attention must be None.")
        c, tokens = self.config, decoder_input_tokens
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if decoder_positions is None else decoder_positions
        segments = jnp.ones_like(tokens) if decoder_segment_ids is None else decoder_segment_ids
        table = Embedding(c, name="token_embedder")()
        x = _constrain(table[tokens])
        mask = document_mask(segments, positions)
        x = self._layers(x, mask, positions, decode)
        x = RMSNorm(c, name="final_norm")(x)
        if c.tie_embeddings:
            logits = jax.lax.dot_general(x, table, (((2,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        else:
            logits = Projection(c, (c.embed_dim, c.vocab_size), ("embed", "vocab"), name="logits_dense")(x)
        return logits.astype(jnp.float32)

    def _layers(self, x: jax.Array, mask: jax.Array, positions: jax.Array, decode: bool) -> jax.Array:
        """All layers; parameters are stacked on axis 0 whether the loop is scanned or unrolled."""
        c = self.config
        layer = Layer
        if c.remat_policy != "none" and not decode:
            layer = nn_partitioning.remat(Layer, policy=_REMAT[c.remat_policy], prevent_cse=not c.scan_layers)
        scanned = nn_partitioning.scan_with_axes(
            layer,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.num_layers,
            axis_name="layers",
            axes_collections=("params",),
            unroll=1 if c.scan_layers else c.num_layers,
        )
        x, _ = scanned(c, decode, name="layers")(x, mask, positions)
        return x


class Embedding(nn.Module):
    """The embedding table, [vocab, embed]."""

    config: DecoderConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """The table in the compute dtype."""
        return _param(self.config, "embedding", (self.config.vocab_size, self.config.embed_dim), ("vocab", "embed"))


def _constrain(x: jax.Array) -> jax.Array:
    return nn_partitioning.with_sharding_constraint(x, ("batch", "length", "embed"))


def _out_std(config: DecoderConfig) -> float:
    """Projections into the residual stream start smaller, by sqrt(2 * layers) (Radford et al. 2019, section 2.3)."""
    return _STD / (2 * config.num_layers) ** 0.5


def _variables(config: DecoderConfig, rng: jax.Array) -> Any:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Decoder(config).init(rng, tokens)


def init_params(config: DecoderConfig, rng: jax.Array) -> Any:
    """Random parameters: a plain tree of arrays."""
    return _variables(config, rng)["params"]


@functools.lru_cache(maxsize=32)
def _abstract(config: DecoderConfig) -> Any:
    return jax.eval_shape(lambda: _variables(config, jax.random.key(0)))


def abstract_params(config: DecoderConfig) -> Any:
    """The same tree as `init_params`, of jax.ShapeDtypeStruct."""
    return _abstract(config)["params"]


def param_axes(config: DecoderConfig) -> Any:
    """The same tree, of tuples of logical axis names."""
    names = nn_partitioning.get_axis_names(_abstract(config)["params_axes"])
    return flax.core.unfreeze(jax.tree.map(tuple, names, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)))

"""The decoder's small parts: parameters, norms, products, tables, the feed-forward block.

Shape, dtype, logical axes and initialiser of a parameter are declared once, at its `parameter` call.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name

from ja_llm.models.adapters import adapted
from ja_llm.models.config import DecoderConfig
from ja_llm.models.matmul import product
from ja_llm.sharding import constrain

Shape = tuple[int, ...]
Initializer = Any  # (key, shape, dtype) -> array
PRODUCT = "product"  # the name under which a remat policy knows the results of `Linear`'s products


def parameter(
    module: nn.Module, config: DecoderConfig, name: str, shape: Shape, axes: tuple[str, ...], init: Initializer
) -> jax.Array:
    """Declare a parameter and give it in the computation's dtype."""
    value = partitioning.param_with_axes(name, init, shape, jnp.dtype(config.param_dtype), axes=axes, module=module)
    return adapted(module, name, value).astype(config.dtype)


def input_std(config: DecoderConfig) -> float:
    """Standard deviation of embeddings and of weights that read the residual stream: `init_std`, or sqrt(2 / (5 d)).

    The latter is "SmallInit" of Nguyen and Salazar 2019 (arXiv 1910.05895); 0.0456 at d = 192, 0.0099 at d = 4096.
    """
    return math.sqrt(2 / (5 * config.embed_dim)) if config.init_std is None else config.init_std


def output_std(config: DecoderConfig) -> float:
    """Standard deviation of weights that write to the residual stream: 2 / (layers sqrt(d)), as in GPT-J (mesh-transformer-jax).

    With `init_std` that one, or where it is scaled with the depth that one / sqrt(2 layers) (Radford et al. 2019, section 2.3).
    """
    if config.init_std is not None:
        return config.init_std / math.sqrt(2 * config.num_layers if config.init_depth_scaled else 1)
    return min(2 / (config.num_layers * math.sqrt(config.embed_dim)), input_std(config))


def normal(config: DecoderConfig, std: float) -> Initializer:
    """What matrices and tables are drawn by: N(0, std^2), cut off at `init_cut` times std where there is one.

    `std` is of the whole distribution, as in PyTorch's trunc_normal_; what is left has a smaller one (.987 of it at 3).
    """
    if config.init_cut is None:
        return nn.initializers.normal(std)
    return nn.initializers.truncated_normal(std, lower=-config.init_cut, upper=config.init_cut)


# Elementwise work is done again in the backward pass rather than kept: every array that is not written and read again counts
# for more than its arithmetic. In a scan nothing else would keep JAX from storing each intermediate of each layer.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(_recomputed, static_argnums=(2, 3))
def _rms_norm(x: jax.Array, scale: jax.Array, eps: float, unit_offset: bool) -> jax.Array:
    """Over as many last dimensions as `scale` has."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=tuple(range(-scale.ndim, 0)), keepdims=True) + eps)
    if unit_offset:
        return (wide * (1 + scale.astype(jnp.float32))).astype(x.dtype)
    return wide.astype(x.dtype) * scale


@functools.partial(_recomputed, static_argnums=3)
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale + bias


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
}


@functools.partial(_recomputed, static_argnums=1)
def _activate(x: jax.Array, activation: str) -> jax.Array:
    return ACTIVATIONS[activation](x)


@functools.partial(_recomputed, static_argnums=2)
def gated(gate: jax.Array, up: jax.Array, activation: str) -> jax.Array:
    """activation(gate) * up."""
    return ACTIVATIONS[activation](gate) * up


class Norm(nn.Module):
    """The configured norm over the last dimensions; means are taken in float32.

    "rms" is x / rms(x) * scale (arXiv 1910.07467, eq. 4); "rms_unit_offset" has 1 + scale in its place, scale from zero
    (Gemma); "layer" is LayerNorm with scale and bias (arXiv 1607.06450, eq. 4).
    """

    config: DecoderConfig
    shape: Shape | None = None  # (embed,) when None
    axes: tuple[str, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, shape = self.config, self.shape or (self.config.embed_dim,)
        offset = c.norm == "rms_unit_offset"
        scale = parameter(self, c, "scale", shape, self.axes, nn.initializers.zeros if offset else nn.initializers.ones)
        if c.norm == "layer":
            bias = parameter(self, c, "bias", shape, self.axes, nn.initializers.zeros)
            return _layer_norm(x, scale, bias, c.norm_eps)
        return _rms_norm(x, scale, c.norm_eps, offset)


class Linear(nn.Module):
    """Product with a kernel whose leading `contract` dimensions meet the last ones of the input, and a bias if there is one."""

    config: DecoderConfig
    shape: Shape
    axes: tuple[str, ...]
    std: float
    contract: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = parameter(self, self.config, "kernel", self.shape, self.axes, normal(self.config, self.std))
        out = checkpoint_name(product(x, kernel, self.contract), PRODUCT)
        if self.bias:
            n = self.contract
            out = out + parameter(self, self.config, "bias", self.shape[n:], self.axes[n:], nn.initializers.zeros)
        return out


class Embed(nn.Module):
    """The token table."""

    config: DecoderConfig

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.embed_dim)
        init = normal(self.config, input_std(self.config))
        self.embedding = parameter(self, self.config, "embedding", shape, ("vocab", "embed"), init)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, L] -> [B, L, embed]; an id outside the table gives NaN, which the trainer stops at, and not another row."""
        return jnp.take(self.embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits of a tied head, float32 [B, L, vocab]."""
        return product(x, self.embedding.T, 1, "float32")


class PositionEmbed(nn.Module):
    """Learned positions, added to the tokens' rows."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, positions: jax.Array) -> jax.Array:
        """int [B, L] -> [B, L, embed]; a position that the model was not made for gives NaN."""
        c = self.config
        init = normal(c, input_std(c))
        table = parameter(self, c, "embedding", (c.max_length, c.embed_dim), ("positions", "embed"), init)
        return jnp.take(table, positions, axis=0, mode="fill", fill_value=jnp.nan)


class Head(nn.Module):
    """A head of its own: logits float32 [B, L, vocab]."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.config.embed_dim, self.config.vocab_size)
        init = normal(self.config, input_std(self.config))
        kernel = parameter(self, self.config, "kernel", shape, ("embed", "vocab"), init)
        return product(x, kernel, 1, "float32")


class MLP(nn.Module):
    """The feed-forward block: gated, wo(activation(wi_0 x) * wi_1 x) (arXiv 2002.05202), or plain, wo(activation(wi x))."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        up = functools.partial(Linear, c, (c.embed_dim, c.mlp_dim), ("embed", "mlp"), input_std(c), bias=c.mlp_bias)
        if c.gated_mlp:
            hidden = gated(up(name="wi_0")(x), up(name="wi_1")(x), c.activation)
        else:
            hidden = _activate(up(name="wi")(x), c.activation)
        hidden = constrain(hidden, ("batch", "length", "mlp"))
        return Linear(c, (c.mlp_dim, c.embed_dim), ("mlp", "embed"), output_std(c), bias=c.mlp_bias, name="wo")(hidden)

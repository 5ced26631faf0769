"""A mixture of experts: a router sends each token through a few of a layer's feed-forward blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ja_llm.losses.balance import balance_loss
from ja_llm.models.config import DecoderConfig
from ja_llm.models.layers import Linear, gated, input_std, output_std, parameter
from ja_llm.sharding import constrain

BALANCE = "balance"  # the collection that a layer's balance loss is sown into, float32 [B]


class Experts(nn.Module):
    """Sum over a token's experts of weight * expert(token); the weights are its largest probabilities, made to sum to one.

    Mixtral (arXiv 2401.04088, section 2.1): a softmax over the chosen logits is the same. No token is dropped and no expert
    has a capacity: every expert computes every token, and a token's weight for an expert that it did not choose is 0. So
    a row's result depends on that row alone, and the experts are spread over the mesh axis `expert` as matrix products; the
    price is num_experts / experts_per_token times the arithmetic of the chosen ones.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        """[B, L, embed] -> the same; `real` is bool [B, L], False for padding, which the balance loss does not count."""
        c = self.config
        logits = Linear(c, (c.embed_dim, c.num_experts), ("embed", "expert"), input_std(c), name="router")(x)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        largest, chosen = jax.lax.top_k(probabilities, c.experts_per_token)
        hits = jax.nn.one_hot(chosen, c.num_experts, dtype=jnp.float32)
        self.sow(BALANCE, "loss", balance_loss(probabilities, hits.sum(axis=-2), real))
        share = largest / largest.sum(axis=-1, keepdims=True)
        weights = jnp.einsum("blk,blke->ebl", share, hits).astype(x.dtype)
        return self._blocks(x, weights)

    def _blocks(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        c = self.config
        into, out = (c.num_experts, c.embed_dim, c.mlp_dim), (c.num_experts, c.mlp_dim, c.embed_dim)
        gate = _Kernel(c, into, ("expert", "embed", "mlp"), input_std(c), name="wi_0")()
        up = _Kernel(c, into, ("expert", "embed", "mlp"), input_std(c), name="wi_1")()
        back = _Kernel(c, out, ("expert", "mlp", "embed"), output_std(c), name="wo")()
        hidden = gated(jnp.einsum("bld,edf->eblf", x, gate), jnp.einsum("bld,edf->eblf", x, up), c.activation)
        hidden = constrain(hidden * weights[..., None], ("expert", "batch", "length", "mlp"))
        return jnp.einsum("eblf,efd->bld", hidden, back)


class _Kernel(nn.Module):
    """A kernel of every expert, under the name that a dense block's has."""

    config: DecoderConfig
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float

    @nn.compact
    def __call__(self) -> jax.Array:
        return parameter(self, self.config, "kernel", self.shape, self.axes, nn.initializers.normal(self.std))


def row_balance(sown: Any) -> jax.Array:
    """The balance loss of each row, the mean over layers: float32 [B].

    Args:
      sown: the collection `BALANCE` after a forward pass: float32 [layers, B], or [B] for each layer that is by itself.
    """
    layers = [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(sown)]
    return jnp.concatenate(layers).mean(axis=0)

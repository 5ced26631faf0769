"""A mixture of experts: a router sends each token through a few of a layer's feed-forward blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ja_llm.losses.balance import balance_loss
from ja_llm.models.config import DecoderConfig
from ja_llm.models.dispatch import Kernels, expert_sums
from ja_llm.models.layers import PRODUCT, Linear, input_std, normal, output_std, parameter

BALANCE = "balance"  # the collection that a layer's balance loss is sown into, float32 [B]


class Experts(nn.Module):
    """Sum over a token's experts of weight * expert(token); the weights are its largest probabilities, made to sum to one.

    Mixtral (arXiv 2401.04088, section 2.1): a softmax over the chosen logits is the same. No token is dropped and no expert
    has a capacity: `ja_llm.models.dispatch` computes each token by the experts that it chose, however many chose the same.
    So a row's result depends on that row alone.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        """[B, L, embed] -> the same; `real` is bool [B, L], False for padding, which the balance loss does not count."""
        c = self.config
        logits = Linear(c, (c.embed_dim, c.num_experts), ("embed", "expert"), input_std(c), name="router")(x)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        largest, chosen = jax.lax.top_k(probabilities, c.experts_per_token)
        # Rows that a remat policy keeps stand in the order of this choice, which must not be made anew.
        chosen = checkpoint_name(chosen, PRODUCT)
        hits = jax.nn.one_hot(chosen, c.num_experts, dtype=jnp.float32)
        self.sow(BALANCE, "loss", balance_loss(probabilities, hits.sum(axis=-2), real))
        share = (largest / largest.sum(axis=-1, keepdims=True)).astype(x.dtype)
        return checkpoint_name(self._blocks(x, chosen, share), PRODUCT)

    def _blocks(self, x: jax.Array, chosen: jax.Array, share: jax.Array) -> jax.Array:
        c = self.config
        into, out = (c.num_experts, c.embed_dim, c.mlp_dim), (c.num_experts, c.mlp_dim, c.embed_dim)
        gate = _Kernel(c, into, ("expert", "embed", "mlp"), input_std(c), name="wi_0")()
        up = _Kernel(c, into, ("expert", "embed", "mlp"), input_std(c), name="wi_1")()
        back = _Kernel(c, out, ("expert", "mlp", "embed"), output_std(c), name="wo")()
        return expert_sums(x, chosen, share, Kernels(gate, up, back), c.activation)


class _Kernel(nn.Module):
    """A kernel of every expert, under the name that a dense block's has."""

    config: DecoderConfig
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float

    @nn.compact
    def __call__(self) -> jax.Array:
        return parameter(self, self.config, "kernel", self.shape, self.axes, normal(self.config, self.std))


def row_balance(sown: Any) -> jax.Array:
    """The balance loss of each row, the mean over layers: float32 [B].

    Args:
      sown: the collection `BALANCE` after a forward pass: float32 [layers, B], or [B] for each layer that is by itself.
    """
    layers = [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(sown)]
    return jnp.concatenate(layers).mean(axis=0)

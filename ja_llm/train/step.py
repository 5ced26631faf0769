"""One optimizer step: gradients of a sum over the global batch, divided once by the global weight."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ja_llm.losses.cross_entropy import cross_entropy
from ja_llm.losses.linear_cross_entropy import linear_cross_entropy
from ja_llm.models.decoder import head_kernel
from ja_llm.models.experts import BALANCE, row_balance
from ja_llm.train.learning_rates import Schedule

Batch = Mapping[str, jax.Array]
LOSSES = ("linear", "logits")


class TrainState(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: parameter pytree.
      optimizer: optax state.
    """

    step: jax.Array
    params: Any
    optimizer: Any


def loss_sums(
    module: nn.Module, params: Any, batch: Batch, z_loss: float, balance_loss: float = 0.0, loss: str = "linear"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sums over a batch `[B, L]`, float32 scalars.

    Args:
      module: a `ja_llm.models.decoder.Decoder`.
      params: its parameters.
      batch: see `ja_llm.data.batches`.
      z_loss: coefficient of the squared log-normaliser.
      balance_loss: coefficient of the experts' load-balance loss.
      loss: one of LOSSES. "linear" never holds the logits; "logits" makes them all: the same sums but for rounding.

    Returns:
      (loss with z and balance terms, {"loss_sum", "z_loss_sum", "weight_sum"}, with experts also "balance_loss_sum"). A
      row's balance loss weighs as much as its targets do, so that the sum divided by the weights is their mean.
    """
    tokens, targets, segments, positions, weights = (
        batch[f"decoder_{name}"] for name in ("input_tokens", "target_tokens", "segment_ids", "positions", "loss_weights")
    )
    config, sown, out = _config(module), None, cast(Any, None)
    arguments = (tokens, segments, positions) if loss == "linear" else (tokens, targets, segments, positions)
    apply = functools.partial(module.apply, {"params": params}, *arguments, method="hidden" if loss == "linear" else None)
    if config.num_experts > 1:
        out, sown = apply(mutable=[BALANCE])
    else:
        out = apply()
    if loss == "linear":
        cap, head = config.logits_softcap, head_kernel(config, params)
        found = linear_cross_entropy(out, head, targets, weights, z_loss=z_loss, softcap=cap, padding_rows=config.padding_ids)
        total, z_sum, weight = found[:3]
    else:
        total, z_sum, weight = cross_entropy(out, targets, weights, z_loss)
    sums = {"loss_sum": total - z_sum, "z_loss_sum": z_sum, "weight_sum": weight}
    if sown is not None:
        sums["balance_loss_sum"] = balance_loss * (row_balance(sown) * weights.sum(axis=1)).sum()
        total += sums["balance_loss_sum"]
    return total, sums


def _config(module: nn.Module) -> Any:
    return getattr(module, "config")  # noqa: B009 (nn.Module has no such attribute for a type checker)


def accumulate(
    module: nn.Module,
    params: Any,
    batch: Batch,
    z_loss: float,
    microbatches: int,
    balance_loss: float = 0.0,
    loss: str = "linear",
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient of the batch's summed loss, and the sums, computed in `microbatches` equal parts.

    The sums are added in float32 and divided by nobody here: a mean of microbatch means would weigh a token by how full its
    microbatch happens to be.
    """

    def grad(p: Any, b: Batch) -> tuple[Any, dict[str, jax.Array]]:
        grads, sums = jax.grad(lambda q: loss_sums(module, q, b, z_loss, balance_loss, loss), has_aux=True)(p)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), sums

    if microbatches == 1:
        return grad(params, batch)

    def split(x: jax.Array) -> jax.Array:
        # Row i goes to microbatch i % M, so that each microbatch keeps rows of every data shard.
        return x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, part):
        return jax.tree.map(jnp.add, carry, grad(params, part)), None

    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    names = ("loss_sum", "z_loss_sum", "weight_sum", *(("balance_loss_sum",) if _config(module).num_experts > 1 else ()))
    sums = dict.fromkeys(names, jnp.zeros((), jnp.float32))
    (grads, sums), _ = jax.lax.scan(add, (zero, sums), {k: split(v) for k, v in batch.items()})
    return grads, sums


def init_optimizer(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Optimizer state with float32 moments, whatever the parameters' dtype."""
    return optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))


def make_train_step(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    microbatches: int = 1,
    z_loss: float = 0.0,
    balance_loss: float = 0.0,
    loss: str = "linear",
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Build the pure step function (state, batch) -> (state, metrics).

    Metrics (float32 scalars): loss (nats per weighted target), z_loss, gradient_norm (before clipping), learning_rate,
    with experts balance_loss (times its coefficient), target_tokens (sum of weights), finite (1.0, or 0.0 where loss or gradient was not finite: then the state is left as it was).
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        grads, sums = accumulate(module, state.params, batch, z_loss, microbatches, balance_loss, loss)
        weight = jnp.maximum(sums["weight_sum"], 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.global_norm(grads)
        mean_loss = sums["loss_sum"] / weight
        finite = jnp.isfinite(mean_loss) & jnp.isfinite(norm)

        rate = schedule(state.step)
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), state.params, updates)
        new = TrainState(state.step + 1, params, moments)
        state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        metrics = {
            "loss": mean_loss,
            "z_loss": sums["z_loss_sum"] / weight,
            **({"balance_loss": sums["balance_loss_sum"] / weight} if "balance_loss_sum" in sums else {}),
            "gradient_norm": norm,
            "learning_rate": rate,
            "target_tokens": sums["weight_sum"],
            "finite": finite.astype(jnp.float32),
        }
        return state, metrics

    return train_step

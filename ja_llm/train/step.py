"""One optimizer step: gradients of a sum over the global batch, divided once by the global weight."""

import dataclasses
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
from ja_llm.train.groups import Group, factors
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.lora import Adapted, Lora, weights_of
from ja_llm.train.settings import name_of
from ja_llm.train.spikes import SpikeDetector

Batch = Mapping[str, jax.Array]
Loss = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]
LossSums = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]  # as `loss_sums`
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
        cap, head = config.logits_softcap, head_kernel(config, weights_of(module, params))
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


def accumulate(loss: Loss, params: Any, batch: Batch, microbatches: int) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient of the batch's summed `loss` (parameters, batch -> what `loss_sums` gives), and the sums, computed in `microbatches` equal parts.

    The sums are added in float32 and divided by nobody here: a mean of microbatch means would weigh a token by how full its
    microbatch happens to be.
    """

    def grad(p: Any, b: Batch) -> tuple[Any, dict[str, jax.Array]]:
        grads, sums = jax.grad(loss, has_aux=True)(p, b)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), sums

    if microbatches == 1:
        return grad(params, batch)

    def split(x: jax.Array) -> jax.Array:
        # Row i goes to microbatch i % M, so that each microbatch keeps rows of every data shard.
        return x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, part):
        return jax.tree.map(jnp.add, carry, grad(params, part)), None

    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    parts = {k: split(v) for k, v in batch.items()}
    names = jax.eval_shape(loss, params, {k: v[0] for k, v in parts.items()})[1]
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), names)
    (grads, sums), _ = jax.lax.scan(add, (zero, sums), parts)
    return grads, sums


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does beside the plain one; each costs nothing where it is left out.

    Attributes:
      microbatches: parts that a batch is split into.
      z_loss: coefficient of the squared log-normaliser.
      balance_loss: coefficient of the experts' load-balance loss.
      loss: one of LOSSES, see `loss_sums`.
      groups: parameters with another rate, or frozen ones (`ja_llm.train.groups`).
      ema_decay: keep an exponential moving average of the parameters: average = decay * average + (1 - decay) * parameters.
      spikes: leaves the state of a step that is a spike as it was, but for the step's number (`ja_llm.train.spikes`).
      log_norms: norms of gradient, update and parameters of each part of the model among the metrics.
      lora: what learns are adapters, and the model is a further argument of the step (`ja_llm.train.lora`).
    """

    microbatches: int = 1
    z_loss: float = 0.0
    balance_loss: float = 0.0
    loss: str = "linear"
    groups: tuple[Group, ...] = ()
    ema_decay: float | None = None
    spikes: SpikeDetector | None = None
    log_norms: bool = False
    lora: Lora | None = None


PLAIN = StepOptions()

# Entries of the optimizer's state beside the chain's links; a checkpoint holds them under these names.
EMA, SPIKES = "ema", "spikes"


def init_optimizer(optimizer: optax.GradientTransformation, params: Any, options: StepOptions = PLAIN) -> Any:
    """Optimizer state with float32 moments, whatever the parameters' dtype, and what `options` keeps beside them."""
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state = optimizer.init(wide)
    if options.ema_decay is not None:
        state = {**state, EMA: wide}
    if options.spikes is not None:
        state = {**state, SPIKES: options.spikes.start()}
    return state


def make_train_step(
    sums_of: LossSums,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    options: StepOptions = PLAIN,
    *,
    axes: Any = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Build the pure step function (state, batch) -> (state, metrics), with LoRA (state, batch, frozen model).

    Metrics (float32 scalars): loss (nats per weighted target), z_loss, gradient_norm (before clipping), learning_rate,
    with experts balance_loss (times its coefficient), target_tokens (sum of weights), finite (1.0, or 0.0 where loss or gradient
    was not finite: then the state is left as it was), spike where there is a detector, and with `log_norms` gradient_norm/PART,
    update_norm/PART, parameter_norm/PART.

    Args:
      sums_of: what is made smaller, `loss_sums`.
      module: the decoder.
      optimizer: the update direction.
      schedule: step -> rate.
      options: see `StepOptions`.
      axes: the parameters' logical axes; groups that begin at a row ask for them.
    """

    def train_step(state: TrainState, batch: Batch, base: Any = None) -> tuple[TrainState, dict[str, jax.Array]]:
        # Loss and gradient, divided once by the weight of the whole batch.
        learner: Any = module if options.lora is None else Adapted(module, base, options.lora)

        def loss(params: Any, part: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            return sums_of(learner, params, part, options.z_loss, options.balance_loss, options.loss)

        grads, sums = accumulate(loss, state.params, batch, options.microbatches)
        weight = jnp.maximum(sums["weight_sum"], 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        scale = factors(options.groups, state.params, axes, state.step) if options.groups else None
        if scale is not None:  # what is frozen counts for nothing in the norm that clipping goes by
            grads = jax.tree.map(lambda g, f: jnp.where(f == 0, 0.0, g), grads, scale)
        norm = optax.global_norm(grads)
        mean_loss = sums["loss_sum"] / weight
        finite = jnp.isfinite(mean_loss) & jnp.isfinite(norm)

        # Update.
        rate = schedule(state.step)
        links = {name: value for name, value in state.optimizer.items() if name not in (EMA, SPIKES)}
        updates, moments = optimizer.update(grads, links, state.params)
        if scale is not None:
            updates = jax.tree.map(jnp.multiply, updates, scale)
        params = jax.tree.map(lambda p, u: (p - rate * u).astype(p.dtype), state.params, updates)
        if options.ema_decay is not None:
            step = 1 - options.ema_decay
            moments = {**moments, EMA: jax.tree.map(lambda a, p: a + step * (p - a), state.optimizer[EMA], params)}
        new = TrainState(state.step + 1, params, moments)

        # A step that is not finite, or a spike, leaves everything as it was.
        if options.spikes is None:
            state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        else:
            spike, history = options.spikes.look(state.optimizer[SPIKES], mean_loss, norm, finite)
            kept = {name: value for name, value in state.optimizer.items() if name != SPIKES}
            params, moments = jax.tree.map(
                lambda a, b: jnp.where(finite & ~spike, a, b), (new.params, dict(new.optimizer)), (state.params, kept)
            )
            state = TrainState(state.step + finite.astype(jnp.int32), params, {**moments, SPIKES: history})
        metrics = {
            "loss": mean_loss,
            "z_loss": sums["z_loss_sum"] / weight,
            **({"balance_loss": sums["balance_loss_sum"] / weight} if "balance_loss_sum" in sums else {}),
            "gradient_norm": norm,
            "learning_rate": rate,
            "target_tokens": sums["weight_sum"],
            "finite": finite.astype(jnp.float32),
            **({} if options.spikes is None else {"spike": spike.astype(jnp.float32)}),
        }
        if options.log_norms:
            metrics |= norms_of_parts("gradient_norm", grads)
            metrics |= norms_of_parts("update_norm", jax.tree.map(lambda u: rate * u, updates))
            metrics |= norms_of_parts("parameter_norm", state.params)
        return state, metrics

    return train_step


def norms_of_parts(name: str, tree: Any) -> dict[str, jax.Array]:
    """Norms of a tree like the parameters', by part: {NAME/token_embedder, NAME/self_attention, NAME/mlp, NAME/norms, ...}."""
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        first, *rest = name_of(path).split("/")
        part = rest[0] if first.split("_")[0] == "layers" else first
        part = "norms" if part.endswith("_norm") else part
        squares[part] = squares.get(part, jnp.zeros((), jnp.float32)) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return {f"{name}/{part}": jnp.sqrt(value) for part, value in sorted(squares.items())}

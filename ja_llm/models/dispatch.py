"""Tokens through the experts that they chose: sorted by expert, multiplied group by group, put back and summed.

Over a mesh each device sorts its own tokens. Where experts are spread over devices (the logical axis `expert`), each of these sees the same
tokens and computes what they chose among its own experts; the sum over the devices is the token's. So no token is dropped, and none
waits for a place.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ja_llm.attention.manual import together
from ja_llm.models.grouped import grouped_product
from ja_llm.models.layers import ACTIVATIONS, PRODUCT
from ja_llm.sharding import as_tuple, fitted_spec

_GATHERED = "gathered"
# Gathered kernels are gathered again for the backward pass: kept, those of all layers would be the whole model on every device.
_AGAIN = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)


def expert_sums(
    x: jax.Array, chosen: jax.Array, share: jax.Array, gate: jax.Array, up: jax.Array, back: jax.Array, activation: str
) -> jax.Array:
    """The sum over a token's experts of share * back(activation(gate x) * up x): [B, L, embed].

    Args:
      x: [B, L, embed].
      chosen: int [B, L, K], each token's experts.
      share: [B, L, K], their weights.
      gate: [E, embed, mlp].
      up: [E, embed, mlp].
      back: [E, mlp, embed].
      activation: its name.
    """
    of_x, of_kernel = fitted_spec(("batch", "length", None), x.shape), fitted_spec(("expert", "embed", "mlp"), gate.shape)
    if of_x is None or of_kernel is None:
        return _on_device(x, chosen, share, gate, up, back, activation=activation)
    over_experts, over_embed, over_mlp = map(as_tuple, of_kernel)
    # Devices along these axes each have a part of every token's sum, so here the tokens themselves are not spread over them.
    partial = over_experts + over_mlp
    batch, length = (tuple(axis for axis in as_tuple(axes) if axis not in partial) for axes in of_x[:2])
    if not {*over_embed} <= {*batch, *length}:
        over_embed = ()  # gathered by XLA: devices with the same tokens would not know that they gathered the same
    local = functools.partial(
        _on_device, activation=activation, over_experts=over_experts, over_embed=over_embed, over_mlp=over_mlp
    )
    of_tokens: Any = PartitionSpec(batch, length, None)
    of_into: Any = PartitionSpec(over_experts, over_embed, over_mlp)
    return jax.shard_map(
        jax.checkpoint(local, policy=_AGAIN, prevent_cse=False) if over_embed else local,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(of_tokens, of_tokens, of_tokens, of_into, of_into, PartitionSpec(over_experts, over_mlp, over_embed)),
        out_specs=of_tokens,
    )(x, chosen, share, gate, up, back)


def _on_device(
    x: jax.Array,
    chosen: jax.Array,
    share: jax.Array,
    gate: jax.Array,
    up: jax.Array,
    back: jax.Array,
    *,
    activation: str,
    over_experts: tuple[str, ...] = (),
    over_embed: tuple[str, ...] = (),
    over_mlp: tuple[str, ...] = (),
) -> jax.Array:
    """As `expert_sums`, from a device's own tokens, experts and columns."""
    # Before anything is gathered or sorted, so that gradients are scattered back before they are summed over the other axes.
    x, chosen, share, gate, up, back = together((x, chosen, share, gate, up, back))
    gate, up, back = (_gathered(kernels, over_embed, axis) for kernels, axis in ((gate, 1), (up, 1), (back, 2)))
    experts = len(gate)
    own = chosen.reshape(-1) - (jax.lax.axis_index(over_experts) * experts if over_experts else 0)
    own = jnp.where((own >= 0) & (own < experts), own, experts)  # what others compute comes last
    order = jnp.argsort(own, stable=True)
    places = jnp.argsort(order)
    sizes = (own[:, None] == jnp.arange(experts)).sum(axis=0)

    product = functools.partial(grouped_product, sizes=sizes, own=1 / math.prod(map(jax.lax.axis_size, over_experts)))
    rows = _to_rows(x.reshape(-1, x.shape[-1]), order, places, chosen.shape[-1])
    weight = _to_rows(share.reshape(-1, 1), order, places, 1)
    hidden = [checkpoint_name(product(rows, kernels), PRODUCT) for kernels in (gate, up)]
    parts = product(_weighted(*hidden, weight, activation), back)
    out = _to_tokens(parts, order, places, chosen.shape[-1]).reshape(x.shape)
    return jax.lax.psum(out, over_experts + over_mlp) if over_experts + over_mlp else out


def _gathered(kernels: jax.Array, axes: tuple[str, ...], axis: int) -> jax.Array:
    return checkpoint_name(jax.lax.all_gather(kernels, axes, axis=axis, tiled=True), _GATHERED) if axes else kernels


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _weighted(gate: jax.Array, up: jax.Array, weight: jax.Array, activation: str) -> jax.Array:
    """Before the product back, whose result the backward pass then does not ask for."""
    return ACTIVATIONS[activation](gate) * up * weight


# The two ways between tokens and rows are each other's transposes: gathers both, where JAX's own gradient of a gather adds rows up one by one.
# Number t * each + k is token t's k-th row; `order` says which number stands at a place, `places` where a number stands.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _to_rows(tokens: jax.Array, order: jax.Array, places: jax.Array, each: int) -> jax.Array:
    """[tokens, D] -> [rows, D]."""
    return tokens.at[order // each].get(mode="promise_in_bounds")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _to_tokens(rows: jax.Array, order: jax.Array, places: jax.Array, each: int) -> jax.Array:
    """[rows, D] -> [tokens, D], the sums of their rows."""
    return rows.at[places].get(mode="promise_in_bounds").reshape(-1, each, rows.shape[1]).sum(axis=1)


def _with_order(way: Any) -> Any:
    return lambda values, order, places, each: (way(values, order, places, each), (order, places))


_to_rows.defvjp(_with_order(_to_rows), lambda each, saved, dy: (_to_tokens(dy, *saved, each), None, None))
_to_tokens.defvjp(_with_order(_to_tokens), lambda each, saved, dy: (_to_rows(dy, *saved, each), None, None))

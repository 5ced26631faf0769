"""Tokens through the experts that they chose: sorted by expert, multiplied group by group, put back and summed.

Over a mesh each device sorts its own tokens. Where experts are spread over devices (the logical axis `expert`), each of these sees the same
tokens and computes what they chose among its own experts; the sum over the devices is the token's. So no token is dropped, and none
waits for a place.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ja_llm.attention.manual import together
from ja_llm.models.grouped import grouped_product
from ja_llm.models.layers import ACTIVATIONS, PRODUCT
from ja_llm.sharding import as_tuple, fitted_spec


class Kernels(NamedTuple):
    """Of all experts.

    Attributes:
      gate: [E, embed, mlp].
      up: [E, embed, mlp].
      back: [E, mlp, embed].
    """

    gate: Any
    up: Any
    back: Any


class _Spread(NamedTuple):
    """Mesh axes over which each dimension of the kernels is spread."""

    experts: tuple[str, ...] = ()
    embed: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ()


def expert_sums(x: jax.Array, chosen: jax.Array, share: jax.Array, kernels: Kernels, activation: str) -> jax.Array:
    """The sum over a token's experts of share * back(activation(gate x) * up x): [B, L, embed].

    Args:
      x: [B, L, embed].
      chosen: int [B, L, K], each token's experts.
      share: [B, L, K], their weights.
      kernels: of x's dtype.
      activation: its name.
    """
    of_x = fitted_spec(("batch", "length", None), x.shape)
    of_kernel = fitted_spec(("expert", "embed", "mlp"), kernels.gate.shape)
    if of_x is None or of_kernel is None:
        return _on_device(_Spread(), activation, x, chosen, share, kernels)
    over = _Spread(*map(as_tuple, of_kernel))
    # Devices along these axes each have a part of every token's sum, so here the tokens themselves are not spread over them.
    partial = over.experts + over.mlp
    batch, length = (tuple(axis for axis in as_tuple(axes) if axis not in partial) for axes in of_x[:2])
    if not {*over.embed} <= {*batch, *length}:
        over = over._replace(embed=())  # gathered by XLA: devices with the same tokens would not know that they gathered the same
    of_tokens: Any = PartitionSpec(batch, length, None)
    of_into, of_back = PartitionSpec(*over), PartitionSpec(over.experts, over.mlp, over.embed)
    return jax.shard_map(
        functools.partial(_on_device, over, activation),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(of_tokens, of_tokens, of_tokens, Kernels(of_into, of_into, of_back)),
        out_specs=of_tokens,
    )(x, chosen, share, kernels)


def _on_device(over: _Spread, activation: str, x: jax.Array, chosen: jax.Array, share: jax.Array, kernels: Kernels) -> jax.Array:
    """As `expert_sums`, from a device's own tokens, experts and columns."""
    # Before anything is gathered or sorted, so that gradients are scattered back before they are summed over the other axes.
    x, chosen, share, kernels = together((x, chosen, share, kernels))
    experts, each = len(kernels.gate), chosen.shape[-1]
    own = chosen.reshape(-1) - (jax.lax.axis_index(over.experts) * experts if over.experts else 0)
    own = jnp.where((own >= 0) & (own < experts), own, experts)  # what others compute comes last
    order = jnp.argsort(own, stable=True)
    places = jnp.argsort(order)
    product = functools.partial(
        _product,
        over.embed,
        (own[:, None] == jnp.arange(experts)).sum(axis=0),
        1 / math.prod(map(jax.lax.axis_size, over.experts)),
    )
    rows = _to_rows(x.reshape(-1, x.shape[-1]), order, places, each)
    weight = _to_rows(share.reshape(-1, 1), order, places, 1)
    gate, up = (checkpoint_name(product(rows, kernel, 1), PRODUCT) for kernel in (kernels.gate, kernels.up))
    parts = product(_weighted(gate, up, weight, activation), kernels.back, 2)
    out = _to_tokens(parts, order, places, each).reshape(x.shape)
    return jax.lax.psum(out, over.experts + over.mlp) if over.experts + over.mlp else out


def _product(
    over_embed: tuple[str, ...], sizes: jax.Array, own: float, rows: jax.Array, kernel: jax.Array, axis: int
) -> jax.Array:
    """`grouped_product` with a kernel whose dimension `axis` is gathered first."""
    if not over_embed:
        return grouped_product(rows, kernel, sizes, own)

    # Gathered again for the backward pass: kept, the kernels of all layers would be the whole model on every device.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def gathered(rows: jax.Array, part: jax.Array) -> jax.Array:
        return grouped_product(rows, jax.lax.all_gather(part, over_embed, axis=axis, tiled=True), sizes, own)

    return gathered(rows, kernel)


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

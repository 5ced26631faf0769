"""A tiled implementation over a device mesh: each device computes its rows, heads and queries.

XLA can't partition a kernel, so the logical axes of the arrays (`ja_llm.sharding`) are mapped by hand. Where the sequence is
spread ("length" on a mesh axis), keys and values are gathered whole and each device computes the queries that it holds; their
spans are in coordinates of the whole row, so a device skips what its own queries do not see. The gradients of keys and values
are summed and scattered back.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ja_llm import sharding
from ja_llm.attention import block_sizes, flash
from ja_llm.attention.call import Call, Result
from ja_llm.attention.spans import Spans


def compute(call: Call, name: str, backend: Any) -> Result:
    """The call by a backend of `flash`, over the mesh in use."""
    sizes = block_sizes.sizes(name, call.q.shape[-1], dtype=call.q.dtype)
    local = functools.partial(flash.attention, backend=backend, scale=call.scale, softcap=call.softcap, sizes=sizes)
    return over_mesh(local, call.q, call.k, call.v, call.spans(), None if call.order is None else call.places())


def over_mesh(
    local: Any, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, places: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """local(q, k, v, spans) -> (out, lse [B, Lq, H]) on each device's part; directly where there is no mesh.

    With `places` (int [B, L]) the rows are in another order, and keys and values are put back into the packed row's. Where a device's
    query heads would share no whole number of key-value heads, these are repeated, one for each query head.
    """
    of_q = sharding.fitted_spec(("batch", "length", "heads", None), q.shape)
    of_k = sharding.fitted_spec(("batch", "length", "kv_heads", None), k.shape)
    if of_q is None or of_k is None:
        return local(q, *_in_order(k, v, places), spans)
    mesh = jax.sharding.get_abstract_mesh()
    pick = _own_key_heads(mesh, of_q[2], of_k[2], q.shape[2], k.shape[2])
    if pick is None:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        of_k, pick = of_q, lambda x: x

    def part(q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, places: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        if of_k[1] is not None:
            k, v = (jax.lax.all_gather(x, of_k[1], axis=1, tiled=True) for x in (k, v))
        return local(q, *_in_order(pick(k), pick(v), places), spans)

    of_ids: Any = PartitionSpec(*of_q[:2])
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(of_q, of_k, of_k, Spans(of_ids, of_ids), PartitionSpec(of_q[0])),
        out_specs=(of_q, PartitionSpec(*of_q[:3])),
        check_vma=False,  # a kernel's outputs carry no record of the axes they vary over
    )(q, k, v, spans, places)


def _in_order(k: jax.Array, v: jax.Array, places: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    if places is None:
        return k, v
    index = places[:, :, None, None]
    return jnp.take_along_axis(k, index, axis=1), jnp.take_along_axis(v, index, axis=1)


def _own_key_heads(mesh: Any, of_heads: Any, of_kv_heads: Any, heads: int, kv_heads: int) -> Any:
    """What a device takes of the key-value heads that it holds: all, unless only the query heads are spread; None: no whole number."""
    if of_heads == of_kv_heads or of_heads is None:
        return lambda x: x
    axes = of_heads if isinstance(of_heads, tuple) else (of_heads,)
    own, group = heads // math.prod(mesh.shape[axis] for axis in axes), heads // kv_heads
    if own % group and group % own:
        return None

    def pick(x: jax.Array) -> jax.Array:
        first = jax.lax.axis_index(axes) * own // group
        return jax.lax.dynamic_slice_in_dim(x, first, max(own // group, 1), axis=2)

    return pick

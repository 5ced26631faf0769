"""`model-info.txt`: each parameter's shape, dtype, logical axes and mesh axes, and what the whole comes to."""

import math
from typing import Any

import jax

from ja_llm.train.flops import CONVENTION, flops_per_token
from ja_llm.train.settings import name_of
from ja_llm.train.state import StatePlan


def model_info(plan: StatePlan, model: Any, mesh: Any, length: int) -> str:
    """The file's text: a line a parameter, then totals.

    Args:
      plan: shapes and layout of the state.
      model: the decoder's configuration.
      mesh: the device mesh.
      length: tokens in a row, for the FLOPs.
    """
    rows = [("parameter", "shape", "dtype", "logical axes", "mesh axes", "on a device")]
    axes = jax.tree.leaves(plan.axes, is_leaf=lambda x: isinstance(x, tuple))
    leaves = jax.tree_util.tree_leaves_with_path(plan.abstract.params)
    layouts = jax.tree.leaves(plan.shardings.params)
    for (path, leaf), names, layout in zip(leaves, axes, layouts, strict=True):
        over = ", ".join("x".join(a) if isinstance(a, tuple) else str(a or "-") for a in layout.spec) or "-"
        shape = "x".join(map(str, leaf.shape))
        part = "x".join(map(str, layout.shard_shape(leaf.shape)))
        rows.append((name_of(path), shape, str(leaf.dtype), ", ".join(str(name) for name in names), over, part))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    parameters = sum(math.prod(leaf.shape) for _, leaf in leaves)
    lines += [
        "",
        f"parameters: {parameters:,} ({_bytes(plan.abstract.params) / 2**30:.3f} GiB); optimizer state: "
        f"{_bytes(plan.abstract.optimizer) / 2**30:.3f} GiB; of both on a device: {_on_device(plan) / 2**30:.3f} GiB",
        f"mesh: {', '.join(f'{name} {size}' for name, size in mesh.shape.items())}",
        f"training FLOPs a token at {length} tokens: {flops_per_token(model, length):.4g} ({CONVENTION})",
    ]
    return "\n".join(lines) + "\n"


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _on_device(plan: StatePlan) -> int:
    states = (plan.abstract.params, plan.abstract.optimizer), (plan.shardings.params, plan.shardings.optimizer)
    sizes = jax.tree.map(lambda a, s: math.prod(s.shard_shape(a.shape)) * a.dtype.itemsize, *states)
    return sum(jax.tree.leaves(sizes))

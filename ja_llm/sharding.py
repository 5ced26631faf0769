"""The device mesh, and the rules by which logical axes are spread over it.

Axes of the mesh: `data` (rows of the batch), `fsdp` (rows too, and parameters along `embed`), `tensor` (heads, MLP, vocabulary),
`context` (positions) and `expert`. Rules are t5x's `logical_axis_rules`: pairs (logical axis, mesh axis or None); for each array the
first rule of an axis whose mesh axis is still free in that array wins.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ja_llm.errors import UsageError

AXES = ("data", "fsdp", "expert", "context", "tensor")
Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

DEFAULT_RULES: Rules = (
    ("batch", ("data", "fsdp", "expert")),
    ("length", "context"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("kv", None),
    ("layers", None),
)


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with all of `AXES`; those not named have one device.

    Args:
      axes: devices per axis; one may be -1 and takes what the others leave.
      devices: all of JAX's when None.

    Raises:
      UsageError: an axis is unknown, or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    unknown = sorted(set(axes) - set(AXES))
    if unknown:
        raise UsageError(f"MESH has the axis {unknown[0]!r}; there are {', '.join(AXES)}.")
    sizes = {axis: int(axes.get(axis, 1)) for axis in AXES}
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    rest = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) == 1 and rest > 0 and len(devices) % rest == 0:
        sizes[open_axes[0]] = len(devices) // rest
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        raise UsageError(f"MESH {dict(axes)} does not multiply to the {len(devices)} devices that are here; change it, or use -1 for one axis.")
    return Mesh(np.asarray(devices).reshape([sizes[axis] for axis in AXES]), AXES)


def spec_of(logical: Sequence[str | None], rules: Rules = DEFAULT_RULES) -> PartitionSpec:
    """The mesh axes of an array with these logical axes; the first rule whose mesh axes are free wins."""
    used: set[str] = set()
    spec: list[Any] = []
    for name in logical:
        chosen: Any = None
        for axis, mesh_axes in rules:
            if axis != name:
                continue
            wanted = () if mesh_axes is None else (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)
            if not used & set(wanted):
                chosen, _ = mesh_axes, used.update(wanted)
                break
        spec.append(chosen)
    return PartitionSpec(*spec)


def shardings(axes_tree: Any, abstract_tree: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """NamedSharding for each array.

    Args:
      axes_tree: tree of tuples of logical axis names (`param_axes`).
      abstract_tree: same tree of shapes.
      mesh: device mesh.
      rules: logical axis rules.

    Raises:
      UsageError: a dimension is not divisible by its mesh axes; parameter and axis are named.
    """

    def one(path: Any, array: Any, logical: tuple[str | None, ...]) -> NamedSharding:
        spec = spec_of(logical, rules)
        for size, name, axes in zip(array.shape, logical, spec, strict=True):
            parts = math.prod(mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes or ()))
            if size % parts:
                raise UsageError(
                    f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}: its axis {name!r} of {size} can't be divided over "
                    f"{parts} devices of mesh axis {axes!r}; choose another MESH or another size."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, abstract_tree, axes_tree, is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct))


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """How `[batch, length]` arrays are spread."""
    return NamedSharding(mesh, spec_of(("batch", "length"), rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())

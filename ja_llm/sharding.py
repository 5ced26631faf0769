"""The device mesh and the rules that spread logical axes over it.

Mesh axes, outermost first: `data` (replicas of the parameters), `fsdp` (parameters and batch are both spread over it),
`context` (the sequence), `expert`, `tensor` (heads, feed-forward width, vocabulary; innermost, so that its devices are
neighbours).

A rule is (logical axis, mesh axis, tuple of mesh axes, or None). As in t5x (`standard_logical_axis_rules`), rules are tried
in order: the first one for a logical axis whose mesh axes no other dimension of the same array has taken wins; a
dimension without one is not split.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.linen import partitioning
from flax.linen.spmd import logical_to_mesh_axes
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ja_llm.errors import UsageError

MESH_AXES = ("data", "fsdp", "context", "expert", "tensor")

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

DEFAULT_RULES: Rules = (
    ("batch", ("data", "fsdp")),
    ("length", "context"),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("joined_kv", "tensor"),
    ("expert", "expert"),
    ("embed", "fsdp"),
    ("kv", None),
    ("layers", None),
)


def make_mesh(
    axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None, slices: Mapping[str, int] | None = None
) -> Mesh:
    """Arrange devices in a mesh with all of MESH_AXES.

    Args:
      axes: devices along each axis; an absent axis has 1, and one axis may be -1: whatever the others leave.
      devices: which; all of this run when None.
      slices: where the network between some devices is slow (TPU slices, else hosts): how many such parts along each axis; `axes` are
        then the devices inside a part. t5x's dcn_mesh_shape.

    Raises:
      UsageError: an unknown axis, a size below 1, or a product that is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes, across = _sizes(axes, len(devices), slices or {})
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    if math.prod(across) > 1:
        by_slice = len({getattr(device, "slice_index", None) for device in devices}) == math.prod(across)
        try:
            grid = mesh_utils.create_hybrid_device_mesh(
                tuple(sizes.values()), across, devices, process_is_granule=not by_slice, allow_split_physical_axes=True
            )
        except ValueError as error:
            raise UsageError(
                f"DCN_MESH {dict(slices or {})} does not fit the slices or hosts of this run ({str(error).splitlines()[0][:200]}); give sizes whose "
                "product is the number of slices (of hosts, where there are none), with MESH for one of them, or leave DCN_MESH out."
            ) from error
        return Mesh(grid, MESH_AXES, axis_types=auto)
    return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=auto, devices=devices)


def abstract_mesh(axes: Mapping[str, int], count: int, device: Any, slices: Mapping[str, int] | None = None) -> AbstractMesh:
    """The mesh of `make_mesh` for `count` devices that are not here, to lower a program for.

    Args:
      axes: as of `make_mesh`.
      count: devices in all.
      device: jax.sharding.AbstractDevice, what each is.
      slices: as of `make_mesh`.

    Raises:
      UsageError: as `make_mesh`.
    """
    sizes, across = _sizes(axes, count, slices or {})
    whole = tuple(size * parts for size, parts in zip(sizes.values(), across, strict=True))
    return AbstractMesh(whole, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES), abstract_device=device)


def _sizes(axes: Mapping[str, int], devices: int, slices: Mapping[str, int]) -> tuple[dict[str, int], tuple[int, ...]]:
    """(devices along each axis inside a part, parts along each axis)."""
    unknown = sorted(axes.keys() - set(MESH_AXES))
    if unknown:
        raise UsageError(f"MESH names the axis {unknown[0]!r}; the axes are {', '.join(MESH_AXES)}.")
    sizes = {name: axes.get(name, 1) for name in MESH_AXES}
    wrong = [name for name, size in sizes.items() if not isinstance(size, int) or (size < 1 and size != -1)]
    free = [name for name, size in sizes.items() if size == -1]
    if wrong or len(free) > 1:
        raise UsageError(f"MESH is {dict(axes)}; each size is a whole number from 1, and one of them may be -1.")
    across = _across(slices)
    count = devices // math.prod(across)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) * math.prod(across) != devices:
        said = " x ".join(f"{name} {size}" for name, size in axes.items()) or "data 1"
        each = " in each of the parts of DCN_MESH" if slices else ""
        raise UsageError(
            f"MESH {said}{each} does not make up the {devices} devices of this run; "
            "change a size, or give one axis -1 to let it take what is left."
        )
    return sizes, across


def _across(slices: Mapping[str, int]) -> tuple[int, ...]:
    unknown = sorted(slices.keys() - set(MESH_AXES))
    if unknown or any(not isinstance(size, int) or size < 1 for size in slices.values()):
        raise UsageError(f"DCN_MESH is {dict(slices)}; give whole numbers from 1 for some of {', '.join(MESH_AXES)}.")
    return tuple(slices.get(name, 1) for name in MESH_AXES)


def check_rules(rules: Rules) -> None:
    """Raise UsageError for a rule that names no mesh axis (a slip of the pen would silently replicate)."""
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise UsageError(f"LOGICAL_AXIS_RULES is {rules!r}; give a tuple of pairs, e.g. (('batch', 'data'), ('embed', None)).")
    for rule in rules:
        pair = isinstance(rule, Sequence) and len(rule) == 2 and isinstance(rule[0], str)
        if not pair or not isinstance(rule[1], Sequence | None):
            raise UsageError(
                f"the logical axis rule {rule!r} is no pair (logical axis, mesh axis); LOGICAL_AXIS_RULES is e.g. (('batch', 'data'), "
                "('embed', None))."
            )
        for axis in as_tuple(rule[1]):
            if axis not in MESH_AXES:
                raise UsageError(
                    f"the logical axis rule {rule!r} names the mesh axis {axis!r}; there are {', '.join(MESH_AXES)}."
                )


def as_tuple(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    """Mesh axes of one dimension, as a PartitionSpec or a rule names them."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def partition_spec(axes: Sequence[str | None], rules: Rules = DEFAULT_RULES) -> PartitionSpec:
    """The mesh axes of an array with the given logical axes."""
    check_rules(rules)
    return _spec(axes, _rules(rules))


def _spec(axes: Sequence[str | None], rules: Any) -> PartitionSpec:
    return logical_to_mesh_axes(tuple(axes), rules) or PartitionSpec()


def _rules(rules: Rules) -> tuple[tuple[str, Any], ...]:
    """Rules as Flax wants them (gin gives lists)."""
    return tuple((name, tuple(axes) if isinstance(axes, list) else axes) for name, axes in rules)


def shardings(axes_tree: Any, abstract_tree: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Shardings of a tree of parameters.

    Args:
      axes_tree: `param_axes(config)`: a tuple of logical axis names in place of each parameter.
      abstract_tree: arrays or ShapeDtypeStructs.
      mesh: the mesh.
      rules: logical axis rules.

    Returns:
      A tree of NamedSharding.

    Raises:
      UsageError: a dimension is not a multiple of the number of devices that it is spread over.
    """
    check_rules(rules)

    def one(path: Any, array: Any, axes: tuple[str | None, ...]) -> NamedSharding:
        spec = _spec(axes, _rules(rules))
        for size, logical, mesh_axes in zip(array.shape, axes, spec, strict=True):
            if size % parts(mesh, mesh_axes):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                over = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in as_tuple(mesh_axes))
                raise UsageError(
                    f"the parameter {name} {tuple(array.shape)} has {size} along {logical!r}, which can't be split evenly over "
                    f"{over}; change MESH, the model's size, or the rule for {logical!r}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, abstract_tree, axes_tree)


def parts(mesh: Any, mesh_axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts a dimension with these mesh axes is split."""
    return math.prod(mesh.shape[axis] for axis in as_tuple(mesh_axes))


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of a batch's arrays `[batch, length]`."""
    return NamedSharding(mesh, partition_spec(("batch", "length"), rules))


def check_batch(mesh: Mesh, rules: Rules, batch_size: int, length: int, microbatches: int = 1) -> None:
    """Raise UsageError when a batch can't be split evenly over the mesh."""
    spec = partition_spec(("batch", "length"), rules)
    for name, size, axes in zip(("BATCH_SIZE", "the row length"), (batch_size, length), spec, strict=True):
        split = parts(mesh, axes) * (microbatches if name == "BATCH_SIZE" else 1)
        if size % split:
            over = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in as_tuple(axes))
            extra = f" in {microbatches} microbatches" if microbatches > 1 and name == "BATCH_SIZE" else ""
            raise UsageError(f"{name} is {size}, which can't be split evenly over {over}{extra}; choose a multiple of {split}.")


def host_shard(mesh: Any, rules: Rules = DEFAULT_RULES, host: int | None = None) -> tuple[int, int]:
    """(shard, shards): which part of a batch's rows a host reads, as it holds them by `batch_sharding`.

    Args:
      mesh: the mesh; its devices know their `process_index`.
      rules: logical axis rules.
      host: number of the process; this one when None.

    Raises:
      UsageError: two hosts hold the same rows, or parts of a row: each host reads whole rows, and no other reads them.
    """
    owners = np.array([device.process_index for device in mesh.devices.flat]).reshape(mesh.devices.shape)
    batch, length = partition_spec(("batch", "length"), rules)
    rows, columns = _blocks(mesh, batch), _blocks(mesh, length)
    first: dict[int, int] = {}  # first block of rows -> host
    taken: set[int] = set()
    for process in sorted(set(owners.flat)):
        own = {int(block) for block in rows[owners == process]}
        if own & taken or len(set(columns[owners == process])) != parts(mesh, length):
            over = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in mesh.axis_names if mesh.shape[axis] > 1)
            said = ", ".join(as_tuple(batch)) or "no axis"
            raise UsageError(
                f"MESH ({over}) gives several hosts parts of the same rows of a batch, but each host reads rows of its own; the rules split "
                f"rows over {said}: let these axes go across the hosts (MESH, or DCN_MESH), and all others stay inside one."
            )
        taken |= own
        first[min(own)] = process
    order = [first[block] for block in sorted(first)]
    return order.index(jax.process_index() if host is None else host), len(order)


def _blocks(mesh: Any, mesh_axes: str | tuple[str, ...] | None) -> np.ndarray:
    """int array of the mesh's shape: which part of a dimension with these mesh axes each device holds."""
    number = np.zeros(mesh.devices.shape, int)
    for axis in as_tuple(mesh_axes):
        place = mesh.axis_names.index(axis)
        number = number * mesh.shape[axis] + np.indices(mesh.devices.shape)[place]
    return number


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


@contextlib.contextmanager
def use(mesh: Mesh | AbstractMesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """Within the block, `constrain` in traced functions puts activations on `mesh` by `rules`."""
    check_rules(rules)
    entered = jax.sharding.use_abstract_mesh(mesh) if isinstance(mesh, AbstractMesh) else jax.set_mesh(mesh)
    with entered, partitioning.axis_rules(_rules(rules)):
        yield


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Lay out an activation by its logical axes; outside `use`, and for a dimension that does not divide, nothing happens.

    A dimension that does not divide is left to XLA (the last batch of an evaluation, a single prompt): an activation's
    layout is a matter of speed only.
    """
    spec = fitted_spec(axes, x.shape)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def fitted_spec(axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec | None:
    """Mesh axes of an activation by the rules in use; None where nothing is to be spread (no `use`, one device, inside shard_map)."""
    rules = partitioning.get_axis_rules()
    mesh = jax.sharding.get_abstract_mesh()
    if not rules or mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return None
    spec = _spec(axes, rules)
    return PartitionSpec(*(a if size % parts(mesh, a) == 0 else None for size, a in zip(shape, spec, strict=True)))

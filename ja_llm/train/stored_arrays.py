"""The arrays of one item (`params` or `optimizer`) of a checkpoint on disk: what is there, whether it belongs here, and reading it."""

import math
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ja_llm import storage
from ja_llm.errors import JaLlmError
from ja_llm.files import read_json
from ja_llm.train.checkpoint_errors import REMEDY, Damaged, readable
from ja_llm.train.digests import first_difference
from ja_llm.train.processes import together

_READ = 1 << 26  # bytes that are read at a time beside the largest array


def check_digests(checkpoint: Path, item: str, values: Any) -> None:
    """Compare what was read with the digests that were taken when it was saved; older checkpoints have none.

    Raises:
      Damaged: an array is not what was saved; it is named.
    """
    path = checkpoint / "digests" / "metadata"
    if path.exists():
        name = first_difference(values, read_json(path, "list of digests")[item])
        if name is not None:
            raise Damaged(f"this checkpoint is damaged ({item}/{name} is not what was saved); {REMEDY}")


def _path(keys: Any) -> tuple[str, ...]:
    """The names on the way to a leaf, the same for dicts, named tuples and what orbax makes of them."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def named_leaves(optimizer: Any) -> dict[str, Any]:
    """An optimizer's state as nested dicts of its arrays under "state", which is how it lies on disk.

    Links without arrays (clipping, weight decay) leave nothing there, so they may come and go.
    """
    tree: dict[str, Any] = {"state": {}}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(optimizer):
        folder = tree["state"]
        *parents, name = _path(keys)
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = leaf
    return tree


def from_named_leaves(tree: dict[str, Any], like: Any) -> Any:
    """Inverse of `named_leaves`: the arrays in the structure of `like`."""

    def find(keys: Any, _: Any) -> Any:
        value: Any = tree["state"]
        for name in _path(keys):
            value = value[name]
        return value

    return jax.tree_util.tree_map_with_path(find, like)


def stored_tree(path: Path) -> Any:
    """The tree of one item (`params` or `optimizer`) of a checkpoint: shapes and dtypes, without reading the numbers."""
    if not storage.is_remote(path):
        with os.scandir(path):  # orbax takes a folder that it may not enter for one that is empty
            pass
    # The handler, and not the checkpointer over it, which swallows the error and gives nothing.
    return ocp.StandardCheckpointHandler().metadata(_place(path)).tree


def _place(path: Path) -> epath.Path:
    """As orbax takes it; TensorStore takes no ".."."""
    return epath.Path(path if storage.is_remote(path) else path.resolve())


def read_params(where: Path, abstract: Any) -> Any:
    """Parameters as `abstract` says. Digests are of the bits on disk, so they are compared before an array is cast."""
    with together(), readable(where.parent):
        stored = stored_tree(where)
        check_shapes(stored, abstract, "model")
        dtypes = {_path(keys): leaf.dtype for keys, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    if all(leaf.dtype == dtypes[_path(keys)] for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract)):
        with together(), readable(where.parent):
            largest = max(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(abstract))
            params = read_arrays(where, abstract, at_once=largest + _READ)
        with readable(where.parent):
            check_digests(where.parent, "params", params)
        return params

    def one(keys: Any, like: Any) -> jax.Array:
        as_stored = jax.ShapeDtypeStruct(like.shape, dtypes[_path(keys)], sharding=like.sharding)
        with together(), readable(where.parent):
            tree = read_arrays(where, _nested(_path(keys), as_stored), partial=True)
        with readable(where.parent):
            check_digests(where.parent, "params", tree)
        return jax.tree.leaves(tree)[0].astype(like.dtype)

    return jax.tree_util.tree_map_with_path(one, abstract)


def _nested(names: tuple[str, ...], leaf: Any) -> Any:
    return leaf if not names else {names[0]: _nested(names[1:], leaf)}


def read_arrays(item: Path, abstract: Any, partial: bool = False, at_once: int | None = None) -> Any:
    """The arrays of one item (`params` or `optimizer`) of a checkpoint, as `abstract` says.

    Args:
      item: its folder.
      abstract: shapes, dtypes and shardings.
      partial: `abstract` is a part of the item's tree.
      at_once: bytes that are read at a time, so that the host does not hold every array twice; None: as orbax does.

    By orbax's handler and not its checkpointer, whose restore ends in a barrier: a process whose own part is damaged never comes to it.
    """
    if partial:
        each = ocp.checkpoint_utils.construct_restore_args(abstract)
        return ocp.PyTreeCheckpointHandler().restore(
            _place(item), args=ocp.args.PyTreeRestore(abstract, restore_args=each, partial_restore=True)
        )
    gigabytes: Any = None if at_once is None else at_once / 1e9  # orbax says int and takes a part of one
    handler = (
        ocp.StandardCheckpointHandler() if gigabytes is None else ocp.StandardCheckpointHandler(restore_concurrent_gb=gigabytes)
    )
    return handler.restore(_place(item), args=ocp.args.StandardRestore(abstract))


_OTHER = {
    "model": ("model.json", "put the model.json back that it was saved with, or choose another model directory"),
    "optimizer": (
        "this run's optimizer",
        "go on with the optimizer that it was saved with, or begin a new run from it with INITIAL_CHECKPOINT_PATH",
    ),
}


def check_shapes(stored: Any, wanted: Any, what: str) -> None:
    """Name the first array that is absent, left over, or of another shape; `what` is "model" or "optimizer"."""
    have, want = (
        {"/".join(_path(k)): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(tree)} for tree in (stored, wanted)
    )
    where, advice = _OTHER[what]
    for name in sorted(want.keys() | have.keys()):
        if have.get(name) != want.get(name):
            raise JaLlmError(
                f"this checkpoint belongs to another {what}: {name} is {have.get(name, 'absent')} in it, "
                f"{want.get(name, 'absent')} in {where}; {advice}."
            )


def read_item(path: Path) -> Any:
    """One item of a checkpoint (`params` or `optimizer`) on the first device, as nested dicts; None where it has none.

    Raises:
      JaLlmError: it can't be read.
    """
    if not path.is_dir():
        return None
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with readable(path.parent), ocp.StandardCheckpointer() as checkpointer:
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), stored_tree(path))
        return checkpointer.restore(_place(path), like)

"""Arrays inside a user's own `jax.shard_map`, where JAX checks over which mesh axes each one varies (check_vma, its default).

A kernel has to say it of its results, and a loop's carry has to begin as it goes on. Outside of a shard_map, and in one without that check,
nothing here does anything.
"""

from typing import Any

import jax


def varies(x: Any) -> frozenset:
    """Mesh axes that the array varies over, by the name that this jax has for them."""
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", frozenset())


def together(tree: Any, like: Any = ()) -> Any:
    """The arrays of `tree`, each varying over every mesh axis that one of them or of `like` varies over."""
    axes = frozenset[str]().union(*(varies(x) for x in jax.tree.leaves((tree, like))))

    def cast(x: Any) -> Any:
        missing = tuple(sorted(axes - varies(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def result(shape: tuple[int, ...], dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """What a kernel returns: an array that varies over the mesh axes of `like`."""
    kind = jax.typeof(like)
    if hasattr(kind, "mat"):
        return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=kind.mat)
    return jax.ShapeDtypeStruct(shape, dtype, vma=varies(like))  # type: ignore[call-arg]

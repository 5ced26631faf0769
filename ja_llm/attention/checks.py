"""Refuses what attention() can't mean, with what was given and what is possible."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ja_llm.attention.call import Call
from ja_llm.attention.spans import NOTHING
from ja_llm.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")


def check_arrays(q: Any, k: Any, v: Any, sinks: Any = None) -> None:
    """Shapes and dtypes of queries, keys, values and sinks.

    Raises:
      InputError: they do not fit together.
    """
    for name, array in (("q", q), ("k", k), ("v", v), ("sinks", sinks)):
        if not _is_array(array) and not (name == "sinks" and array is None):
            raise InputError(f"attention's {name} is a {type(array).__name__}; give an array.")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[-1] != k.shape[-1] or q.shape[0] != k.shape[0]:
        raise InputError(f"attention shapes do not fit: {shapes}; q is [B, Lq, H, D], k and v are [B, Lk, KV, D].")
    if not k.shape[2] or q.shape[2] % k.shape[2]:
        raise InputError(
            f"attention shapes do not fit: {shapes} have {q.shape[2]} query heads and {k.shape[2]} key-value heads; the second must divide the first."
        )
    if 0 in q.shape or 0 in k.shape:
        raise InputError(f"attention shapes have a dimension of 0: {shapes}; every one is at least 1.")
    dtypes = [jnp.dtype(x.dtype).name for x in (q, k, v)]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise InputError(
            f"attention dtypes are {', '.join(dtypes)}; q, k and v have one of {', '.join(DTYPES)}, the same for all."
        )
    if sinks is not None and (sinks.shape != (q.shape[2],) or not jnp.issubdtype(sinks.dtype, jnp.floating)):
        raise InputError(
            f"attention sinks are {sinks.dtype} {tuple(sinks.shape)}; a float for each of the {q.shape[2]} query heads is needed."
        )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def checked_pair(name: str, ids: Any) -> Any:
    """Ids or positions as (for queries, for keys), or None.

    Raises:
      InputError: they are no array and no pair of arrays.
    """
    if ids is None:
        return None
    pair = ids if isinstance(ids, tuple) else (ids, ids)
    if len(pair) != 2 or not all(_is_array(x) for x in pair):
        given = f"a tuple of {len(pair)}" if isinstance(ids, tuple) else f"a {type(ids).__name__}"
        raise InputError(f"{name} are {given}; give one array, or a pair of arrays (for queries, for keys).")
    return pair


def checked_window(window: Any) -> Any:
    """None, an int, or a scalar array of integers that a program reads.

    Raises:
      InputError: it is no whole number, or below 1.
    """
    if window is None:
        return None
    scalar = _is_array(window) and window.ndim == 0 and jnp.issubdtype(window.dtype, jnp.integer)
    if type(window) is not int and not scalar:
        given = f"{window.dtype} {list(window.shape)}" if _is_array(window) else repr(window)
        raise InputError(f"the attention window is {given}; give a whole number, an integer scalar array, or None.")
    if isinstance(window, jax.core.Tracer):
        return window
    if int(window) < 1:
        raise InputError(f"the attention window is {int(window)}; a query sees at least itself, so give 1 or more.")
    return window if isinstance(window, jax.Array) else min(int(window), NOTHING)  # beyond any row, within int32


def checked_number(name: str, value: Any) -> float | None:
    """A positive number as a float, or None; a scalar array that is no program's argument will do.

    Raises:
      InputError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, jax.core.Tracer):
        raise InputError(
            f"the attention {name} is an array of a traced program ({value.dtype} {list(value.shape)}); kernels are compiled for one "
            "value, so give a Python number (an argument of jit: name it in static_argnames)."
        )
    if _is_array(value):
        number = value.ndim == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))
        given = f"{value.dtype} {list(value.shape)}" if value.ndim else repr(value)
    else:
        number, given = isinstance(value, int | float) and not isinstance(value, bool), repr(value)
    if not number or not 0 < float(value) < float("inf"):
        raise InputError(f"the attention {name} is {given}; give a positive number, or None.")
    return float(value)


def check_causal(causal: Any) -> None:
    """True or False.

    Raises:
      InputError: it is something else, which Python would take for one of them.
    """
    if not isinstance(causal, bool | np.bool_):
        given = f"a {type(causal).__name__}" if _is_array(causal) else repr(causal)
        raise InputError(f"attention's causal is {given}; give True or False.")


def check_ids(call: Call) -> None:
    """Shapes of segment ids and positions, and outside jit also their values.

    Raises:
      InputError: a shape does not fit; in ordered rows an id comes back, or positions do not rise by one where the ids stay the same.
    """
    rows = call.q.shape[0]
    for name, pair in (("segment_ids", call.segments), ("positions", call.positions)):
        for ids, length in zip(pair or (), (call.q.shape[1], call.k.shape[1]), strict=False):
            if (
                ids.ndim != 2
                or ids.shape[0] not in (1, rows)
                or ids.shape[1] != length
                or not jnp.issubdtype(ids.dtype, jnp.integer)
            ):
                raise InputError(
                    f"{name} are {ids.dtype} {tuple(ids.shape)}; integers [{rows}, {length}] are needed, as q and k have them."
                )
    if call.order is not None:
        if not _is_array(call.order):
            raise InputError(f"attention's order is a {type(call.order).__name__}; give an array of integers, or None.")
        if call.order.shape != call.q.shape[:2] or not jnp.issubdtype(call.order.dtype, jnp.integer) or not call.ordered:
            raise InputError(
                f"order is {call.order.dtype} {tuple(call.order.shape)}; integers {list(call.q.shape[:2])} are needed, with one array of "
                "segment ids and one of positions for queries and keys."
            )
        if not isinstance(call.order, jax.core.Tracer):
            _check_order(np.asarray(call.order))
    elif call.ordered:
        segments = None if call.segments is None else call.segments[0]
        positions = None if call.positions is None else call.positions[0]
        if not any(isinstance(x, jax.core.Tracer) for x in (segments, positions)):
            _check_rows(segments, positions)


def _check_order(order: np.ndarray) -> None:
    places = np.arange(order.shape[1])
    wrong = np.flatnonzero((np.sort(order, axis=1) != places).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        lacks = int(np.setdiff1d(places, order[row])[0])
        raise InputError(
            f"order is no permutation in row {row}: it lacks the place {lacks}; each row holds every place from 0 to "
            f"{order.shape[1] - 1} once (`ja_llm.attention.balance.balanced_order` makes such)."
        )


def _check_rows(segments: Any, positions: Any) -> None:
    ids = None if segments is None else np.asarray(segments)
    if ids is not None:
        for row, values in enumerate(ids):
            begins = values[np.flatnonzero(np.diff(values, prepend=values[0] - 1))]
            begins = begins[begins != 0]
            if len(set(begins.tolist())) != len(begins):
                back = next(int(x) for i, x in enumerate(begins) if x in begins[:i])
                raise InputError(
                    f"segment_ids go back to {back} in row {row}, after another document; a document's tokens stand together, so "
                    "give each its own id (or pairs of ids and positions for rows in another order)."
                )
    if positions is None or ids is None:
        return
    places = np.asarray(positions)
    ids = np.broadcast_to(ids, np.broadcast_shapes(ids.shape, places.shape))
    places = np.broadcast_to(places, ids.shape)
    inside = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != 0)
    wrong = np.argwhere(inside & (np.diff(places, axis=1) != 1))
    if len(wrong):
        row, at = (int(x) for x in wrong[0])
        raise InputError(
            f"positions disagree with segment_ids: in row {row} they go from {places[row, at]} to {places[row, at + 1]} inside one document; "
            "they rise by 1 there (give pairs of ids and positions for rows in another order)."
        )

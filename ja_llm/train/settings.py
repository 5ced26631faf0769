"""Settings as frozen dataclasses: how they stand in a run's ledger, and which parameters their patterns mean."""

import dataclasses
import difflib
import fnmatch
import json
import math
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from ja_llm.errors import UsageError


def later(default: Any) -> Any:
    """A field that came after the first runs: the ledger has it only where it is not its default, so that those runs go on."""
    return dataclasses.field(default=default, metadata={"later": True})


def described(settings: Any) -> Any:
    """A dataclass (or a sequence of them) as JSON for the ledger: its class's name and its fields.

    Tuples become lists, as they come back from a file.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = {
            field.name: described(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
            if not field.metadata.get("later") or getattr(settings, field.name) != field.default
        }
        return {"name": type(settings).__name__, **values}
    if isinstance(settings, list | tuple):
        return [described(value) for value in settings]
    return json.loads(json.dumps(settings))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (and no bool, which Python counts as one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value is an int (and no bool)."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_numbers(settings: Any) -> None:
    """Refuse a dataclass whose fields for numbers or for True and False hold something else; gin binds what it is given ("no" is true).

    Raises:
      UsageError: the field and its value.
    """
    for field in dataclasses.fields(settings):
        kinds, value = typing.get_args(field.type) or (field.type,), getattr(settings, field.name)
        if {int, float} & set(kinds) and not is_number(value) and not (value is None and type(None) in kinds):
            raise UsageError(f"{type(settings).__name__}.{field.name} is {value!r}; give a number.")
        if bool in kinds and not isinstance(value, bool):
            raise UsageError(f"{type(settings).__name__}.{field.name} is {value!r}; give True or False.")


def name_of(path: Sequence[Any]) -> str:
    """A parameter's name, e.g. "layers/mlp/wi_0/kernel", of its path in the tree."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a parameter's name fits one of the patterns (* and ? as in file names; * also takes slashes)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(what: str, patterns: Iterable[str], params: Any) -> None:
    """Refuse a pattern that no parameter fits: it would silently do nothing.

    Raises:
      UsageError: the pattern, and the parameters with near names.
    """
    if isinstance(patterns, str):
        raise UsageError(f"{what} is {patterns!r}; give a tuple of patterns, e.g. ({patterns!r},).")
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise UsageError(f"{what} names {pattern!r}, which no parameter fits; near names: {', '.join(near)}.")

"""Which macros a program reads: those that stand in the bindings of what it calls, and of whatever these refer to.

A macro may be used by a binding that nobody comes to: of a stage that no STAGES holds any more, of a schedule that another took the place of.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gin

_MACRO = "gin.macro"


def read_macros(entries: Iterable[Callable[..., Any]]) -> set[str]:
    """Names of the macros that a program may read which calls `entries`; too many rather than too few.

    Besides what `entries` refer to, at any depth, whatever is bound for configurables of other packages counts as called, for their own
    code may call it. A binding with a scope counts where a reference has come by that scope.
    """
    called = {gin.config._inverse_lookup(entry).selector for entry in entries}
    called |= {selector for _, selector in gin.config._CONFIG if selector.partition(".")[0] not in ("ja_llm", "gin")}
    scopes, macros, seen = set[str](), set[str](), set[tuple[str, str]]()
    while True:
        new = [
            key
            for key in gin.config._CONFIG
            if key not in seen
            and (key[0] in macros if key[1] == _MACRO else key[1] in called and (not key[0] or key[0].split("/")[0] in scopes))
        ]
        if not new:
            return macros
        seen.update(new)
        for reference in _references([gin.config._CONFIG[key] for key in new]):
            scope, selector = reference.config_key
            if selector == _MACRO:
                macros.add(scope)
            else:
                called.add(selector)
                scopes.update(reference.scopes)


def users(macro: str) -> list[str]:
    """What refers to a macro, by its shortest name, sorted: "rest/stages.Stage"."""
    found = set()
    for (scope, selector), values in gin.config._CONFIG.items():
        if any(reference.config_key == (macro, _MACRO) for reference in _references(values)):
            found.add(scope if selector == _MACRO else "/".join(filter(None, (scope, _short(selector)))))
    return sorted(found)


def _short(selector: str) -> str:
    """Module and name, as gin files with dynamic registration write it."""
    return ".".join(selector.split(".")[-2:])


def _references(value: Any) -> Iterator[Any]:
    if isinstance(value, gin.config.ConfigurableReference):
        yield value
    elif isinstance(value, dict):
        yield from _references([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _references(part)

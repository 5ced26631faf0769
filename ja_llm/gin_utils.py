"""gin as t5x's users know it: `--gin_file`, `--gin.NAME=VALUE`, `--gin_bindings`, `--gin_search_paths`.

Every mistake in a file or binding ends in one sentence that names it.
"""

import argparse
import ast
import contextlib
import difflib
import functools
import importlib.resources
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin  # 0.1 s
from gin import resource_reader

from ja_llm import gin_reach, gin_runs
from ja_llm.errors import UsageError


def _in_a_package(file: str) -> bool:
    """Whether gin finds a file inside an importable package.

    gin's own test fails on a folder without __init__.py, which Python takes for a package where it lies in the current folder: `models/`,
    which users have, would hide ours of that name.
    """
    try:
        return resource_reader.system_path_file_exists(file)
    except TypeError:
        return False


gin.config._FILE_READERS[:] = [
    (reader, _in_a_package if exists is resource_reader.system_path_file_exists else exists)
    for reader, exists in gin.config._FILE_READERS
]


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
    """Add t5x's gin flags to a parser; `--gin.NAME=VALUE` is taken by `split_gin_flags` before parsing."""
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file; a path, or a name inside the package's gin_configs, e.g. runs/pretrain.gin (repeat)",
    )
    parser.add_argument(
        "--gin_bindings", action="append", default=[], metavar="B", help='one binding, e.g. "train.microbatches = 2" (repeat)'
    )
    parser.add_argument(
        "--gin_search_paths",
        default="",
        metavar="DIRS",
        help="comma-separated folders in which gin files, and what they include, are looked for before the package's",
    )


def split_gin_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--gin.NAME=VALUE` out of argv: (rest, bindings).

    A value that is neither a Python literal nor a gin reference is quoted for the user, so `--gin.MODEL_DIR=runs/a` works
    as `--gin.MODEL_DIR="'runs/a'"` does.
    """
    rest, bindings = [], []
    for argument in argv:
        match = re.match(r"--gin\.([^=]+)=(.*)$", argument, re.DOTALL)
        if match:
            bindings.append(f"{match[1]} = {_literal(match[2])}")
        elif argument.startswith("--gin."):
            raise UsageError(f"{argument}: write --gin.NAME=VALUE, with an equals sign and no space.")
        else:
            rest.append(argument)
    return rest, bindings


def _literal(text: str) -> str:
    if re.match(r"[@%]", text.strip()):
        return text
    try:
        ast.literal_eval(text)
        return text
    except (ValueError, SyntaxError):
        # A container may hold gin references, which Python can't evaluate.
        return text if re.match(r"\s*[\[({]", text) and re.search(r"[@%]", text) else repr(text)


def packaged_configs() -> Path:
    """The folder of the gin files that are installed with the package."""
    return Path(str(importlib.resources.files("gin_configs")))


@contextlib.contextmanager
def parsed(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: str = "",
    required: Sequence[str] = (),
    placeholders: Mapping[str, Any] | None = None,
    foreign: Callable[[str, Any], bool] | None = None,
    entries: Sequence[Callable[..., Any]] = (),
) -> Iterator[str]:
    """Bind gin files and bindings for the length of the block.

    gin's configuration is global to the process, so it is cleared at the end: a value meant for one run must not reach the
    dataclasses that the next stage of a walk makes.

    Args:
      files: paths, or names relative to a search path or to the package's gin_configs.
      bindings: `NAME = VALUE` strings; they win over the files.
      search_paths: comma-separated folders.
      required: macros that must be bound at the end.
      placeholders: values of macros that nothing binds and the caller does not need.
      foreign: (name, value) -> whether a macro that nothing uses, or a binding of another program's class, is known and may stand there.
      entries: the configurables that will be called: a macro that the bindings name must be read by them, or by what they refer to.
        Empty: it is enough that something uses it, for other commands read other macros of the same files.

    Yields:
      The configuration as text.

    Raises:
      UsageError: a file is missing, can't be parsed or stands before the run that it changes, a binding names nothing that exists, a macro is
        unused or unbound.
    """
    gin.clear_config()
    folders = [Path(p) for p in search_paths.split(",") if p]
    found = functools.partial(_found, folders=(Path(), *folders, packaged_configs()))
    for file in files:
        if found(file) is None:
            names = sorted(p.relative_to(packaged_configs()).as_posix() for p in packaged_configs().rglob("*.gin"))
            near = difflib.get_close_matches(file, names, n=3, cutoff=0.3)
            hint = f"near names: {', '.join(near)}" if near else f"there are {', '.join(names)}"
            raise UsageError(f"{file}: this gin file is neither here nor in the package; {hint}.")
    # gin only ever appends to its search paths: one call's would be the next one's, and before the package's.
    before, gin.config._LOCATION_PREFIXES[:] = (
        list(gin.config._LOCATION_PREFIXES),
        ["", *map(str, folders), str(packaged_configs())],
    )
    try:
        _bind(gin_runs.in_order(files, found, packaged_configs() / "runs"), list(bindings))
        text = _filled(gin.config_str(), placeholders or {})
        given = {match[1] for b in bindings if (match := re.match(r"\s*([A-Z][A-Z0-9_]*)\s*=", b))}
        if entries:
            _check_in_use(text, entries)
        known = _check_macros(text, required, given, foreign or (lambda name, value: False))
        if entries:
            _check_read(given - set(required) - known, entries)
        yield text
    finally:
        gin.clear_config()
        gin.config._LOCATION_PREFIXES[:] = before


def _found(file: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def _bind(files: list[str], bindings: list[str]) -> None:
    # gin tries each search path for an include and logs each miss as an error; what is really missing it raises.
    logging.disable(logging.ERROR)
    try:
        # Not finalised: rooms that are imported later register their configurables then, and a locked gin refuses them.
        gin.parse_config_files_and_bindings(files, bindings, finalize_config=False, skip_unknown=False)
    except Exception as error:  # gin raises ValueError, SyntaxError, ImportError, OSError, RuntimeError and its own
        reason = _reason(error)
        raise UsageError(f"gin configuration: {reason}{'' if reason.endswith('?') else '.'}") from error
    finally:
        logging.disable(logging.NOTSET)


def _filled(text: str, placeholders: Mapping[str, Any]) -> str:
    """The configuration after macros that have no value were given the caller's."""
    used = set(re.findall(r"%([A-Z][A-Z0-9_]*)", text))
    bound = set(re.findall(r"^([A-Z][A-Z0-9_]*) = (?!%gin\.REQUIRED)", text, re.MULTILINE))
    missing = [f"{name} = {value!r}" for name, value in placeholders.items() if name in used - bound]
    if missing:
        _bind([], missing)
    return gin.config_str()


def statements(text: str) -> dict[str, str]:
    """What a configuration binds, {name: value as it is written}, from text as `parsed` yields it."""
    found = re.findall(r"^([\w./]+) = (.*(?:\n[ \t]+.*)*)", text, re.MULTILINE)  # a long value goes on in indented lines
    return {name: " ".join(value.replace("\\\n", "\n").split()) for name, value in found}


def unbound(error: TypeError) -> UsageError | None:
    """The sentence for a configurable that was called without all of its arguments; None where `error` is something else."""
    lacks = re.search(r"No values supplied by Gin or caller for arguments: \[(.*?)\]", str(error))
    which = re.search(r"In call to configurable '([\w./]+)' \(<(?:class|function) '?([\w.]*)", str(error))
    if not lacks or not which:
        return None
    names = re.findall(r"'(\w+)'", lacks[1])
    module = which[2].split(".")[-2] if which[2].count(".") else ""
    target = which[1] if "." in which[1] or not module else f"{module}.{which[1]}"
    return UsageError(
        f"{target} has no value for {', '.join(names)}; add "
        + " ".join(f'--gin_bindings="{target}.{name} = VALUE"' for name in names)
        + "."
    )


def _reason(error: Exception) -> str:
    if match := re.search(r"Ambiguous selector '([^']+)', matches \[(.*?)\]", str(error)):
        named = sorted(gin.config._REGISTRY.minimal_selector(name) for name in re.findall(r"'([^']+)'", match[2]))
        return f"{match[1]} is ambiguous, for there are {' and '.join(named)}; write one of these"
    if (answer := _of_t5x(str(error))) is not None:
        return answer
    # Before the general answer for a module: a file of t5x's usually begins with its imports.
    theirs = re.search(r"No module named 't5x\b|\bt5x/(configs|examples|contrib)/", str(error))
    hint = (
        " (gin files that bind t5x's own classes are for `python -m t5x.train`; docs/t5x.md has their macros)" if theirs else ""
    )
    if absent := re.match(r"No module named '([^']+)'", str(error)):  # gin's copy of the error has lost its `name`
        return f"it can't import {absent[1]}{hint or '; is its folder in PYTHONPATH?'}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400].rstrip(".") + _near(str(error)) + hint


def _of_t5x(text: str) -> str | None:
    """What stands in place of a binding of t5x's in a gin file, whose class or argument gin does not know here; None for another error."""
    from ja_llm.train import t5x_names

    unknown = re.match(r"No configurable matching '|Configurable '[\w./]+' doesn't have a parameter named '", text)
    where = re.search(r'In file "([^"]+)", line (\d+)\n\s*([\w./]+)\s*=(.*)', text)
    if not unknown or not where:
        return None
    answer = t5x_names.answer(where[3], where[4])
    return None if answer is None else f"{where[1]}, line {where[2]}: {answer.rstrip('.')}"


def _near(text: str) -> str:
    """The near names of one that gin does not know."""
    import inspect

    parameter = re.search(r"onfigurable '([\w./]+)' doesn't have a parameter named '(\w+)'", text)
    unknown = re.search(
        r"No configurable matching reference '@?%?([\w./]+?)(?:\(\))?'|No configurable matching '([\w./]+)'", text
    )
    try:
        if parameter:
            target = gin.config._REGISTRY.get_match(parameter[1]).wrapped
            known, name = list(inspect.signature(target).parameters), parameter[2]
        elif unknown:
            selectors = sorted((selector for selector, _ in gin.config._REGISTRY.items()), key=len)
            short = [selector.rsplit(".", 1)[-1] for selector in selectors]
            known = [
                last if short.count(last) == 1 else gin.config._REGISTRY.minimal_selector(whole)
                for last, whole in zip(short, selectors, strict=True)
            ]
            name = (unknown[1] or unknown[2]).rsplit(".", 1)[-1]
        else:
            return ""
    except (AttributeError, ValueError, KeyError):  # gin's own tables, which have no public name
        return ""
    near = difflib.get_close_matches(name, known, n=2) or [other for other in known if name in other][:2]
    return f" (near names: {', '.join(near)})" if near else ""


def _check_macros(text: str, required: Sequence[str], given: set[str], foreign: Callable[[str, Any], bool]) -> set[str]:
    """Refuse what is unbound or unused; gives the macros that `foreign` knows."""
    bound = set(re.findall(r"^([A-Z][A-Z0-9_]*) =", text, re.MULTILINE))
    used = set(re.findall(r"%([A-Za-z_][\w/.]*)", text))
    missing = sorted(name for name in {*required, *(u for u in used if u.isupper())} - bound if name != "REQUIRED")
    unfilled = sorted(_UNFILLED.findall(text))
    if missing or unfilled:
        name = (missing + unfilled)[0]
        raise UsageError(f"{name} has no value; add --gin.{name}=VALUE.")
    # A file's macro may lose its last use to a binding; one that the caller names and nothing uses is a slip of the pen.
    known = {name for name in bound - used - set(required) if foreign(name, gin.query_parameter(f"%{name}"))}
    for name in re.findall(r"^((?:\w+/)*\w+(?:\.\w+)+) =", text, re.MULTILINE):
        with contextlib.suppress(
            ValueError
        ):  # a configurable of another name than its function's, which gin writes but does not read
            foreign(name, gin.query_parameter(name))
    unused = sorted(given - used - set(required) - known)
    if unused:
        near = difflib.get_close_matches(unused[0], sorted(used), n=1)
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else f"; the macros in use are {', '.join(sorted(u for u in used if u.isupper()))}."
        )
        raise UsageError(f"{unused[0]} is bound, but nothing uses it{hint}")
    return known


_UNFILLED = re.compile(r"^([A-Z][A-Z0-9_]*) = %gin\.REQUIRED", re.MULTILINE)


def _check_in_use(text: str, entries: Sequence[Callable[..., Any]]) -> None:
    """Refuse a file that asks for a macro which the program would not read: another file has taken its part's place.

    Raises:
      UsageError: the macro, and what would have read it.
    """
    for name in sorted(set(_UNFILLED.findall(text)) - gin_reach.read_macros(entries)):
        if readers := ", ".join(gin_reach.users(name)):
            raise UsageError(
                f"a gin file asks for {name}, but only {readers} would read it, which nothing in use refers to: another of the files has taken its place; "
                "leave one of the two out."
            )


def _check_read(given: set[str], entries: Sequence[Callable[..., Any]]) -> None:
    """Refuse macros that were given, but stand only where the program never comes to: their settings would silently not be made.

    Raises:
      UsageError: the macro, and what would have read it.
    """
    for name in sorted(given - gin_reach.read_macros(entries)):
        readers = ", ".join(gin_reach.users(name))
        raise UsageError(
            f"{name} is given, but this run does not read it: only {readers} would, which nothing in use refers to; leave it out, or give the "
            "gin file that uses it behind all that bind the same."
        )

"""Does source code parse, and what does pylint say of it: the checks of Swallow's code corpus (facts 2.3: Python that parses, score >= 7).

A language without an entry in `CHECKS` has no check: its files pass, and their `meta` says `"syntax": "unchecked"`.
"""

import ast
import contextlib
import functools
import importlib.util
import json
import os
import tempfile
import tomllib
import warnings
from collections.abc import Callable
from typing import Any

from ja_llm.errors import UsageError


def _python(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings
        ast.parse(text)


# What raises if a text is none of this language. Python means the version that runs the job; Python 2 does not parse.
CHECKS: dict[str, Callable[[str], Any]] = {"python": _python, "json": json.loads, "toml": tomllib.loads}


def problem(language: str, text: str) -> str:
    """Why the text does not parse, "" if it does or there is no check.

    Example:
      >>> problem("python", "x = 1"), problem("python", "x ="), problem("cobol", "?")
      ('', 'line 1: invalid syntax', '')
    """
    check = CHECKS.get(language.lower())
    if check is None:
        return ""
    try:
        check(text)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, MemoryError, RecursionError) as error:  # of them: NUL bytes, nesting that the parser gives up on
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def require_pylint() -> None:
    """Say at once that pylint is absent.

    Raises:
      UsageError: it is.
    """
    if importlib.util.find_spec("pylint") is None:
        raise UsageError(
            "corpus.Code.min_pylint_score needs pylint, which is not installed; pip install 'pylint>=3', or leave the score out with "
            '--gin_bindings "corpus.Code.min_pylint_score = None".'
        )


def pylint_score(text: str) -> float | None:
    """pylint's score of a Python module (10 is best), with its own default rules; None where it gives none (no statements).

    What it says of imports that can't be found is left out: the file stands here without its packages.
    """
    run, reporter, cache = _pylint()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "module.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        arguments = [path, f"--rcfile={os.devnull}", "--persistent=no", "--disable=import-error,no-name-in-module", "--score=yes"]
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            stats = run(arguments, reporter=reporter(), exit=False).linter.stats
    cache()
    return float(stats.global_note) if stats.statement else None


@functools.cache
def _pylint() -> tuple[Any, Any, Callable[[], None]]:
    from pylint.lint import Run
    from pylint.lint.pylinter import MANAGER
    from pylint.reporters import CollectingReporter

    return Run, CollectingReporter, MANAGER.clear_cache

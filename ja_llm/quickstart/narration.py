"""How a walk tells of itself: one line for what a stage does and why, the commands behind it, one line for what came out.

    [3/10] vocab expand: Japanese falls into bytes here, so add Japanese pieces
           $ ja-llm vocab expand --model quickstart/models/base --pieces 400 \\
               --documents quickstart/corpus --out quickstart/models/expanded
           -> 1.03 tokens per Japanese character, 3.00 before; 2 s

Lines keep to 80 columns, but for a single word that is longer.
"""

import contextlib
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from ja_llm import progress

WIDTH = 80
_INDENT = "       "


class Narrator:
    """Numbers the stages, tells them on a stream, and keeps their times.

    Args:
      stages: how many there will be, if that is known.
      stream: where to; stderr by default, so that stdout stays the result.
    """

    def __init__(self, stages: int | None = None, stream: TextIO | None = None):
        self.seconds: dict[str, float] = {}
        self._stages, self._stream, self._number = stages, stream, 0

    @contextlib.contextmanager
    def stage(self, name: str, why: str, *commands: Sequence[str]) -> "Iterator[Outcome]":
        """Tell one stage around the block that does it.

        Args:
          name: the verb, or what it is.
          why: what happens and what for, a few words.
          *commands: arguments of the `ja-llm` calls that do the same.

        Yields:
          An `Outcome`; what the block says to it is told at the end.
        """
        self._number += 1
        of = f"/{self._stages}" if self._stages else ""
        self._say("\n" + wrap(f"[{self._number:2d}{of}] {name}: {why}", _INDENT))
        for command in commands:
            self._say(command_lines(command))
        outcome, start = Outcome(), time.monotonic()
        with progress.passing():
            yield outcome
        seconds = time.monotonic() - start
        self.seconds[f"{self._number:02d} {name}: {why}"] = round(seconds, 2)
        self._say(wrap(f"{_INDENT}-> {outcome.text or 'done'}; {seconds:.0f} s", _INDENT + "   "))

    def _say(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)


class Outcome:
    """What came out of a stage, in a few words."""

    text = ""

    def say(self, text: str) -> None:
        """Set it."""
        self.text = text


def command_lines(arguments: Sequence[str]) -> str:
    """A `ja-llm` call as it can be copied into a shell, broken with backslashes before column 80; a flag keeps its value."""
    words: list[str] = []
    for argument in arguments:
        quoted = quote(argument)
        if (
            words
            and words[-1].startswith("--")
            and " " not in words[-1]
            and "=" not in words[-1]
            and not argument.startswith("--")
        ):
            words[-1] += " " + quoted
        else:
            words.append(quoted)
    lines = [f"{_INDENT}$ ja-llm"]
    for word in words:
        if len(lines[-1]) + len(word) + 3 > WIDTH and lines[-1].strip() != "$ ja-llm":
            lines[-1] += " \\"
            lines.append(f"{_INDENT}    {word}")
        else:
            lines[-1] += " " + word
    return "\n".join(lines)


def quote(argument: str) -> str:
    """One shell word. A flag's value with single quotes in it, as gin's have, gets double quotes: easier to read than shlex's."""
    flag, equals, value = argument.partition("=")
    if "'" in value and not re.search(r'["$`\\!]', value) and re.fullmatch(r"--[\w.]+", flag):
        return f'{flag}{equals}"{value}"'
    return shlex.quote(argument)


def wrap(text: str, indent: str) -> str:
    """A paragraph in lines of at most 80 columns, the later ones indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

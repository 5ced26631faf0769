"""Lists of expressions, found in text by longest match: the NG expressions of Swallow v1's filter, and names of sites.

From the left, the longest expression that begins at a character is taken and the search goes on behind it. Swallow v1's measure of a page is
the characters in NG expressions / Japanese letters, and it keeps a page below .05; its public list is
MosasoM/inappropriate-words-ja (GitHub), its own additions were not published. This project ships no such list:
`corpus.Expressions.lists` names files of your own, one expression a line.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.settings.hosts import Expressions
from beam_pipelines.side_files import digests
from ja_llm.errors import UsageError
from ja_llm.files import os_error_sentence
from ja_llm.text import scripts

VERSION = 1
PACKAGES = ("pyahocorasick",)


def read_list(path: str | Path) -> list[str]:
    """The expressions of a file, one a line, without empty lines and white space at the ends.

    Raises:
      JaLlmError: the file can't be read.
      UsageError: it is not UTF-8, or holds no expression.
    """
    try:
        found = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise os_error_sentence(error, path, reading=True) from error
    except UnicodeDecodeError:
        raise UsageError(f"{path}: this list of expressions is not UTF-8; convert it (iconv -f CP932 -t UTF-8).") from None
    if not any(found):
        raise UsageError(f"{path}: this list holds no expression; give a file with one a line.")
    return [expression for expression in found if expression]


class Matcher:
    """Longest matches of a list of expressions.

    Example:
      >>> Matcher(["魚", "魚市場"]).characters("魚と魚市場")
      4
    """

    def __init__(self, expressions: Sequence[str]):
        import ahocorasick

        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for expression in expressions:
            self._automaton.add_word(expression, len(expression))
        self._automaton.make_automaton()

    def characters(self, text: str) -> int:
        """How many characters of the text lie in an expression."""
        # By first character; matches come by their last one, so the longest comes last. The automaton's own iter_long misses some (2.3.1).
        longest = {last - length + 1: length for last, length in self._automaton.iter(text)}
        total = end = 0
        for start in sorted(longest):
            if start >= end:
                total += longest[start]
                end = start + longest[start]
        return total

    def any(self, text: str) -> bool:
        """Whether the text holds one at all."""
        return next(self._automaton.iter(text), None) is not None


def measure(text: str, settings: Expressions) -> dict[str, float]:
    """Statistics of a Japanese text: nothing without lists.

    - ng_characters: characters in NG expressions
    - ng_share: / Japanese letters (kana, kanji, full stops and commas); of a text without any, / 1
    - japanese_letters
    - named: 1 if one of the names stands in it, else 0
    """
    found: dict[str, float] = {}
    if settings.lists:
        letters = scripts.count(text).japanese
        characters = _matcher(**_key(settings.lists)).characters(text)
        found = {"ng_characters": characters, "ng_share": characters / max(letters, 1), "japanese_letters": letters}
    if settings.names:
        found["named"] = int(_matcher(**_key(settings.names)).any(text))
    return found


def failures(statistics: Mapping[str, float], settings: Expressions, lang: str) -> list[str]:
    """The reason to drop a document for its NG expressions, if it has so many."""
    limit = settings.ng_share_from
    return [f"{lang}_ng_share_high"] if limit is not None and statistics.get("ng_share", 0.0) >= limit else []


def values(settings: Expressions) -> Any:
    """What decides the statistics besides the lists' contents (`files`)."""
    return [VERSION, len(settings.lists), len(settings.names)]


def files(settings: Expressions) -> dict[str, str]:
    """The lists and their digests.

    Raises:
      UsageError: one does not exist, or is no list.
    """
    for path in (*settings.lists, *settings.names):
        digests([path])
        read_list(path)
    return {**digests(settings.lists), **digests(settings.names)}


def _key(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {"paths": tuple(paths), "contents": tuple(digests(paths).values())}


@functools.cache
def _matcher(paths: tuple[str, ...], contents: tuple[str, ...]) -> Matcher:
    """One automaton a worker process and content."""
    return Matcher([expression for path in paths for expression in read_list(path)])

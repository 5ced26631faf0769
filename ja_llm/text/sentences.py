"""Sentence splitting by the rule of Swallow Corpus v1: full stops and both kinds of ! and ? end a sentence.

A line ends one too (v1 calls a line a paragraph), and closing brackets stay with the sentence that they close.
"""

import re

_SENTENCE = re.compile(r"[^。．！？!?]*(?:[。．！？!?]+[」』）)\]】〉》”’]*|$)")


def lines(text: str) -> list[str]:
    """The non-empty lines, stripped."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def sentences(text: str) -> list[str]:
    r"""Split into sentences with their end marks; no sentence is empty.

    Example:
      >>> sentences("今日は晴れ。明日は？\n「雨。」と彼は言った")
      ['今日は晴れ。', '明日は？', '「雨。」', 'と彼は言った']
    """
    return [s for line in lines(text) for match in _SENTENCE.findall(line) if (s := match.strip())]

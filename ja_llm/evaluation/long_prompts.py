"""What the Japanese harness does with a prompt that does not fit: worked examples are dropped, articles are shortened.

The rules of Stability's fork of lm-evaluation-harness (0.3.0), which the published evaluation ran MGSM and XL-Sum with. What is still too long
after them loses its beginning, as every other prompt does.
"""

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ja_llm.evaluation.benchmarks import Prompt
from ja_llm.evaluation.raw_files import Record

# (notes of an example that was made with keep_parts, tokens of a text, tokens that a prompt may have, tokens that the model takes) -> prompt
LongPrompt = Callable[[Mapping[str, Any], Callable[[str], int], int, int], str]
_BESIDE_REFERENCE = 10  # tokens
_SENTENCE = re.compile(r"[^。]*。|[^。]+")


def drop_shots(prompt: Prompt) -> LongPrompt:
    """Worked examples are dropped one by one, from the first on, until the prompt fits (MGSM)."""

    def shorten(meta: Mapping[str, Any], count: Callable[[str], int], room: int, whole: int) -> str:
        record, shots = meta["parts"]["record"], meta["parts"]["shots"]
        while shots and count(_written(prompt, record, shots)) > room:
            shots = shots[1:]
        return _written(prompt, record, shots)

    return shorten


def shorten_articles(prompt: Prompt, by_reference: bool) -> LongPrompt:
    """Articles are cut at the end of a sentence, each to an equal part of the tokens that all else leaves (XL-Sum).

    Args:
      prompt: of records with "text" and "reference".
      by_reference: the prompt may take what the reference's own length and ten tokens leave, as published: a text that may be longer than
        the reference then costs the prompt its beginning. Else what the written text leaves.
    """

    def shorten(meta: Mapping[str, Any], count: Callable[[str], int], room: int, whole: int) -> str:
        record, shots = meta["parts"]["record"], meta["parts"]["shots"]
        if by_reference:
            room = whole - count(record["reference"]) - _BESIDE_REFERENCE
        text = _written(prompt, record, shots)
        if count(text) <= room:
            return text
        bare = _written(prompt, {**record, "text": ""}, [{**shot, "text": ""} for shot in shots])
        each = max(room - count(bare), 0) // (len(shots) + 1)
        cut = [{**article, "text": _sentences(article["text"], count, each)} for article in (*shots, record)]
        return _written(prompt, cut[-1], cut[:-1])

    return shorten


def _written(prompt: Prompt, record: Record, shots: Sequence[Record]) -> str:
    return prompt.before(record, shots) + prompt.query(record)


def _sentences(text: str, count: Callable[[str], int], room: int) -> str:
    """As many whole sentences from the first on as fit; of a first one that alone does not, as many characters."""
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    kept = bisect.bisect_right(ends, room, key=lambda end: count(text[:end]))
    if kept:
        return text[: ends[kept - 1]]
    return text[: bisect.bisect_right(range(1, len(text) + 1), room, key=lambda end: count(text[:end]))]

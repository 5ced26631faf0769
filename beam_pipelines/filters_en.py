"""Heuristic statistics of English text: the quality and repetition rules of Gopher (Rae et al. 2021, appendix A.1.1)."""

import re
from collections import Counter

from beam_pipelines import rules
from ja_llm.text import scripts
from ja_llm.text.sentences import lines

VERSION = 2
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "-", "*", "‣", "▪", "●")
_ALPHABETIC = re.compile(r"[A-Za-z]")
_PUNCTUATION = ".,;:!?\"'()[]{}"


def measure(text: str) -> dict[str, float]:
    """Statistics of a text; a word is what white space separates.

    - words, mean_word_length (characters)
    - symbol_word_ratio: hash signs and ellipses / words
    - bullet_line_share, ellipsis_line_share: lines that begin with a bullet, end in an ellipsis
    - alphabetic_word_share: words with at least one letter
    - stop_words: how many different ones of the, be, to, of, and, that, have, with
    - foreign_letter_share: letters that are not Latin / letters
    - duplicate_line_share and ..._char_share: repeats of an earlier line
    - top_2gram_char_share to top_4gram_char_share: characters in the most frequent word n-gram / characters

    Example:
      >>> s = measure("The cat sat with the dog.\\n- The end of it ...")
      >>> s["words"], s["stop_words"], s["bullet_line_share"], s["ellipsis_line_share"]
      (12, 3, 0.5, 0.5)
      >>> measure("")["mean_word_length"]
      0.0
    """
    words = text.split()
    counts = scripts.count(text)
    rows = lines(text)
    characters = sum(map(len, words))
    line_share, line_chars = rules.duplicate_shares(rows)
    symbols = text.count("#") + text.count("…") + text.count("...")
    return {
        "words": len(words),
        "mean_word_length": rules.share(characters, len(words)),
        "symbol_word_ratio": rules.share(symbols, len(words)),
        "bullet_line_share": rules.share(sum(row.startswith(_BULLETS) for row in rows), len(rows)),
        "ellipsis_line_share": rules.share(sum(row.endswith(("…", "...")) for row in rows), len(rows)),
        "alphabetic_word_share": rules.share(sum(_ALPHABETIC.search(word) is not None for word in words), len(words)),
        "stop_words": len(STOP_WORDS & {word.strip(_PUNCTUATION).lower() for word in words}),
        "foreign_letter_share": rules.share(counts.letters - counts.latin, counts.letters),
        "duplicate_line_share": line_share,
        "duplicate_line_char_share": line_chars,
        **{f"top_{n}gram_char_share": rules.share(_top_ngram_characters(words, n), characters) for n in (2, 3, 4)},
    }


def _top_ngram_characters(words: list[str], n: int) -> int:
    """Characters in all occurrences of the n-gram of words that occurs most often (the longest of equals); 0 if none repeats."""
    if len(words) < n:
        return 0
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    most = max(counts.values())
    return most * max(sum(map(len, gram)) for gram, count in counts.items() if count == most) if most > 1 else 0

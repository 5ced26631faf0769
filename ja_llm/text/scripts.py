"""Which script a character belongs to, counted over whole texts at numpy speed.

The classes follow Swallow Corpus v1 (facts: hiragana U+3041-3096, katakana U+30A1-30FA without the long mark, kanji,
full stops and commas), so that its published thresholds mean the same here. Two differences, both on purpose: kanji
outside the BMP count as kanji (v1's pattern can't match them), and half-width katakana is a class of its own.
"""

import dataclasses
import functools

import numpy as np

OTHER, HIRAGANA, KATAKANA, KANJI, KUTEN, TOTEN, LATIN, HANGUL, HALFWIDTH_KANA, LETTER = range(10)

# (first, last, class); later rows win. Ranges: Unicode 16 block charts.
_RANGES = (
    (0x3041, 0x3096, HIRAGANA),
    (0x30A1, 0x30FA, KATAKANA),
    (0x3005, 0x3005, KANJI),  # iteration mark
    (0x3400, 0x4DBF, KANJI),  # extension A
    (0x4E00, 0x9FFF, KANJI),
    (0xF900, 0xFAFF, KANJI),  # compatibility ideographs
    (0x20000, 0x2FA1F, KANJI),  # extensions B to F, I and compatibility supplement
    (0x30000, 0x323AF, KANJI),  # extensions G and H
    (0xAC00, 0xD7A3, HANGUL),
    (0x1100, 0x11FF, HANGUL),
    (0xFF66, 0xFF9D, HALFWIDTH_KANA),
)
_KUTEN = "。．！？!?"  # the characters that end a sentence in v1
_TOTEN = "、，"


@dataclasses.dataclass(frozen=True)
class ScriptCounts:
    """Characters of a text by class; `letters` are characters of Unicode category L, whatever the script.

    Example:
      >>> c = count("日本語のテスト。ABC")
      >>> (c.kanji, c.hiragana, c.katakana, c.kuten, c.latin, c.letters)
      (3, 1, 3, 1, 3, 10)
    """

    characters: int
    letters: int
    hiragana: int
    katakana: int
    kanji: int
    kuten: int
    toten: int
    latin: int
    hangul: int
    halfwidth_kana: int

    @property
    def kana(self) -> int:
        """Hiragana and full-width katakana, without the long mark."""
        return self.hiragana + self.katakana

    @property
    def japanese(self) -> int:
        """Swallow v1's "Japanese letters": kana, kanji, full stops and commas."""
        return self.hiragana + self.katakana + self.kanji + self.kuten + self.toten


@functools.cache
def _table() -> np.ndarray:
    """uint8 [0x110000]: class of every code point."""
    table = np.zeros(0x110000, np.uint8)
    table[[i for i in range(0x110000) if chr(i).isalpha()]] = LETTER
    for i in [*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0xC0, 0x250), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]:
        if chr(i).isalpha():
            table[i] = LATIN
    for first, last, kind in _RANGES:
        block = table[first : last + 1]
        block[block != OTHER] = kind  # code points that are not assigned are no letters
    for text, kind in ((_KUTEN, KUTEN), (_TOTEN, TOTEN)):
        table[[ord(c) for c in text]] = kind
    return table


def code_points(text: str) -> np.ndarray:
    """uint32 [characters]: the text's code points (lone surrogates included)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def classes(text: str) -> np.ndarray:
    """uint8 [characters]: the class of each character, one of this module's constants."""
    return _table()[code_points(text)]


def count(text: str) -> ScriptCounts:
    """Count a text's characters by script."""
    n = np.bincount(classes(text), minlength=10).tolist()
    letters = sum(n[k] for k in (HIRAGANA, KATAKANA, KANJI, LATIN, HANGUL, HALFWIDTH_KANA, LETTER))
    return ScriptCounts(
        len(text), letters, n[HIRAGANA], n[KATAKANA], n[KANJI], n[KUTEN], n[TOTEN], n[LATIN], n[HANGUL], n[HALFWIDTH_KANA]
    )

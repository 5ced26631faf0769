"""Which given texts stand inside another one: character n-grams of both sides, compared after folding. One copy, used by the corpus job's
decontamination and by the evaluation's look at the training documents.

An item's coverage is the share of its characters that lie in an n-gram which the other text has, too (the measure of Llama 2's report,
arXiv:2307.09288, section A.6, with characters in place of tokens, since a tokenizer must not decide it). The items' n-grams are held in
memory, the texts stream past them: about 20 bytes an item's n-gram, whatever the size of the corpus.
"""

import functools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ja_llm.text import scripts

# Characters of an n-gram: of an item in Japanese script, of any other. Letters say less each than kanji and kana do: most runs of a
# dozen of them stand in any large corpus.
JAPANESE, OTHER = 13, 40
THRESHOLD = 0.5  # coverage from which on an item counts as seen
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_BLOCK = 1 << 20  # characters hashed at once
# Katakana with a hiragana twin.
_TO_HIRAGANA = {code: code - 0x60 for code in (*range(0x30A1, 0x30F7), 0x30FD, 0x30FE)}


@functools.cache
def _kept() -> np.ndarray:
    """bool [0x110000]: letters (the long mark is one) and digits."""
    return np.array([chr(code).isalnum() for code in range(0x110000)])


def fold(text: str) -> str:
    """What two copies of a text have in common: NFKC (widths), hiragana for katakana, lower case, letters and digits alone.

    Example:
      >>> fold("カナ・ｶﾅ Ｎo. 1！")
      'かなかなno1'
    """
    codes = scripts.code_points(unicodedata.normalize("NFKC", text).lower().translate(_TO_HIRAGANA))
    return codes[_kept()[codes]].tobytes().decode("utf-32-le", "surrogatepass")


def hashes(text: str, length: int) -> np.ndarray:
    """A 64-bit hash of each n-gram of a text: uint64 [characters - length + 1], empty for a shorter text.

    Polynomial in an odd factor modulo 2^64 over mixed code points, by prefix sums: equal n-grams have equal hashes.
    """
    codes = scripts.code_points(text).astype(np.uint64)
    if codes.size < length:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        mixed = (codes + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        powers, back = (np.cumprod(np.full(codes.size, factor, np.uint64)) for factor in (_FACTOR, _INVERSE))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers)])
        # The n-gram's own sum, moved to the beginning, so that where it stands does not count.
        return (sums[length:] - sums[:-length]) * back[: codes.size - length + 1]


def too_short(items: Mapping[str, Sequence[str]], length: int | None = None) -> tuple[str, ...]:
    """The items that an `Index` of them can't look for: none of their texts is as long as an n-gram, folded."""
    return tuple(
        name for name, texts in items.items() if max((len(fold(t)) for t in texts), default=0) < (length or _length(texts))
    )


class Index:
    """The n-grams of items, to be looked for in other texts.

    Args:
      items: name -> its texts (question, answers); n-grams do not reach from one text into the next.
      length: characters of an n-gram; None: JAPANESE or OTHER, by the item's script.

    Attributes:
      lengths: characters of an n-gram, of each item.
      too_short: items without a text of that length, which can't be looked for.
    """

    def __init__(self, items: Mapping[str, Sequence[str]], length: int | None = None):
        self.lengths = {name: length or _length(texts) for name, texts in items.items()}
        found: dict[int, dict[str, list[np.ndarray]]] = {}
        for name, texts in items.items():
            size = self.lengths[name]
            if parts := [hashes(text, size) for text in map(fold, texts) if len(text) >= size]:
                found.setdefault(size, {})[name] = parts
        self._sizes = {size: _Size(size, parts) for size, parts in found.items()}
        self.too_short = tuple(name for name in items if name not in found.get(self.lengths[name], ()))

    def __bool__(self) -> bool:
        return bool(self._sizes)

    def new_marks(self) -> dict[int, np.ndarray]:
        """Nothing seen yet; for `mark`."""
        return {size: np.zeros(part.values.size, bool) for size, part in self._sizes.items()}

    def mark(self, folded: str, seen: dict[int, np.ndarray]) -> bool:
        """Mark in `seen` the n-grams that a folded text has; whether there was one."""
        hit = False
        for size, part in self._sizes.items():
            for _, _, places in part.hits(folded):
                seen[size][places] = True
                hit = hit or places.size > 0
        return hit

    def coverage(self, seen: Mapping[int, np.ndarray]) -> dict[str, float]:
        """Share of each item's characters that lie in a marked n-gram."""
        return {name: part.coverage(name, seen[size]) for size, part in self._sizes.items() for name in part.places}

    def found_in(self, folded: str, threshold: float = THRESHOLD) -> dict[str, float]:
        """The items of which a folded text has at least this share of the characters: name -> coverage, by name."""
        found: dict[str, float] = {}
        for part in self._sizes.values():
            seen = np.zeros(part.values.size, bool)
            for _, _, places in part.hits(folded):
                seen[places] = True
            if seen.any():
                found |= {name: share for name in part.owners(seen) if (share := part.coverage(name, seen)) >= threshold}
        return dict(sorted(found.items()))

    def covered(self, folded: str, items: Sequence[str]) -> np.ndarray:
        """Bool [characters of the folded text]: whether each lies in an n-gram of one of these items."""
        covered = np.zeros(len(folded), bool)
        for size, part in self._sizes.items():
            own = [part.places[name] for name in items if name in part.places]
            wanted = np.zeros(part.values.size, bool)
            wanted[np.concatenate([np.zeros(0, np.intp), *(places for texts in own for places in texts)])] = True
            for start, where, places in part.hits(folded):
                for offset in (where[wanted[places]] + start).tolist():
                    covered[offset : offset + size] = True
        return covered


class _Size:
    """The n-grams of one length: `values` uint64, sorted and distinct; `places` item -> the places of its texts' n-grams in them."""

    def __init__(self, size: int, parts: Mapping[str, Sequence[np.ndarray]]):
        self.size = size
        self.values = np.unique(np.concatenate([array for arrays in parts.values() for array in arrays]))
        self.places = {name: [np.searchsorted(self.values, array) for array in arrays] for name, arrays in parts.items()}
        self._names = list(parts)
        counts = [sum(array.size for array in arrays) for arrays in self.places.values()]
        everywhere = np.concatenate([array for arrays in self.places.values() for array in arrays])
        order = np.argsort(everywhere, kind="stable")
        self._owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]  # of each n-gram in the order of `values`
        self._first = np.searchsorted(everywhere[order], np.arange(self.values.size + 1))

    def hits(self, folded: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of each block of a text: (its beginning, n-grams in it that are known, their places in `values`)."""
        for start in range(0, len(folded), _BLOCK):
            found = hashes(folded[start : start + _BLOCK + self.size - 1], self.size)
            places = np.minimum(np.searchsorted(self.values, found), self.values.size - 1)
            where = np.flatnonzero(self.values[places] == found)
            yield start, where, places[where]

    def owners(self, seen: np.ndarray) -> list[str]:
        """Names of the items that have one of the marked n-grams."""
        numbers = [self._owner[self._first[place] : self._first[place + 1]] for place in np.flatnonzero(seen).tolist()]
        return [self._names[number] for number in np.unique(np.concatenate(numbers)).tolist()]

    def coverage(self, name: str, seen: np.ndarray) -> float:
        return float(np.concatenate([_covered(seen[places], self.size) for places in self.places[name]]).mean())


def _length(texts: Sequence[str]) -> int:
    counts = scripts.count("".join(texts))
    return JAPANESE if counts.kana + counts.kanji > 0.2 * max(counts.letters, 1) else OTHER


def _covered(hits: np.ndarray, length: int) -> np.ndarray:
    """Bool [characters]: whether each lies in an n-gram that was hit."""
    covered = np.zeros(hits.size + length - 1, bool)
    for offset in range(length):
        covered[offset : offset + hits.size] |= hits
    return covered

"""Which test items stand in the training documents: character n-grams of both sides, compared after folding.

An item's coverage is the share of its characters that lie in an n-gram which some training document has, too (the measure of
Llama 2's report, arXiv:2307.09288, section A.6, with characters in place of tokens, since a tokenizer must not decide it). The items'
n-grams are held in memory, the documents stream past them once: 8 bytes an item's n-gram, whatever the size of the corpus.
"""

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import UsageError
from ja_llm.evaluation.statistics import Statistic, described
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


def fold(text: str) -> str:
    """What two copies of a text have in common: NFKC (widths), hiragana for katakana, lower case, letters and digits alone.

    Example:
      >>> fold("カナ・ｶﾅ Ｎo. 1！")
      'かなかなno1'
    """
    plain = unicodedata.normalize("NFKC", text).lower().translate(_TO_HIRAGANA)
    return "".join(character for character in plain if character.isalnum() or character == "ー")


def hashes(text: str, length: int) -> np.ndarray:
    """A 64-bit hash of each n-gram of a text: uint64 [characters - length + 1], empty for a shorter text.

    Polynomial in an odd factor modulo 2^64 over mixed code points, by prefix sums: equal n-grams have equal hashes.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if codes.size < length:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        mixed = (codes + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        powers, back = (np.cumprod(np.full(codes.size, factor, np.uint64)) for factor in (_FACTOR, _INVERSE))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers)])
        # The n-gram's own sum, moved to the beginning, so that where it stands does not count.
        return (sums[length:] - sums[:-length]) * back[: codes.size - length + 1]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found out about items.

    Attributes:
      coverage: item -> share of its characters that training documents have; items too short for an n-gram are left out.
      too_short: those items.
      lengths: characters of an n-gram, of each item.
    """

    coverage: dict[str, float]
    too_short: tuple[str, ...]
    lengths: dict[str, int]

    def flagged(self, threshold: float = THRESHOLD) -> set[str]:
        """Items whose coverage reaches the threshold."""
        return {item for item, share in self.coverage.items() if share >= threshold}


def search(items: Mapping[str, Sequence[str]], documents: Iterable[str], length: int | None = None) -> Found:
    """Look for test items in training documents.

    Args:
      items: name -> its texts (question, answers); n-grams do not reach from one text into the next.
      documents: texts of the training documents, read once.
      length: characters of an n-gram; None: JAPANESE or OTHER, by the item's script.

    Raises:
      UsageError: `length` is below 1.
    """
    if length is not None and length < 1:
        raise UsageError(f"an n-gram of {length} characters is asked for; give at least 1.")
    lengths = {name: length or _length(texts) for name, texts in items.items()}
    folded = {name: [text for text in map(fold, texts) if len(text) >= lengths[name]] for name, texts in items.items()}
    wanted: dict[int, np.ndarray] = {}
    for size in set(lengths.values()):
        parts = [hashes(text, size) for name, texts in folded.items() if lengths[name] == size for text in texts]
        if parts:
            wanted[size] = np.unique(np.concatenate(parts))
    seen = {size: np.zeros(found.size, bool) for size, found in wanted.items()}
    for document in documents if wanted else ():
        text = fold(document)
        for size, found in wanted.items():
            for start in range(0, len(text), _BLOCK):
                seen[size][_places(found, hashes(text[start : start + _BLOCK + size - 1], size))] = True
    coverage = {}
    for name, texts in folded.items():
        size = lengths[name]
        covered = [_covered(seen[size][np.searchsorted(wanted[size], hashes(text, size))], size) for text in texts]
        if texts:
            coverage[name] = float(np.concatenate(covered).mean())
    return Found(coverage, tuple(name for name, texts in folded.items() if not texts), lengths)


def _length(texts: Sequence[str]) -> int:
    counts = scripts.count("".join(texts))
    return JAPANESE if counts.kana + counts.kanji > 0.2 * max(counts.letters, 1) else OTHER


def item_texts(task: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What stands for each item of a published set, by "task/item": what is asked (its notes' "asked") and its answers.

    Without shots, which are other items, and without a passage that a question is about, which may well be in an encyclopedia
    that a model read.
    """
    found: dict[str, list[str]] = {}
    for example in examples:
        meta = example["meta"]
        texts = found.setdefault(f"{task}/{meta.get('question', example['id'])}", [])
        texts += [text for text in (meta["asked"], example["targets"]) if text not in texts]
    return found


def _places(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(wanted, found), wanted.size - 1)
    return places[wanted[places] == found]


def _covered(hits: np.ndarray, length: int) -> np.ndarray:
    """Bool [characters]: whether each lies in an n-gram that was hit."""
    covered = np.zeros(hits.size + length - 1, bool)
    for offset in range(length):
        covered[offset : offset + hits.size] |= hits
    return covered


def parts(statistic: Statistic, items: Sequence[str], found: Found, threshold: float = THRESHOLD) -> dict[str, Any]:
    """A measure on the clean and on the flagged items.

    Args:
      statistic: its rows are of `items`, in their order.
      items: names in `found`.
      found: of `search`.
      threshold: see `Found.flagged`.

    Returns:
      {"n_gram": lengths, "threshold", "items", "flagged", "too_short": numbers, "clean" and "seen": `statistics.described` of the part, None
      for an empty one}. Items too short to be looked for count as clean.
    """
    flagged = found.flagged(threshold)
    mask = np.array([item in flagged for item in items])

    def part(chosen: np.ndarray) -> dict[str, Any] | None:
        return described(Statistic(statistic.rows[chosen], statistic.aggregate)) if chosen.any() else None

    short = set(found.too_short)
    return {
        "n_gram": sorted({found.lengths[item] for item in items}),
        "threshold": threshold,
        "items": len(items),
        "flagged": int(mask.sum()),
        "too_short": sum(item in short for item in items),
        "clean": part(~mask),
        "seen": part(mask),
    }

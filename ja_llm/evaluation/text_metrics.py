"""Measures of one prediction against its gold answers, as plain functions: no tokenizer, no model, no chance.

All are in 0..1. What is averaged, and how sure the average is, stands in `statistics.py`.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_NOT_WORD = re.compile(r"\W")
_LATIN_1_SUPPLEMENT = {code: None for code in range(0x80, 0x100)}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if equal, character by character."""
    return float(prediction == gold)


def nfkc(text: str) -> str:
    """The text in Unicode's normalisation form KC: full-width digits and letters become plain ones."""
    return unicodedata.normalize("NFKC", text)


def charf1_llmjp(prediction: str, gold: str) -> float:
    """What llm-jp-eval and Swallow's tables call "char F1": fuzzywuzzy's `token_sort_ratio` / 100, no F1 over characters.

    Both texts lose U+0080..U+00FF (fuzzywuzzy's `force_ascii` removes no more under Python 3), every character that is no word
    character becomes a space, letters are lowered, and the words are sorted. Then 1 if equal, 0 if one is empty, else the
    normalised Indel similarity 2 LCS / (len a + len b), rounded to whole percents (half to even).
    """
    a, b = _sorted_words(prediction), _sorted_words(gold)
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    size = len(a) + len(b)
    # Written as rapidfuzz computes it: 1 - distance / maximum, so that halves fall on the same side.
    return round(100 * (1.0 - (size - 2 * longest_common_subsequence(a, b)) / size)) / 100


def _sorted_words(text: str) -> str:
    return " ".join(sorted(_NOT_WORD.sub(" ", text.translate(_LATIN_1_SUPPLEMENT)).lower().split()))


def longest_common_subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence.

    Bit-parallel: one addition of len(a)-bit integers a character of `b` (Hyyrö, "Bit-parallel LCS-length computation
    revisited", 2004, figure 2).
    """
    places: dict[str, int] = {}
    for place, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << place
    ones = (1 << len(a)) - 1
    row = ones
    for character in b:
        matches = row & places.get(character, 0)
        row = (row + matches | row - matches) & ones
    return len(a) - row.bit_count()


def character_f1(prediction: str, gold: str) -> float:
    """F1 of the two texts as multisets of characters: 2 shared / (len a + len b). Two empty texts are equal."""
    if not prediction and not gold:
        return 1.0
    return 2 * (Counter(prediction) & Counter(gold)).total() / (len(prediction) + len(gold))


def rouge_n(prediction: Sequence[str], gold: Sequence[str], n: int = 2) -> float:
    """ROUGE-N as an F measure over n-grams of units (Lin 2004, section 2; precision and recall weigh alike). 0 without an n-gram.

    Args:
      prediction: units of the prediction, see `segmenters.py`.
      gold: units of the reference.
      n: units of an n-gram.
    """

    def grams(units: Sequence[str]) -> Counter:
        return Counter(tuple(units[start : start + n]) for start in range(len(units) - n + 1))

    a, b = grams(prediction), grams(gold)
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples passes: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1).

    Raises:
      ValueError: k is not in 1..n, or c not in 0..n.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} among {samples} samples is not defined.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def squad_normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and spare white space: the rule of SQuAD's official evaluation script."""
    lowered = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def squad_exact(prediction: str, golds: Sequence[str]) -> float:
    """SQuAD 2.0's exact match: the best over the golds, normalised; a question without gold is answered by an empty text."""
    return max(float(squad_normalise(prediction) == squad_normalise(gold)) for gold in _squad_golds(golds))


def squad_f1(prediction: str, golds: Sequence[str]) -> float:
    """SQuAD 2.0's F1 over words, the best over the golds; where one side has no word, whether neither has."""
    return max(_squad_word_f1(prediction, gold) for gold in _squad_golds(golds))


def _squad_golds(golds: Sequence[str]) -> list[str]:
    return [gold for gold in golds if squad_normalise(gold)] or [""]


def _squad_word_f1(prediction: str, gold: str) -> float:
    a, b = squad_normalise(prediction).split(), squad_normalise(gold).split()
    if not a or not b:
        return float(a == b)
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b))

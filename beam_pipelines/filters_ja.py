"""Heuristic statistics of Japanese text, after Swallow Corpus v1 (NLP2024 paper and its code's definitions).

Which of them a corpus decides by is in the thresholds (`settings/filters.py`): v1 uses most; v2's page names the mean
sentence length and the hiragana share as kept, the longest sentence and the shares of duplicate n-grams as dropped.
"""

import numpy as np

from beam_pipelines import rules
from beam_pipelines.settings.filters import Statistics
from ja_llm.text import scripts
from ja_llm.text.normalise import squeeze
from ja_llm.text.sentences import lines, sentences

VERSION = 2
_TERMINAL = tuple("。．.！？!?…」』）)”\"'")  # what a line of prose ends in
_LONG_MARK = "ー"
_DEFAULT = Statistics()


def measure(text: str, settings: Statistics = _DEFAULT) -> dict[str, float]:
    """Statistics of a text, each as v1 defines it unless said otherwise.

    - letters: characters of Unicode category L, of any script (v1: letters in text)
    - japanese_letters: kana, kanji, full stops and commas
    - japanese_share: Japanese letters / letters and those marks
    - hiragana_share, katakana_share, kanji_share: / Japanese letters
    - mean_sentence_length, longest_sentence: characters
    - ellipsis_share: sentences that end in an ellipsis or nakaguro ("続きを読む…": cut-off teasers)
    - duplicate_line_share, duplicate_sentence_share and ..._char_share: repeats of an earlier one
    - top_2gram_share to top_4gram_share: count of the most frequent character n-gram / all n-grams (v1's code);
      ..._char_share: count x n / characters (datatrove's reading of Gopher's rule)
    - duplicate_5gram_share to duplicate_10gram_share: distinct n-grams that occur more than once / distinct n-grams (v1's
      code); ..._char_share: characters in n-grams that occurred before / characters (Gopher: Rae et al. 2021, A.1.1)
    - terminal_line_share: lines that end in a full stop, a mark or a closing bracket; newline_share: line ends / characters
      (FineWeb-2 has both; it divides the second by words, which are not cut here)

    Of nothing each is 0: a text without letters, one of line ends alone, or one shorter than n.

    Example:
      >>> s = measure("吾輩は猫である。名前はまだ無い。")
      >>> s["letters"], round(s["hiragana_share"], 3), s["katakana_share"], s["mean_sentence_length"]
      (14, 0.5, 0.0, 8.0)
      >>> measure("ニュースを読む…\\nニュースを読む…")["ellipsis_share"]
      1.0
      >>> measure("")["mean_sentence_length"]
      0.0
    """
    parts, rows = sentences(text), lines(text)
    line_share, line_chars = rules.duplicate_shares(rows)
    sentence_share, sentence_chars = rules.duplicate_shares(parts)
    lengths = [len(part) for part in parts]
    return {
        **_letters(text, settings),
        "mean_sentence_length": rules.share(sum(lengths), len(parts)),
        "longest_sentence": max(lengths, default=0),
        "ellipsis_share": rules.share(sum(s.endswith(rules.ELLIPSIS) for s in parts), len(parts)),
        "duplicate_line_share": line_share,
        "duplicate_line_char_share": line_chars,
        "duplicate_sentence_share": sentence_share,
        "duplicate_sentence_char_share": sentence_chars,
        "terminal_line_share": rules.share(sum(row.endswith(_TERMINAL) for row in rows), len(rows)),
        "newline_share": rules.share(text.count("\n"), len(text)),
        **_ngrams(text if settings.ngrams_with_space else squeeze(text)),
    }


def _letters(text: str, settings: Statistics) -> dict[str, float]:
    counts = scripts.count(text)
    kanji, katakana = counts.kanji, counts.katakana
    if settings.long_mark_is_katakana:
        katakana += text.count(_LONG_MARK)
    if not settings.astral_kanji and not text.isascii():
        points = scripts.code_points(text)
        if (points > 0xFFFF).any():
            kanji -= int(np.count_nonzero((points > 0xFFFF) & (scripts.classes(text) == scripts.KANJI)))
    japanese = counts.hiragana + katakana + kanji + counts.kuten + counts.toten
    return {
        "letters": counts.letters,
        "japanese_letters": japanese,
        "japanese_share": rules.share(japanese, counts.letters + counts.kuten + counts.toten),
        "hiragana_share": rules.share(counts.hiragana, japanese),
        "katakana_share": rules.share(katakana, japanese),
        "kanji_share": rules.share(kanji, japanese),
    }


def _ngrams(text: str) -> dict[str, float]:
    repeats = {r.n: r for r in rules.ngram_repeats(text, 10)}
    top = [repeats[n] for n in (2, 3, 4)]
    duplicates = [repeats[n] for n in range(5, 11)]
    return {
        **{f"top_{r.n}gram_share": rules.share(r.top, r.total) for r in top},
        **{f"top_{r.n}gram_char_share": rules.share(r.top * r.n, len(text)) for r in top},
        **{f"duplicate_{r.n}gram_share": rules.share(r.repeated, r.distinct) for r in duplicates},
        **{f"duplicate_{r.n}gram_char_share": rules.share(r.covered, len(text)) for r in duplicates},
    }

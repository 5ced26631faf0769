"""Thresholds of the stage `select` on what `annotate` measured."""

import dataclasses

import gin


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class JapaneseFilter:
    """Thresholds on `filters_ja.measure`: `min_X` keeps a text with X >= it, `max_X` one with X <= it, None switches it off.

    The defaults are Swallow Corpus v1's (NLP2024 paper and code), for the rules that v2 is known or likely to keep.
    """

    min_letters: float | None = 400
    min_japanese_share: float | None = 0.5
    min_hiragana_share: float | None = 0.2
    max_katakana_share: float | None = 0.5
    min_mean_sentence_length: float | None = 20
    max_mean_sentence_length: float | None = 90
    max_ellipsis_share: float | None = 0.2
    max_duplicate_line_share: float | None = 0.3
    max_duplicate_line_char_share: float | None = 0.2
    max_duplicate_sentence_share: float | None = 0.3
    max_duplicate_sentence_char_share: float | None = 0.2
    max_top_2gram_share: float | None = 0.2
    max_top_3gram_share: float | None = 0.18
    max_top_4gram_share: float | None = 0.16


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class EnglishFilter:
    """Thresholds on `filters_en.measure`, read as in `JapaneseFilter`; the defaults are Gopher's (Rae 2021, table A1).

    Ours is `max_foreign_letter_share`: letters of other scripts. A page that is one twentieth Chinese spends a third of a small
    English vocabulary on it.
    """

    min_words: float | None = 50
    max_words: float | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_share: float | None = 0.9
    max_ellipsis_line_share: float | None = 0.3
    min_alphabetic_word_share: float | None = 0.8
    min_stop_words: float | None = 2
    max_foreign_letter_share: float | None = 0.02
    max_duplicate_line_share: float | None = 0.3
    max_duplicate_line_char_share: float | None = 0.2
    max_top_2gram_char_share: float | None = 0.2
    max_top_3gram_char_share: float | None = 0.18
    max_top_4gram_char_share: float | None = 0.16

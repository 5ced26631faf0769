"""How `annotate` measures, and the thresholds of `select` on what it measured."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Statistics:
    """Conventions of the Japanese statistics, where systems differ.

    Attributes:
      astral_kanji: kanji outside the Basic Multilingual Plane (U+20000 and on) count as kanji. Swallow v1's code can't match them.
      long_mark_is_katakana: U+30FC counts as katakana. It does not in v1.
      ngrams_with_space: n-grams run over the whole text with its spaces and line ends, as in v1's code; else over the text
        without them, so that a page's layout does not repeat itself.
    """

    astral_kanji: bool = True
    long_mark_is_katakana: bool = False
    ngrams_with_space: bool = False


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class JapaneseFilter:
    """Thresholds on `filters_ja.measure`: `min_X` keeps a text with X >= it, `max_X` one with X <= it, None switches it off.

    The defaults are Swallow Corpus v1's (NLP2024 paper and code), for the rules that v2 is known or likely to keep; the others
    are None here and bound in `swallow_v1.gin`.

    Attributes:
      drop_on_limit: names of rules (e.g. "max_katakana_share") that also drop a text which stands exactly on the value: v1's
        paper says "or more" where its code says "more than".
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
    min_japanese_letters: float | None = None
    max_kanji_share: float | None = None
    max_longest_sentence: float | None = None
    max_duplicate_5gram_share: float | None = None
    max_duplicate_6gram_share: float | None = None
    max_duplicate_7gram_share: float | None = None
    max_duplicate_8gram_share: float | None = None
    max_duplicate_9gram_share: float | None = None
    max_duplicate_10gram_share: float | None = None
    max_top_2gram_char_share: float | None = None
    max_top_3gram_char_share: float | None = None
    max_top_4gram_char_share: float | None = None
    max_duplicate_5gram_char_share: float | None = None
    max_duplicate_6gram_char_share: float | None = None
    max_duplicate_7gram_char_share: float | None = None
    max_duplicate_8gram_char_share: float | None = None
    max_duplicate_9gram_char_share: float | None = None
    max_duplicate_10gram_char_share: float | None = None
    min_terminal_line_share: float | None = None
    max_newline_share: float | None = None
    drop_on_limit: Sequence[str] = ()

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        unknown = sorted(set(self.drop_on_limit) - {field.name for field in dataclasses.fields(self)})
        return [("drop_on_limit", unknown, not unknown, "names of this filter's rules")]


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

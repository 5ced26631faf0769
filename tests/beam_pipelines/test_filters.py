"""Every rule: its statistic by hand, and the decision on both sides of its threshold."""

import dataclasses
from collections import Counter
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beam_pipelines import config, filters_en, filters_ja, rules
from beam_pipelines.config import EnglishFilter, JapaneseFilter, Statistics

# Every rule that there is, at v1's value where it has one.
V1 = config.load("swallow_v1").japanese
JAPANESE = dataclasses.replace(V1, **{name: 0.3 for name, *_ in rules.rule_names(V1) if getattr(V1, name) is None})
SETS = [(JAPANESE, filters_ja.measure, "ja"), (EnglishFilter(), filters_en.measure, "en")]
RULES = [(t, m, lang, *rule) for t, m, lang in SETS for rule in rules.rule_names(t)]


@pytest.mark.parametrize(
    ("thresholds", "measure", "lang", "name", "side", "statistic"), RULES, ids=[f"{r[2]}.{r[3]}" for r in RULES]
)
def test_threshold_flips_the_decision(thresholds, measure, lang, name, side, statistic):
    limit = getattr(thresholds, name)
    inside = {statistic: getattr(thresholds, name) for name, _, statistic in rules.rule_names(thresholds)}
    # Statistics that stand exactly on every threshold are kept; both limits of one statistic take the upper one here.
    assert set(inside) <= set(measure("本文")), "a threshold without a statistic"
    on = {**inside, statistic: limit}
    outwards = -1e-9 * max(abs(limit), 1) if side == "min" else 1e-9 * max(abs(limit), 1)
    reason = f"{lang}_{statistic}_{'low' if side == 'min' else 'high'}"
    assert rules.decide(on, thresholds, lang) is None
    assert rules.decide({**on, statistic: limit + outwards}, thresholds, lang) == reason
    assert rules.decide({**on, statistic: limit + outwards}, dataclasses.replace(thresholds, **{name: None}), lang) is None
    if lang == "ja":
        strict = dataclasses.replace(thresholds, drop_on_limit=(name,))
        assert (
            rules.decide(on, strict, lang) == reason and rules.decide({**on, statistic: limit - outwards}, strict, lang) is None
        )


def test_v1_is_what_its_paper_and_code_say():
    """The table of the facts, by name: (statistic, limit) of the rules that drop above, and below."""
    above = {"duplicate_line_share": 0.3, "duplicate_sentence_share": 0.3, "duplicate_line_char_share": 0.2}
    above |= {"duplicate_sentence_char_share": 0.2, "top_2gram_share": 0.2, "top_3gram_share": 0.18, "top_4gram_share": 0.16}
    above |= {
        f"duplicate_{n}gram_share": limit for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.1), strict=True)
    }
    above |= {"katakana_share": 0.5, "mean_sentence_length": 90, "longest_sentence": 200, "ellipsis_share": 0.2}
    below = {"letters": 400, "japanese_letters": 400, "hiragana_share": 0.2, "japanese_share": 0.5, "mean_sentence_length": 20}
    bound = {(side, statistic): getattr(V1, name) for name, side, statistic in rules.rule_names(V1)}
    bound = {key: limit for key, limit in bound.items() if limit is not None}
    assert bound == {**{("max", s): v for s, v in above.items()}, **{("min", s): v for s, v in below.items()}}


JA = "今日は朝から静かな雨が降っていました。窓の外では小さな鳥が二羽、枝の上で休んでいます。"


@pytest.mark.parametrize(
    ("text", "statistic", "value"),
    [
        ("あいう。ABC", "letters", 6),
        ("あいう。ABC", "japanese_share", 4 / 7),
        ("あい漢字カ。", "hiragana_share", 2 / 6),
        ("あい漢字カー。", "katakana_share", 1 / 6),
        ("あいう。かきくけこ。", "mean_sentence_length", 5.0),
        ("続く…\nあいう。\n終わり・\nえ。", "ellipsis_share", 0.5),
        ("あ\nあ\nいい\nう", "duplicate_line_share", 0.25),
        ("あ\nあ\nいい\nう", "duplicate_line_char_share", 0.2),
        ("ああ。ああ。い。", "duplicate_sentence_share", 1 / 3),
        ("ああ。ああ。い。", "duplicate_sentence_char_share", 3 / 8),
        ("あいあいあ", "top_2gram_share", 0.5),
        ("あいうあいう", "top_3gram_share", 0.5),
        ("ああああああ", "top_4gram_share", 1.0),
        ("あいう。ABC", "japanese_letters", 4),
        ("漢字あい", "kanji_share", 0.5),
        ("あいう。かきくけこ。", "longest_sentence", 6),
        ("あいあいあ", "top_2gram_char_share", 4 / 5),
        ("あいうあいう", "top_3gram_char_share", 1.0),
        ("あいうえおあいうえおか", "duplicate_5gram_share", 1 / 6),
        ("あいうえおあいうえおか", "duplicate_5gram_char_share", 5 / 11),
        ("あいうえおかきあいうえおかく", "duplicate_6gram_share", 1 / 8),
        ("あいうえおあいうえおか", "duplicate_6gram_share", 0.0),
        ("あ" * 12, "duplicate_10gram_share", 1.0),
        ("あ" * 12, "duplicate_10gram_char_share", 11 / 12),
        ("見出し\n本文です。\n「引用」\n末尾…", "terminal_line_share", 0.75),
        ("あ\nい\nう", "newline_share", 0.4),
    ],
)
def test_japanese_statistics_by_hand(text, statistic, value):
    assert filters_ja.measure(text)[statistic] == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "statistic", "value"),
    [
        ("one two three", "words", 3),
        ("one three", "mean_word_length", 4.0),
        ("# a b …", "symbol_word_ratio", 0.5),
        ("- a\nb\n• c\nd", "bullet_line_share", 0.5),
        ("more...\nend", "ellipsis_line_share", 0.5),
        ("a1 22 33 b", "alphabetic_word_share", 0.5),
        ("The cat, and THE dog of (that).", "stop_words", 4),
        ("x\nx\ny", "duplicate_line_share", 1 / 3),
        ("xx\nxx\ny", "duplicate_line_char_share", 0.4),
        ("a b a b c", "top_2gram_char_share", 0.8),
        ("a b c a b c", "top_3gram_char_share", 1.0),
        ("a b c d", "top_4gram_char_share", 0.0),
        ("ab 漢字", "foreign_letter_share", 0.5),
        ("café 12 Мир!", "foreign_letter_share", 3 / 7),
        ("12 + 34", "foreign_letter_share", 0.0),
    ],
)
def test_english_statistics_by_hand(text, statistic, value):
    assert filters_en.measure(text)[statistic] == pytest.approx(value)


def test_good_text_passes_and_bad_text_names_its_fault(web):
    good = web.ja_text(1)
    assert rules.decide(filters_ja.measure(good), JapaneseFilter(), "ja") is None
    assert rules.decide(filters_en.measure(web.en_text(1)), EnglishFilter(), "en") is None
    broken = {
        "ja_letters_low": JA,
        "ja_japanese_share_low": good + " configure --prefix=/usr/local install make" * 60,
        "ja_hiragana_share_low": "東京都港区赤坂一丁目二番地三号、電話番号案内所、営業時間午前九時午後五時。" * 20,
        "ja_katakana_share_high": "".join(
            f"{i}デジタルカメラレンズアクセサリーバッグセット" + good[i * 5 : i * 5 + 6] for i in range(40)
        ),
        "ja_mean_sentence_length_low": "\n".join(good[i : i + 9] for i in range(0, len(good), 9)),
        "ja_mean_sentence_length_high": good.replace("。", "、"),
        "ja_ellipsis_share_high": good.replace("。", "…\n"),
        "ja_duplicate_line_share_high": good + "\n" + "\n".join(good.split("\n")[:4]),
    }
    for reason, text in broken.items():
        assert reason in rules.failures(filters_ja.measure(text), JapaneseFilter(), "ja"), reason


@pytest.mark.parametrize("bits", [64, 0])
@example(text="あいa\nうあい𠮟a\0あい", n=2)
@given(text=st.text(st.sampled_from("あいう𠮟a\n\0\ud800"), max_size=40), n=st.integers(2, 10))
def test_ngrams_against_counting(text, n, bits):
    """Sorted as one number, and as three where a text of millions of characters leaves no room for that."""
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    counts = Counter(grams)
    covered = {j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(i, i + n)}
    repeated = sum(count > 1 for count in counts.values())
    expected = rules.Repeats(n, len(grams), len(counts), repeated, max(counts.values(), default=0), len(covered))
    with mock.patch.object(rules, "_KEY_BITS", bits):
        assert rules.ngram_repeats(text, n)[-1] == expected


def test_conventions_where_systems_differ():
    default, v1 = Statistics(), config.load("swallow_v1").statistics
    text = "𠮟る人\nスーパー"
    assert filters_ja.measure(text, default)["kanji_share"] == 2 / 5
    assert filters_ja.measure(text, v1)["kanji_share"] == 1 / 4, "v1's pattern cannot match a kanji outside the BMP"
    marks = dataclasses.replace(default, long_mark_is_katakana=True)
    assert (
        filters_ja.measure(text, default)["katakana_share"] == 2 / 5
        and filters_ja.measure(text, marks)["katakana_share"] == 4 / 7
    )
    spaced = "あい うえ\nあい か"
    assert filters_ja.measure(spaced, default)["top_2gram_share"] == 2 / 6
    assert (
        filters_ja.measure(spaced, v1)["top_3gram_share"] == 2 / 8 and filters_ja.measure(spaced, v1)["top_2gram_share"] == 2 / 9
    )


@pytest.mark.parametrize("text", ["", "\n\n\n", "あ", "あい", "…", "。\n。", "    ", "a" * 9])
def test_texts_that_crash_other_filters_are_measured(text):
    """Shorter than an n-gram, line ends alone: v1's code divides by zero or takes the first of nothing."""
    for settings in (Statistics(), config.load("swallow_v1").statistics):
        values = filters_ja.measure(text, settings)
        assert all(value == value and 0 <= value < float("inf") for value in values.values())
        assert rules.decide(values, V1, "ja") == "ja_letters_low"


@given(st.text(max_size=60))
def test_any_text_can_be_measured(text):
    for measure in (filters_ja.measure, filters_en.measure):
        assert all(value == value and value >= 0 for value in measure(text).values())

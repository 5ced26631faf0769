"""Every rule: its statistic by hand, and the decision on both sides of its threshold."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import filters_en, filters_ja, rules
from beam_pipelines.config import EnglishFilter, JapaneseFilter

SETS = [(JapaneseFilter(), filters_ja.measure, "ja"), (EnglishFilter(), filters_en.measure, "en")]
RULES = [(t, m, lang, f.name) for t, m, lang in SETS for f in dataclasses.fields(t)]


@pytest.mark.parametrize(("thresholds", "measure", "lang", "name"), RULES, ids=[f"{r[2]}.{r[3]}" for r in RULES])
def test_threshold_flips_the_decision(thresholds, measure, lang, name):
    side, _, statistic = name.partition("_")
    limit = getattr(thresholds, name)
    inside = {f.name.partition("_")[2]: getattr(thresholds, f.name) for f in dataclasses.fields(thresholds)}
    # Statistics that stand exactly on every threshold are kept; both limits of one statistic take the upper one here.
    assert set(inside) <= set(measure("本文")), "a threshold without a statistic"
    on = {**inside, statistic: limit}
    outwards = -1e-9 * max(abs(limit), 1) if side == "min" else 1e-9 * max(abs(limit), 1)
    assert rules.decide(on, thresholds, lang) is None
    assert (
        rules.decide({**on, statistic: limit + outwards}, thresholds, lang)
        == f"{lang}_{statistic}_{'low' if side == 'min' else 'high'}"
    )
    assert rules.decide({**on, statistic: limit + outwards}, dataclasses.replace(thresholds, **{name: None}), lang) is None


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


@given(st.text(st.sampled_from("あいうえ𠮟a \n"), max_size=40), st.integers(1, 4))
def test_top_ngram_against_counting(text, n):
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    expected = max(Counter(grams).values()) / len(grams) if grams else 0.0
    assert rules.top_ngram_share(text, n) == expected


@given(st.text(max_size=60))
def test_any_text_can_be_measured(text):
    for measure in (filters_ja.measure, filters_en.measure):
        assert all(value == value and value >= 0 for value in measure(text).values())

"""Punctuation, footers and widths: known texts, each rule's edge, and what holds for any text."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.text.footer import KEYWORDS, cut_footer, keyword_share
from ja_llm.text.punctuation import normalise_punctuation
from ja_llm.text.widths import FOLDS, fold_widths


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("雨，風．", "雨、風。"),
        ("雨，風、雪", "雨，風、雪"),  # as many of both: stays
        ("雨，風，雪、花", "雨、風、雪、花"),  # one more: all
        ("雨，風．雪。花。", "雨、風．雪。花。"),  # commas and stops apart from each other
        ("１，０００円，２，０００円", "１，０００円、２，０００円"),  # a digit's comma neither counts nor changes
        ("Ａ，Ｂ，Ｃ", "Ａ，Ｂ，Ｃ"),
        ("「雨」，（風）．『雪』，", "「雨」、（風）。『雪』、"),
        ("サーバー，々，𠮷，ゝ，", "サーバー、々、𠮷、ゝ、"),
        ("a, b. 雨, 風.", "a, b. 雨, 風."),  # ASCII marks are another matter
        ("A，B，C，雨、", "A，B，C，雨、"),  # three after letters are none
    ],
)
def test_punctuation_of_known_texts(text, wanted):
    assert normalise_punctuation(text) == wanted


@settings(deadline=None)
@given(st.text("雨A１、。，．」 \n", max_size=40))
def test_punctuation_is_idempotent_and_changes_marks_only(text):
    once = normalise_punctuation(text)
    assert normalise_punctuation(once) == once
    assert once.translate({ord("、"): "，", ord("。"): "．"}) == text.translate({ord("、"): "，", ord("。"): "．"})


def test_the_edge_of_the_footer_rule():
    assert keyword_share("利用規約" + "あ" * 9) == pytest.approx(4 / 13) and keyword_share("利用規約" * 3 + "あ" * 28) == 0.3
    body = "本文の一行目です。\n本文の二行目です。\n"
    assert cut_footer(body + "利用規約" + "あ" * 9) == body.rstrip()
    assert cut_footer(body + "利用規約" * 3 + "あ" * 28) == body + "利用規約" * 3 + "あ" * 28, "exactly 30 % stays"


def test_how_many_lines_are_looked_at():
    tail = "\n".join(f"最後の文章の行その{n}です。" for n in range(5))
    text = f"本文です。\n\n利用規約 | 会社概要\n\n{tail}"
    assert cut_footer(text) == "本文です。" == cut_footer(text, 6)
    assert cut_footer(text, 5) == text == cut_footer(text, 3), "empty lines count as none"
    assert cut_footer(text, 0) == text


def test_a_keyword_in_a_sentence_is_no_footer():
    text = "個人情報保護方針とは、会社が集めた個人の情報をどのように扱うかを定めて公にした文書のことを言います。"
    assert cut_footer(text) == text
    assert len(KEYWORDS) == len(set(KEYWORDS)) >= 60


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["本文です。", "利用規約", "前へ 次へ", "", "利用規約を読むには別の頁を開いてください。", " "]),
        max_size=24,
    ),
    st.integers(0, 12),
)
def test_footer_cut_is_idempotent_and_cuts_at_the_end_alone(lines, last):
    text = "\n".join(lines)
    once = cut_footer(text, last)
    assert text.startswith(once) and cut_footer(once, last) == once


def test_widths_of_known_texts():
    assert fold_widths("ＡＢＣ１２３（ｶﾞｷﾞ）！") == "ABC123（ガギ）！"
    assert fold_widths("ＡＢＣ１２３（ｶﾞｷﾞ）！　､", "all") == "ABC123(ガギ)! 、"
    assert fold_widths("ﾎﾟﾜｰ", "letters") == "ポワー" and fold_widths("ＡＢＣ", "") == "ＡＢＣ"
    with pytest.raises(ValueError, match="must be one of"):
        fold_widths("a", "half")


@settings(deadline=None)
@given(
    st.text(st.characters(min_codepoint=0x3000, max_codepoint=0xFFEF, blacklist_categories=("Cs",)), max_size=30),
    st.sampled_from(FOLDS),
)
def test_width_folding_is_idempotent_and_loses_nothing_that_nfkc_keeps(text, fold):
    once = fold_widths(text, fold)
    assert fold_widths(once, fold) == once
    assert unicodedata.normalize("NFKC", once) == unicodedata.normalize("NFKC", text)

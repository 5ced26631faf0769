"""Cleaning, normalisation and sentences: properties for any text, and the known traps."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ja_llm.text.normalise import FORMS, clean, normalise, squeeze
from ja_llm.text.sentences import sentences

TEXT = st.text(st.sampled_from("あア亜a。！? \n\r\t\u3000\0\ufeff…」か\u3099\ud800é"), max_size=60)


@given(TEXT)
def test_clean_is_idempotent_and_encodable(text):
    once = clean(text)
    assert clean(once) == once
    once.encode("utf-8")
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in once)
    assert "\n\n\n" not in once and once == once.strip()


@given(TEXT)
def test_clean_loses_no_visible_character(text):
    kept = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs") and c != "\ufeff")
    assert squeeze(clean(text)) == squeeze(kept)


@given(TEXT, st.sampled_from(FORMS))
def test_normalise_gives_the_form(text, form):
    if form:
        assert unicodedata.is_normalized(form, normalise(text, form))
    else:
        assert normalise(text, form) == clean(text)


@given(TEXT)
def test_sentences_hold_the_whole_text(text):
    parts = sentences(text)
    assert squeeze("".join(parts)) == squeeze(text)
    assert all(parts) and all("\n" not in part for part in parts)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("今日は晴れ。明日は雨！", ["今日は晴れ。", "明日は雨！"]),
        ("「そうか。」と言った。", ["「そうか。」", "と言った。"]),
        ("本当に！？はい。", ["本当に！？", "はい。"]),
        ("見出し\n本文です。", ["見出し", "本文です。"]),
        ("終わりの印がない", ["終わりの印がない"]),
        ("\n \n", []),
    ],
)
def test_sentences_of_known_texts(text, wanted):
    assert sentences(text) == wanted

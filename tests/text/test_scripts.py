"""Script classes against the names that Unicode itself gives its characters."""

import random
import unicodedata

import numpy as np
import pytest

from ja_llm.text import scripts


def by_name(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith("HIRAGANA LETTER") and ord(character) < 0x3100:
        return "hiragana"
    if name.startswith("KATAKANA LETTER") and ord(character) < 0x3100:
        return "katakana"
    if name.startswith(("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH")):
        return "kanji"
    if name.startswith("HANGUL SYLLABLE"):
        return "hangul"
    return ""


@pytest.mark.parametrize("name", ["hiragana", "katakana", "kanji", "hangul"])
def test_classes_agree_with_unicode_names(name):
    everything = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)).startswith("L") and by_name(chr(i)) == name]
    sample = everything if len(everything) < 2000 else random.Random(0).sample(everything, 2000)
    counted = getattr(scripts.count("".join(sample)), name)
    assert counted == len(sample)
    rest = "".join(chr(i) for i in range(0x20, 0xFFFF) if not 0xD800 <= i < 0xE000 and by_name(chr(i)) != name and chr(i) != "々")
    jamo = 256 if name == "hangul" else 0  # counted as hangul, named otherwise
    assert getattr(scripts.count(rest), name) <= jamo, "letters of other scripts are counted too"


def test_letters_are_category_l():
    text = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)[::7]
    assert scripts.count(text).letters == sum(c.isalpha() for c in text)


def test_astral_kanji_and_long_mark():
    assert scripts.count("𠮟る").kanji == 1  # v1's pattern, written in UTF-16 units, misses it
    assert scripts.count("データ").katakana == 2  # the long mark is no katakana in v1's ranges
    assert scripts.count("ﾃﾞｰﾀ").halfwidth_kana == 3


def test_counts_add_up():
    c = scripts.count("日本語と English、混在。テスト！ ok?")
    assert (c.hiragana, c.katakana, c.kanji, c.toten, c.kuten, c.latin) == (1, 3, 5, 1, 3, 9)
    assert c.japanese == 13 and c.characters == 24 and c.letters == 18


def test_code_points_take_lone_surrogates():
    assert scripts.code_points("a\ud800𠮟").tolist() == [0x61, 0xD800, 0x20B9F]
    assert scripts.count("").letters == 0 and scripts.classes("").dtype == np.uint8

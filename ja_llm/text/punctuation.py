"""Punctuation of Japanese text: full-width commas and full stops to ideographic ones where a document mostly writes those.

The rule is Swallow Corpus v1's (NLP2024 paper, section on normalisation): marks are counted only after a Japanese character or a
closing bracket, so that the decimal comma of "１，０００" and the stop of "Ｎｏ．１" are neither counted nor touched.
"""

import re

# Kana with their marks, kanji with the iteration mark and those outside the BMP, brackets that close.
_BEFORE = "(?<=[\u3041-\u309f\u30a1-\u30ff\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af」』）】〉》〕］｝”’)\\]])"
_PAIRS = (("，", "、"), ("．", "。"))
_MARKS = {mark: re.compile(f"{_BEFORE}{mark}") for pair in _PAIRS for mark in pair}


def normalise_punctuation(text: str) -> str:
    """Replace "，" by "、" if more of the first than of the second follow Japanese; the same for "．" and "。", apart from each other.

    Example:
      >>> normalise_punctuation("雨が，降る．価格は１，０００円．")
      '雨が、降る。価格は１，０００円。'
      >>> normalise_punctuation("雨が、風が、雪が，降る。")
      '雨が、風が、雪が，降る。'
    """
    for wide, ideographic in _PAIRS:
        if wide in text:
            count = len(_MARKS[wide].findall(text))
            if count > len(_MARKS[ideographic].findall(text)):
                text = _MARKS[wide].sub(ideographic, text)
    return text

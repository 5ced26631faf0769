"""The packaged language model: what it says, that its features mean what they claim, and that its file is what the card describes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ja_llm.text.language_model import BUCKETS, CARD, PACKAGED, LanguageModel, features, load, packaged

JAPANESE = [
    "設定を保存してから、もう一度プログラムを起動してください。",
    "東京都の人口は増え続けている。",
    "メニューの「ファイル」を選択",
    "ｶﾀｶﾅだけのページです。",
    "コマンド ls は一覧を表示します。 usage: ls [options] file " * 3,
]
OTHERS = [
    "Save the settings and start the program again.",
    "请保存设置，然后重新启动程序。本页介绍如何在首次使用之前进行配置。",
    "請儲存設定，然後重新啟動程式。這個頁面說明如何設定。",
    "설정을 저장한 다음 프로그램을 다시 시작하십시오.",
    "Сохраните настройки и перезапустите программу.",
    "احفظ الإعدادات ثم أعد تشغيل البرنامج.",
    "The museum's Japanese name is 美術館, and it opened in 1952 near the old harbour of the city.",
]


@pytest.mark.parametrize("text", JAPANESE)
def test_japanese(text):
    assert packaged().score(text) > 0 and packaged().probability(text) > 0.5


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages(text):
    assert packaged().score(text) < 0 and packaged().probability(text) < 0.5


@pytest.mark.parametrize("text", ["", " \n\u3000", "\x00", "\ud800", "123", "あ", "a"])
def test_texts_of_next_to_nothing(text):
    assert np.isfinite(packaged().score(text))
    assert packaged().score("") <= 0 and packaged().score(" \n") <= 0


@given(st.text(max_size=60))
def test_features_are_all_ngrams_up_to_three(text):
    plain = " ".join(text.split())
    n = len(plain.lower())
    grams = features(text)
    assert len(grams) == sum(max(0, n - k) for k in range(3)) and (grams >= 0).all() and (grams < BUCKETS).all()
    assert (features(f"  {text}\n") == grams).all()


def test_letters_and_digits_are_alike_and_order_is_not():
    assert (features("Version 1.2!") == features("vERSION 9-8?")).all() and (features("abc") == features("xyz")).all()
    assert set(features("いろは")) != set(features("はろい"))


def test_score_is_the_formula():
    weights = np.zeros(BUCKETS, np.float32)
    grams = features("あい")
    weights[grams] = [1, 2, 4]
    assert len(grams) == 3 and LanguageModel(weights, -0.5).score("あい") == pytest.approx(7 / 3**0.5 - 0.5)


def test_a_model_comes_back_from_its_file_and_the_bytes_are_its_own(tmp_path):
    model = LanguageModel(np.arange(-5, BUCKETS - 5, dtype=np.float32) / BUCKETS, 0.25)
    for name in ("a", "b"):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = load(tmp_path / "a")
    assert again.bias == 0.25 and np.abs(again.weights - model.weights).max() <= 0.5 / 127
    assert PACKAGED.stat().st_size < 300_000


def test_the_card_says_what_was_reached():
    card = json.loads(CARD.read_text())
    measured = card["heldout"]["by_characters"]["10 or more"]
    assert measured["precision"] >= 0.999 and measured["recall"] >= 0.979, "Swallow's figures, on texts of ten characters or more"
    assert measured["japanese"] > 1000 and card["trained_on"]["by_language"]["ja"] > 10_000

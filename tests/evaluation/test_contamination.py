"""Test items in training documents: the index finds what a plain search finds, through widths, kana and punctuation."""

import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.evaluation.contamination import parts, search
from ja_llm.evaluation.statistics import Statistic
from ja_llm.text import ngrams
from ja_llm.text.ngrams import fold, hashes


def texts(count, seed):
    draw = np.random.default_rng(seed)
    words = ["東京", "タワー", "海", "the ", "sea", "１２", "ｱ", "あ", "い", "。"]
    return ["".join(draw.choice(words, int(draw.integers(1, 40)))) for _ in range(count)]


def slow_coverage(item, documents, length):
    """Each n-gram of the item looked for with Python's own `in`."""
    text = fold(item)
    covered = set()
    for start in range(len(text) - length + 1):
        if any(text[start : start + length] in document for document in documents):
            covered.update(range(start, start + length))
    return len(covered) / len(text)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_coverage_equals_a_plain_search(length):
    items = {str(n): [text] for n, text in enumerate(texts(220, 0))}
    documents = texts(12, 1)
    found = search(items, iter(documents), length)
    folded = [fold(document) for document in documents]
    short = {name for name, (text,) in items.items() if len(fold(text)) < length}
    assert set(found.too_short) == short and set(found.coverage) == set(items) - short
    values = [slow_coverage(items[name][0], folded, length) for name in found.coverage]
    assert list(found.coverage.values()) == pytest.approx(values)
    assert length == 1 or len({round(v, 3) for v in values}) > 10


def test_what_folding_joins():
    assert fold("カーナビ・ｶｰﾅﾋﾞ") == fold("かーなびかーなび") and fold("ＡＢＣ　１２") == "abc12"
    assert fold("ヽヾヴ") == "ゝゞゔ" and fold("、。「」") == ""
    item = "富士山の標高は三千七百七十六メートルである。"
    spoilt = "…富士山の標高は、三千七百七十六ﾒｰﾄﾙである(出典)…"
    assert search({"a": [item]}, [spoilt]).coverage == {"a": 1.0}
    assert search({"a": [item]}, [spoilt.replace("標高", "高さ")], 8).coverage["a"] == pytest.approx(15 / 21)
    assert search({"a": [item]}, []).coverage == {"a": 0.0}


def test_n_grams_do_not_reach_over_texts_and_blocks_do_not_hide_them(monkeypatch):
    assert search({"a": ["abcdefgh", "ijklmnop"]}, ["abcdefghijklmnop"], 12).too_short == ("a",)
    assert search({"a": ["abcdefgh", "ijklmnop"]}, ["defghijk"], 4).coverage["a"] == 5 / 16
    monkeypatch.setattr(ngrams, "_BLOCK", 10)
    document = "".join(map(chr, range(0x4E00, 0x4E00 + 95)))
    assert search({"a": [document[33:60]]}, [document]).coverage["a"] == 1.0


def test_letters_take_longer_n_grams_than_kana():
    english = "the lighthouse keeper counted eleven ships before the storm came in"
    items = {"ja": ["灯台守は嵐が来る前に十一隻の船を数えた。"], "en": [english], "half": [english]}
    found = search(items, ["灯台守は嵐が来る前に十一隻の船を数えた", english[:38], "x"])
    assert found.lengths == {"ja": 13, "en": 40, "half": 40}
    assert found.coverage == {"ja": 1.0, "en": 0.0, "half": 0.0} and found.flagged() == {"ja"}
    assert search(items, [english]).flagged() == {"en", "half"}


def test_hashes_are_of_the_n_gram_alone():
    draw = np.random.default_rng(2)
    text = "".join(map(chr, draw.integers(0x3041, 0x3045, 3000)))
    by_gram = {}
    for start, value in enumerate(hashes(text, 7).tolist()):
        assert by_gram.setdefault(text[start : start + 7], value) == value
    assert len(set(by_gram.values())) == len(by_gram) > 2000
    assert hashes("ab", 3).size == 0
    with pytest.raises(UsageError, match="at least 1"):
        search({}, [], 0)


def test_scores_on_clean_and_seen_items():
    found = search({"a": ["abcdefgh"], "b": ["qrstuvwx"], "c": ["z"], "d": ["abcdefgh"]}, ["xxabcdefghxx"], 8)
    value = parts(Statistic([1.0, 0.0, 1.0, 0.0]), ["a", "b", "c", "d"], found)
    assert (value["items"], value["flagged"], value["too_short"]) == (4, 2, 1)
    assert value["clean"]["value"] == 0.5 == value["seen"]["value"] and value["clean"]["interval"] == [0.0, 1.0]
    assert parts(Statistic([1.0]), ["b"], found)["seen"] is None

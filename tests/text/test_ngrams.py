"""The index of n-grams: folding equals its slow form, and what a text holds is what a plain search says."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ja_llm.text import ngrams
from ja_llm.text.ngrams import Index, fold, too_short

TEXT = st.text(st.sampled_from("アあｱﾞがカ゛aＡß１①ー・。 \nΣΟ𠮷"), max_size=50)


@settings(deadline=None)
@given(TEXT)
def test_folding_equals_its_definition(text):
    to_hiragana = {c: c - 0x60 for c in (*range(0x30A1, 0x30F7), 0x30FD, 0x30FE)}
    plain = unicodedata.normalize("NFKC", text).lower().translate(to_hiragana)
    assert fold(text) == "".join(c for c in plain if c.isalnum())
    assert fold("ー") == "ー"


def plain_coverage(item, text, n):
    covered = {place for at in range(len(item) - n + 1) if item[at : at + n] in text for place in range(at, at + n)}
    return len(covered) / len(item)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=14), min_size=1, max_size=6), st.text("abc", max_size=40), st.integers(1, 5))
def test_items_of_one_text_are_those_of_a_plain_search(items, text, n):
    index = Index({str(k): [item] for k, item in enumerate(items)}, n)
    assert set(index.too_short) == {str(k) for k, item in enumerate(items) if len(item) < n}
    assert too_short({str(k): [item] for k, item in enumerate(items)}, n) == index.too_short
    wanted = {str(k): share for k, item in enumerate(items) if len(item) >= n and (share := plain_coverage(item, text, n)) >= 0.5}
    assert index.found_in(text, 0.5) == pytest.approx(wanted)
    for name in wanted:
        item = items[int(name)]
        starts = {at for at in range(len(text) - n + 1) if text[at : at + n] in item}
        assert np.flatnonzero(index.covered(text, [name])).tolist() == sorted({s + k for s in starts for k in range(n)})


def test_blocks_do_not_hide_what_lies_over_their_edge(monkeypatch):
    monkeypatch.setattr(ngrams, "_BLOCK", 10)
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 95)))
    index = Index({"a": [text[33:60]], "b": ["x" * 50]})
    assert index.found_in(text) == {"a": 1.0}
    assert np.flatnonzero(index.covered(text, ["a", "b"])).tolist() == list(range(33, 60))


def test_an_empty_index_finds_nothing():
    index = Index({"a": ["短い"]})
    assert (
        not index
        and index.too_short == ("a",) == too_short({"a": ["短い"]})
        and index.found_in("短い文") == {}
        and not index.covered("短い文", ["a"]).any()
    )

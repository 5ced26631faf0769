"""A small tokenizer for model folders."""

import pytest

from ja_llm.vocab.train import train_sentencepiece

TEXTS = [
    "The harbour wakes before the sun does.",
    "朝の市場には、採れたての野菜が並びます。",
    "A good map tells you what it leaves out.",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return train_sentencepiece([t * 3 for t in TEXTS] * 20, tmp_path_factory.mktemp("vocab"), vocab_size=340)


@pytest.fixture(scope="session")
def texts():
    return TEXTS

"""The character model is a proper distribution, equals a slow independent one, and is fast enough."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.evaluation.ngram import CharacterNgram

# Unicode scalar values (0x110000 code points without 0x800 surrogates), and the end of a document.
OUTCOMES = 1_112_064 + 1

TRAIN = ["ねこがねた。", "ねこもねた。", "いぬがねた", "a cat sat", "", "𠮷野家のねこ"]
TEST = ["ねこがいた。", "zebra 𠮷", "", "いぬもねた。\n"]


class SlowWittenBell:
    """The definition, written with dictionaries and recursion."""

    def __init__(self, texts, order):
        self.order = order
        self.followers = defaultdict(Counter)
        for text in texts:
            symbols = ["<s>"] * (order - 1) + list(text) + ["</s>"]
            for i in range(order - 1, len(symbols)):
                for k in range(order):
                    self.followers[tuple(symbols[i - k : i])][symbols[i]] += 1

    def p(self, symbol, context):
        lower = self.p(symbol, context[1:]) if context else 1 / OUTCOMES
        seen = self.followers.get(context)
        if not seen:
            return lower
        return (seen[symbol] + len(seen) * lower) / (sum(seen.values()) + len(seen))

    def logprobs(self, text):
        symbols = ["<s>"] * (self.order - 1) + list(text) + ["</s>"]
        return [math.log(self.p(symbols[i], tuple(symbols[i - self.order + 1 : i]))) for i in range(self.order - 1, len(symbols))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_slow_definition(order):
    slow, fast = SlowWittenBell(TRAIN, order), CharacterNgram(order).train(TRAIN)
    for text, got in zip(TEST, fast.logprobs(TEST), strict=True):
        np.testing.assert_allclose(got, slow.logprobs(text), rtol=1e-12)


@pytest.mark.parametrize("prefix", ["", "ね", "ねこが", "いぬがねた", "xyz", "。\n𠮷"])
def test_probabilities_sum_to_one_with_the_unseen_mass(prefix):
    """Seen characters one by one, one unseen character times their number, and the end."""
    model = CharacterNgram(5).train(TRAIN)
    seen = sorted(set("".join(TRAIN)))
    at = len(prefix)
    total = sum(math.exp(row[at]) for row in model.logprobs([prefix + c for c in seen]))
    total += math.exp(model.logprobs([prefix])[0][at])  # the end of the document
    total += math.exp(model.logprobs([prefix + "Ω"])[0][at]) * (OUTCOMES - 1 - len(seen))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_an_unseen_alphabet_costs_the_uniform_distribution_and_the_escapes():
    model = CharacterNgram(1).train(["aab"])  # n = 4 (end too), t = 3
    assert model.logprobs(["Ω"])[0][0] == pytest.approx(math.log(3 / 7 / OUTCOMES))
    assert model.logprobs(["a"])[0][0] == pytest.approx(math.log((2 + 3 / OUTCOMES) / 7))


def test_bits_per_byte_counts_utf8_bytes_and_the_end():
    model = CharacterNgram(5).train(TRAIN)
    result = model.bits_per_byte(TEST)
    assert result["bytes"] == len("".join(TEST).encode())
    assert result["bits"] == pytest.approx(-sum(p.sum() for p in model.logprobs(TEST)) / math.log(2))
    assert result["interval"][0] <= result["bits_per_byte"] <= result["interval"][1]
    assert result == model.bits_per_byte(TEST)
    assert model.bits_per_byte(TRAIN)["bits_per_byte"] < result["bits_per_byte"]


def test_nothing_to_train_or_measure_is_said():
    with pytest.raises(JaLlmError, match="no text"):
        CharacterNgram().train([])
    with pytest.raises(JaLlmError, match="no held-out text"):
        CharacterNgram().train(["a"]).bits_per_byte([""])
    with pytest.raises(JaLlmError, match="surrogate"):
        CharacterNgram().train(["\ud800"])

"""Scores equal a brute force, whatever else is in the batch, and known models give known bits per byte."""

import math

import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.bits_per_byte import bits_per_byte, document_scores, summarise
from ja_llm.evaluation.statistics import bootstrap_interval, proportion


def sequences(sizes, seed=0):
    generator = np.random.default_rng(seed)
    # Many zeros: a scorer that takes id 0 for padding fails.
    return [(generator.integers(0, 258, n) * generator.integers(0, 2, n)).tolist() for n in sizes]


@pytest.mark.parametrize("length", [5, 40, 64, 200])
def test_equals_brute_force_over_windows(prefix_scorer, brute_force, length):
    ids = sequences([1, 2, 31, 33, 41, 64, 65, 66, 129, 300])
    for got, sequence in zip(prefix_scorer(batch_size=3, length=length).token_logprobs(ids), ids, strict=True):
        assert got.shape == (len(sequence) - 1,)
        np.testing.assert_allclose(got, brute_force(sequence, length), atol=1e-4)


def test_a_window_starts_afresh_from_the_previous_token(prefix_scorer):
    (ids,) = sequences([100], seed=3)
    scorer = prefix_scorer(batch_size=2, length=32)
    whole = scorer.token_logprobs([ids])[0]
    for start in range(0, 99, 32):
        part = scorer.token_logprobs([ids[start : start + 33]])[0]
        np.testing.assert_array_equal(whole[start : start + 32], part)


def test_result_does_not_depend_on_the_batch(prefix_scorer):
    ids = sequences([3, 300, 17, 40, 90, 2, 65, 31], seed=1)
    scorer = prefix_scorer(batch_size=4, length=64)
    together = scorer.token_logprobs(ids)
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    shuffled = scorer.token_logprobs([ids[n] for n in order])
    for place, number in enumerate(order):
        np.testing.assert_array_equal(shuffled[place], together[number])
        np.testing.assert_array_equal(scorer.token_logprobs([ids[number]])[0], together[number])


def test_bad_sequences_and_settings_are_refused(prefix_scorer):
    scorer = prefix_scorer(batch_size=2, length=8)
    with pytest.raises(JaLlmError, match="no token"):
        scorer.token_logprobs([[1], []])
    with pytest.raises(JaLlmError, match="token id 258, but the model has 258 rows"):
        scorer.token_logprobs([[1, 258]])
    with pytest.raises(UsageError, match="at least 1"):
        prefix_scorer(batch_size=0)


def test_damaged_weights_are_said(byte_tokenizer):
    from ja_llm.evaluation.scoring import Scorer

    scorer = Scorer.from_logits_fn(lambda p, t, s, q: p * np.ones((*t.shape, 4), np.float32), float("nan"), 4)
    with pytest.raises(JaLlmError, match="NaN"):
        scorer.token_logprobs([[1, 2]])


@pytest.mark.parametrize("vocab_size", [258, 1000])
def test_uniform_model_has_the_known_bits_per_byte(uniform_scorer, vocab_size):
    """Each document of b bytes costs (b + 1) log2(V) bits: BOS is free, EOS is not."""
    texts = ["abc", "日本語", "", "x" * 500]
    result = bits_per_byte(uniform_scorer(vocab_size), [(str(n), t) for n, t in enumerate(texts)])
    size = 3 + 9 + 0 + 500
    assert (result["bytes"], result["tokens"], result["documents"]) == (size, size + 4, 4)
    assert result["bits_per_byte"] == pytest.approx((size + 4) * math.log2(vocab_size) / size, rel=1e-6)


def test_uniform_model_over_256_bytes_tends_to_8(uniform_scorer):
    """The 258 outcomes of the byte vocabulary, rescaled to 256, cost 8.000 bits a byte on a long text."""
    result = bits_per_byte(uniform_scorer(258), [("a", "z" * 20000)])
    assert result["bits_per_byte"] * 8 / math.log2(258) == pytest.approx(8.0, abs=1e-3)


def test_hand_computed_document(prefix_scorer, brute_force):
    ids = [256, *"日a".encode(), 257]
    expected = -brute_force(ids, 64).sum() / math.log(2)
    (score,) = document_scores(prefix_scorer(batch_size=2, length=64), ["日a"])
    assert score["bits"] == pytest.approx(expected, rel=1e-5)
    assert (score["bytes"], score["tokens"]) == (4, 5)
    assert summarise([score])["bits_per_byte"] == pytest.approx(expected / 4, rel=1e-5)


def test_interval_is_seeded_and_covers():
    generator = np.random.default_rng(0)
    sizes = generator.integers(100, 10_000, 400).astype(float)
    bits = sizes * generator.normal(2.0, 0.5, 400)
    low, high = bootstrap_interval(bits, sizes, seed=1)
    assert (low, high) == bootstrap_interval(bits, sizes, seed=1)
    assert low < bits.sum() / sizes.sum() < high
    # Linearised standard error of a ratio of sums, from the textbook (Cochran 1977, section 2.11).
    ratio = bits.sum() / sizes.sum()
    error = np.sqrt(((bits - ratio * sizes) ** 2).sum()) / sizes.sum()
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert bootstrap_interval(np.array([3.0]), np.array([2.0])) == (1.5, 1.5)


def test_proportion_has_the_binomial_standard_error():
    value = proportion(np.array([1, 1, 1, 0]))
    assert value["value"] == 0.75
    assert value["standard_error"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_no_text_is_refused():
    with pytest.raises(JaLlmError, match="no held-out text"):
        summarise([])

"""What is drawn from is what transformers draws from; a nucleus is the brute-force one."""

import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.evaluation.sampling import Sampling, choose, drawn_from, nucleus

SETTINGS = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 400},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"temperature": 1.9, "top_k": 12, "top_p": 0.7, "min_p": 0.02},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_transformers_draws_from_the_same(settings):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings = {"temperature": 1.0, **settings}
    logits = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32) * 3
    expected = torch.from_numpy(logits)
    named = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    for name, warper in named.items():
        if name in settings:
            expected = warper(settings[name])(None, expected)
    np.testing.assert_allclose(np.asarray(drawn_from(logits, Sampling(**settings))), expected.numpy(), rtol=1e-6)


def test_transformers_penalises_the_same():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    draw = np.random.default_rng(1)
    logits, ids = draw.normal(size=(300, 6)).astype(np.float32), draw.integers(0, 6, (300, 3))
    expected = transformers.RepetitionPenaltyLogitsProcessor(2.5)(torch.from_numpy(ids), torch.from_numpy(logits))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    ours = np.asarray(choose(logits, seen, None, Sampling(repetition_penalty=2.5)))
    np.testing.assert_array_equal(ours, expected.numpy().argmax(-1))
    assert (ours != logits.argmax(-1)).any()


def test_nucleus_is_the_smallest_set_of_likely_tokens():
    draw = np.random.default_rng(0)
    for top_p in (0.1, 0.5, 0.95):
        logits = draw.normal(size=(40, 30)).astype(np.float32) * 3
        kept = np.isfinite(np.asarray(nucleus(logits, top_p)))
        for row, keeps in zip(logits.astype(np.float64), kept, strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            wanted, total = set(), 0.0
            for token in sorted(range(30), key=lambda t: -shares[t]):
                if total >= top_p:
                    break
                wanted.add(token)
                total += shares[token]
            assert set(np.flatnonzero(keeps)) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} is {value}; it must be"):
        Sampling(**wrong)

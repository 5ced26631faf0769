"""A generator's prefill that computes shared prefixes and equal prompts once: each row is what it is without that, and a fault shows."""

import jax
import numpy as np
import pytest

from ja_llm.evaluation.prefix_cache import PrefixCache
from ja_llm.models import decode
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params

CONFIG = DecoderConfig(50, 16, 1, 2, 1, 8, 32, 256, scan_layers=False)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: x * 4, init_params(CONFIG, jax.random.key(0)))


def plain(params, tokens, lengths, cache_length):
    cache = decode.init_cache(CONFIG, len(tokens), cache_length)
    return jax.jit(decode.prefill, static_argnums=0)(CONFIG, params, cache, tokens, lengths)


def padded(prompts, rows=8):
    tokens, lengths = np.zeros((rows, 128), np.int32), np.ones(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return tokens, lengths


def test_equal_prompts_of_a_batch_are_computed_once(params):
    draw, rows_computed = np.random.default_rng(0), []

    def counted(params, tokens, *rest):
        rows_computed.append(len(tokens))
        return plain(params, tokens, *rest)

    a, b = (draw.integers(0, 50, n).tolist() for n in (90, 70))
    tokens, lengths = padded([a, a, a, b, b, b, a])  # the eighth row is beside the prompts
    expected_cache, expected = plain(params, tokens, lengths, 192)
    cache, logits = PrefixCache(CONFIG, params).prefill(counted)(params, tokens, lengths, 192)
    assert rows_computed == [2]
    np.testing.assert_allclose(logits[:7], expected[:7], atol=1e-5)
    step = jax.jit(decode.decode_step, static_argnums=0)
    after, before = (step(CONFIG, params, c, np.arange(8, dtype=np.int32))[1] for c in (cache, expected_cache))
    np.testing.assert_allclose(after[:7], before[:7], atol=1e-5)


FAULTS = {
    "": lambda prefix: prefix,
    "a token of the prefix is missing": lambda prefix: prefix[1:],
    "a token of the prefix is another one": lambda prefix: (*prefix[:-1], (prefix[-1] + 1) % 50),
    "another prompt's prefix": lambda prefix: tuple(reversed(prefix)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_the_shared_prefill_is_seen(params, monkeypatch, fault):
    rows = PrefixCache.rows
    monkeypatch.setattr(PrefixCache, "rows", lambda self, prefix, *rest: rows(self, FAULTS[fault](prefix), *rest))
    draw = np.random.default_rng(1)
    examples = draw.integers(0, 50, 66).tolist()
    tokens, lengths = padded([examples + draw.integers(0, 50, n).tolist() for n in range(3, 11)])
    _, logits = PrefixCache(CONFIG, params).prefill(plain)(params, tokens, lengths, 192)
    apart = np.abs(np.asarray(logits - plain(params, tokens, lengths, 192)[1])).max()
    assert apart < 1e-4 if not fault else apart > 1e-2

"""Decoding with a cache gives the tokens that the whole forward pass gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decode import cache_lengths, decode_step, init_cache, prefill
from ja_llm.models.decoder import Decoder, init_params

CONFIG = DecoderConfig(
    vocab_size=60, embed_dim=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32, max_length=40
)
PROMPTS = [[5, 9, 1, 30, 22], [7], [3, 3, 8, 59, 2, 2, 41]]


@pytest.fixture(scope="module")
def params():
    values = init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: 6 * x if x.ndim > 2 else x, values)  # large enough that the choices vary


@pytest.fixture(scope="module")
def functions():
    return tuple(jax.jit(f, static_argnums=0) for f in (prefill, decode_step))


def prompts() -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, PROMPTS))
    return np.array([p + [0] * (width - len(p)) for p in PROMPTS]), np.array([len(p) for p in PROMPTS])


def greedy_by_full_passes(params, prompt: list[int], count: int) -> tuple[list[int], list[np.ndarray]]:
    full = jax.jit(lambda p, t: Decoder(CONFIG).apply({"params": p}, t, t))
    ids, seen = list(prompt), []
    for _ in range(count):
        # Padded behind to one length: a causal model does not see it.
        padded = np.array([ids + [0] * (CONFIG.max_length - len(ids))])
        seen.append(np.asarray(full(params, padded))[0, len(ids) - 1])
        ids.append(int(seen[-1].argmax()))
    return ids[len(prompt) :], seen


def test_rows_of_different_lengths_decode_as_each_alone_by_full_passes(params, functions):
    fill, step = functions
    tokens, lengths = prompts()
    cache, logits = fill(CONFIG, params, init_cache(CONFIG, 3, 20), tokens, lengths)
    chosen, seen = [], []
    for _ in range(8):
        seen.append(np.asarray(logits))
        chosen.append(np.asarray(jnp.argmax(logits, -1)))
        cache, logits = step(CONFIG, params, cache, chosen[-1])
    for row, prompt in enumerate(PROMPTS):
        expected, expected_logits = greedy_by_full_passes(params, prompt, 8)
        assert [int(c[row]) for c in chosen] == expected
        np.testing.assert_allclose([s[row] for s in seen], expected_logits, atol=2e-5)
    assert len({tuple(int(c[row]) for c in chosen) for row in range(3)}) == 3
    np.testing.assert_array_equal(cache_lengths(cache), lengths + 8)


def test_a_prompt_in_two_pieces_is_the_prompt_in_one(params, functions):
    fill, _ = functions
    tokens, lengths = prompts()
    whole, logits = fill(CONFIG, params, init_cache(CONFIG, 3, 20), tokens, lengths)
    first = np.minimum(lengths, 4)
    cache, early = fill(CONFIG, params, init_cache(CONFIG, 3, 20), tokens[:, :4], first)
    cache, late = fill(CONFIG, params, cache, tokens[:, 4:], lengths - first)
    np.testing.assert_allclose(np.where((lengths > 4)[:, None], late, early), logits, atol=2e-5)
    np.testing.assert_array_equal(cache["cache_slots"]["filled"], whole["cache_slots"]["filled"])


def test_what_stands_in_the_padding_does_not_matter(params, functions):
    fill, step = functions
    tokens, lengths = prompts()
    noisy = np.where(np.arange(tokens.shape[1])[None] < lengths[:, None], tokens, 17)
    results = []
    for ids in (tokens, noisy):
        cache, logits = fill(CONFIG, params, init_cache(CONFIG, 3, 20), ids, lengths)
        results.append((logits, step(CONFIG, params, cache, np.array([1, 2, 3]))[1]))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_full_row_keeps_its_tokens(params, functions):
    fill, step = functions
    cache, _ = fill(CONFIG, params, init_cache(CONFIG, 1, 3), np.array([[4, 5, 6]]), np.array([3]))
    after, _ = step(CONFIG, params, cache, np.array([7]))
    jax.tree.map(np.testing.assert_array_equal, after, cache)


def test_unscanned_layers_have_the_same_cache_interface(params, functions):
    fill, _ = functions
    config = dataclasses.replace(CONFIG, scan_layers=False)
    apart = {k: v for k, v in params.items() if k != "layers"}
    apart |= {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(2)}
    tokens, lengths = prompts()
    _, ours = fill(config, apart, init_cache(config, 3, 20), tokens, lengths)
    _, scanned = fill(CONFIG, params, init_cache(CONFIG, 3, 20), tokens, lengths)
    np.testing.assert_allclose(ours, scanned, atol=2e-5)


def test_a_cache_beyond_the_model_is_refused():
    with pytest.raises(UsageError, match="41 positions.*1 to 40"):
        init_cache(CONFIG, 1, 41)

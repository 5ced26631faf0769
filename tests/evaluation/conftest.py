"""A byte tokenizer whose id 0 is a real token, and a small causal model that remembers its whole prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.scoring import Scorer
from ja_llm.vocab.base import Tokenizer


class ByteTokenizer(Tokenizer):
    vocab_size, bos_id, eos_id, unk_id, fingerprint = 258, 256, 257, None, "bytes"

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def encode_with_offsets(self, text):
        places = [(n, n + 1) for n, c in enumerate(text) for _ in c.encode()]
        return self.encode(text), places

    def id_to_piece(self, index):
        return f"<0x{index:02X}>"

    def export_hf(self, directory):
        raise NotImplementedError

    def _save_model(self, directory):
        raise NotImplementedError


_GENERATOR = np.random.default_rng(7)
PARAMS = {
    "embedding": _GENERATOR.normal(size=(258, 12)).astype(np.float32),
    "head": _GENERATOR.normal(size=(12, 258)).astype(np.float32),
}


def prefix_logits(params, tokens, segment_ids, positions):
    """Logits from a weighted sum over the prefix inside the row; what is padding does not count."""
    value = params["embedding"][tokens] * jnp.cos(positions * 0.3)[..., None] * (segment_ids > 0)[..., None]
    return jnp.tanh(jnp.cumsum(value, axis=1)) @ params["head"]


def prefix_prefill(params, tokens, lengths, cache_length):
    """The same model with what a cache must hold: the weighted sum of each prefix, and its length."""
    columns = jnp.arange(tokens.shape[1])
    weights = jnp.cos(columns * 0.3) * (columns < lengths[:, None])
    state = jnp.einsum("bld,bl->bd", params["embedding"][tokens], weights)
    return (state, lengths), jnp.tanh(state) @ params["head"]


def prefix_step(params, cache, tokens):
    state, lengths = cache
    state = state + params["embedding"][tokens] * jnp.cos(lengths * 0.3)[:, None]
    return (state, lengths + 1), jnp.tanh(state) @ params["head"]


def uniform_logits(params, tokens, segment_ids, positions):
    return jnp.broadcast_to(params, (*tokens.shape, params.size))


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()


def _slow_logits(ids):
    """Logits after a prefix, in float64."""
    state = sum(PARAMS["embedding"][token].astype(np.float64) * np.cos(place * 0.3) for place, token in enumerate(ids))
    return np.tanh(state) @ PARAMS["head"].astype(np.float64)


@pytest.fixture
def slow_logits():
    return _slow_logits


@pytest.fixture
def brute_force():
    """Log-probabilities of one sequence, window by window, token by token."""

    def score(ids, length):
        out = []
        for place in range(len(ids) - 1):
            logits = _slow_logits(ids[place - place % length : place + 1])
            out.append(logits[ids[place + 1]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
        return np.array(out)

    return score


@pytest.fixture
def prefix_scorer(byte_tokenizer):
    return lambda **kw: Scorer.from_logits_fn(prefix_logits, PARAMS, 258, tokenizer=byte_tokenizer, **kw)


@pytest.fixture
def prefix_generator(byte_tokenizer):
    return lambda **kw: Generator.from_functions(
        jax.jit(prefix_prefill, static_argnums=3), prefix_step, PARAMS, byte_tokenizer, 128, **kw
    )


@pytest.fixture
def uniform_scorer(byte_tokenizer):
    """A model that gives each of `vocab_size` tokens the same probability."""
    return lambda vocab_size: Scorer.from_logits_fn(
        uniform_logits, np.ones(vocab_size, np.float32), vocab_size, batch_size=4, length=64, tokenizer=byte_tokenizer
    )

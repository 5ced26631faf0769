"""Experts: no token is dropped, padding and company do not matter, and the balance loss does not know about microbatches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params, param_axes
from ja_llm.models.experts import BALANCE, Experts, row_balance
from ja_llm.train.step import accumulate, loss_sums

CONFIG = DecoderConfig(
    vocab_size=64,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=24,
    max_length=16,
    num_experts=4,
    experts_per_token=2,
)


@pytest.fixture(scope="module")
def params():
    values = init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: 5 * x if x.ndim > 2 else x, values)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (8, 17)).astype(np.int32)
    filled = np.arange(16)[None, :] < np.array([16, 16, 1, 2, 16, 3, 1, 1])[:, None]
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": filled.astype(np.float32),
        "decoder_segment_ids": filled.astype(np.int32),
        "decoder_positions": np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16)) * filled,
    }


@pytest.mark.parametrize("changes", [{}, {"scan_layers": False}, {"remat_policy": "full"}])
def test_gradients_and_balance_do_not_depend_on_the_number_of_microbatches(batch, changes):
    """With a coefficient at which the balance loss is a large part of the whole."""
    config = dataclasses.replace(CONFIG, **changes)
    params = init_params(config, jax.random.key(0))
    grad = jax.jit(
        lambda p, m: accumulate(functools.partial(loss_sums, Decoder(config), z_loss=0.0, balance_loss=1.0), p, batch, m),
        static_argnums=1,
    )
    whole, sums = grad(params, 1)
    assert float(sums["balance_loss_sum"]) >= float(sums["weight_sum"]) * 0.99  # each row's is about one or more
    for microbatches in (2, 8):
        parts, part_sums = grad(params, microbatches)
        assert float(part_sums["balance_loss_sum"]) == pytest.approx(float(sums["balance_loss_sum"]), rel=1e-6)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


def test_the_balance_loss_reaches_the_router_only_through_its_own_coefficient(params, batch):
    def router(coefficient):
        grads, _ = accumulate(
            functools.partial(loss_sums, Decoder(CONFIG), z_loss=0.0, balance_loss=coefficient), params, batch, 1
        )
        return np.asarray(grads["layers"]["mlp"]["router"]["kernel"])

    nothing, once, twice = router(0.0), router(0.5), router(1.0)
    np.testing.assert_allclose(twice - nothing, 2 * (once - nothing), rtol=1e-3, atol=1e-4)
    assert np.abs(once - nothing).max() > 1e-3


def test_a_row_and_its_balance_are_those_of_the_row_alone(params, batch):
    ids, segments = batch["decoder_input_tokens"], batch["decoder_segment_ids"]
    call = lambda i, s: Decoder(CONFIG).apply({"params": params}, i, i, decoder_segment_ids=s, mutable=[BALANCE])  # noqa: E731
    logits, sown = call(ids, segments)
    for row in (0, 5):
        length = int(segments[row].sum())
        alone, own = call(ids[row : row + 1, :length], segments[row : row + 1, :length])
        np.testing.assert_allclose(logits[row, :length], alone[0], atol=2e-5)
        assert float(row_balance(own)[0]) == pytest.approx(float(row_balance(sown)[row]), rel=1e-5)


def test_tokens_that_all_choose_the_same_experts_are_computed_all(params):
    """Sixteen equal tokens: an expert with a capacity would drop some of them."""
    values = jax.tree.map(lambda x: x[0], params["layers"]["mlp"])
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (1, 1, 16)), (1, 16, 16))
    out = Experts(CONFIG).apply({"params": values}, x, None)
    alone = Experts(CONFIG).apply({"params": values}, x[:, :1], None)
    assert np.linalg.norm(alone) > 0.1
    np.testing.assert_allclose(out, np.broadcast_to(alone, out.shape), rtol=1e-5, atol=1e-5)


def test_parameters_have_an_expert_axis_and_impossible_settings_are_refused():
    shapes, axes = abstract_params(CONFIG)["layers"]["mlp"], param_axes(CONFIG)["layers"]["mlp"]
    assert shapes["wi_0"]["kernel"].shape == (2, 4, 16, 24) and axes["wi_0"]["kernel"] == ("layers", "expert", "embed", "mlp")
    assert shapes["router"]["kernel"].shape == (2, 16, 4) and axes["router"]["kernel"] == ("layers", "embed", "expert")
    for change in ({"experts_per_token": 5}, {"mlp_bias": True}, {"gated_mlp": False}):
        with pytest.raises(UsageError, match="experts"):
            dataclasses.replace(CONFIG, **change)

"""The step's arithmetic: a weighted mean over the whole batch however it is cut, and nothing changed by a step that is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.learning_rates import WarmupConstant, WarmupCosine
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import StepOptions, TrainState, accumulate, loss_sums, make_train_step

CONFIG = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=16
)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


LOSS = functools.partial(loss_sums, Decoder(CONFIG), z_loss=0.0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (8, 17)).astype(np.int32)
    # Rows are filled very unevenly, so a mean of microbatch means differs visibly from the mean over tokens.
    filled = np.arange(16)[None, :] < np.array([16, 16, 1, 2, 16, 3, 1, 1])[:, None]
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": filled.astype(np.float32),
        "decoder_segment_ids": filled.astype(np.int32),
        "decoder_positions": np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16)) * filled,
    }


def one_step(params, batch, **kwargs):
    optimizer = AdamW(weight_decay=0.0).transformation()
    step = jax.jit(
        make_train_step(loss_sums, Decoder(CONFIG), optimizer, WarmupConstant(peak=1e-2, warmup_steps=1), StepOptions(**kwargs))
    )
    return step(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)), batch)


@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_gradients_do_not_depend_on_the_number_of_microbatches(params, batch, microbatches):
    whole, sums = accumulate(LOSS, params, batch, 1)
    parts, part_sums = accumulate(LOSS, params, batch, microbatches)
    assert float(part_sums["weight_sum"]) == float(sums["weight_sum"]) == batch["decoder_loss_weights"].sum()
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_loss_is_the_weighted_mean_computed_row_by_row_in_numpy(params, batch):
    logits = Decoder(CONFIG).apply(
        {"params": params},
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        decoder_segment_ids=batch["decoder_segment_ids"],
        decoder_positions=batch["decoder_positions"],
    )
    logits = np.asarray(logits, np.float64)
    total = weight = 0.0
    for row in range(8):
        for t in range(16):
            w = batch["decoder_loss_weights"][row, t]
            if w:
                z = logits[row, t]
                total += w * (np.log(np.exp(z - z.max()).sum()) + z.max() - z[batch["decoder_target_tokens"][row, t]])
                weight += w
    _, metrics = one_step(params, batch)
    assert float(metrics["loss"]) == pytest.approx(total / weight, rel=1e-5)
    assert float(metrics["target_tokens"]) == weight == 56


def test_targets_of_weight_zero_change_nothing(params, batch):
    other = dict(batch)
    other["decoder_target_tokens"] = np.where(batch["decoder_loss_weights"] > 0, batch["decoder_target_tokens"], 63)
    a, metrics_a = one_step(params, batch)
    b, metrics_b = one_step(params, other)
    assert float(metrics_a["loss"]) == float(metrics_b["loss"])
    assert all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    )


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(params, batch):
    bad = dict(batch, decoder_loss_weights=batch["decoder_loss_weights"] * np.float32(np.inf))
    state, metrics = one_step(params, bad)
    assert float(metrics["finite"]) == 0.0
    assert int(state.step) == 0
    assert all(
        (np.asarray(x) == np.asarray(y)).all()
        for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True)
    )


def test_update_is_optax_adamw_with_the_schedules_rate(params, batch):
    settings = AdamW(weight_decay=0.1)
    transformation = settings.transformation()
    schedule = WarmupCosine(peak=1e-2, final=1e-3, warmup_steps=4, total_steps=20)
    step = jax.jit(make_train_step(loss_sums, Decoder(CONFIG), transformation, schedule))
    state = TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params))
    mask = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "scale", params)
    reference = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=mask)
    )
    ref_params, ref_state = params, reference.init(params)
    for _ in range(3):
        grads, sums = accumulate(LOSS, ref_params, batch, 1)
        updates, ref_state = reference.update(jax.tree.map(lambda g, s=sums: g / s["weight_sum"], grads), ref_state, ref_params)
        ref_params = optax.apply_updates(ref_params, updates)
        state, _ = step(state, batch)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(ref_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_schedule_is_optax_warmup_cosine_one_step_ahead_in_the_warmup():
    ours = WarmupCosine(peak=1e-3, final=1e-4, warmup_steps=10, total_steps=110)
    theirs = optax.schedules.cosine_decay_schedule(1e-3, 100, alpha=0.1)
    assert [float(ours(s)) for s in (0, 4, 9)] == pytest.approx([1e-4, 5e-4, 1e-3])
    for step in (10, 11, 60, 109, 110, 500):
        assert float(ours(step)) == pytest.approx(float(theirs(step - 10)), rel=1e-5)


def test_a_schedule_that_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="makes no schedule"):
        WarmupCosine(peak=1e-4, final=1e-3, warmup_steps=1, total_steps=10)

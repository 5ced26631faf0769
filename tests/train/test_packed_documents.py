"""A training run on packed rows is the run on the same documents one per row, whatever computes attention and loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.attention import interpreted
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import TrainState, accumulate, loss_sums, make_train_step

LENGTH = 24
CONFIG = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=LENGTH
)
ROWS = [[11, 1, 7, 5], [24], [2, 20]]  # documents of each packed row; the last row ends in padding


def batches():
    """The same documents packed, and one in each row."""
    rng = np.random.default_rng(0)
    documents = [[rng.integers(1, 64, n + 1).astype(np.int32) for n in row] for row in ROWS]
    return _batch(documents), _batch([[d] for row in documents for d in row])


def _batch(rows):
    names = ("input_tokens", "target_tokens", "segment_ids", "positions")
    batch = {f"decoder_{name}": np.zeros((len(rows), LENGTH), np.int32) for name in names}
    for i, row in enumerate(rows):
        start = 0
        for number, d in enumerate(row, 1):
            at = slice(start, start := start + len(d) - 1)
            for name, value in zip(names, (d[:-1], d[1:], number, np.arange(len(d) - 1)), strict=True):
                batch[f"decoder_{name}"][i, at] = value
    return batch | {"decoder_loss_weights": (batch["decoder_segment_ids"] > 0).astype(np.float32)}


@pytest.fixture(scope="module")
def params():
    # Three times the initial values: attention that is far from uniform.
    return jax.tree.map(lambda p: 3 * p if p.ndim > 1 else p, init_params(CONFIG, jax.random.key(0)))


def relative(a, b):
    return max(
        float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    ("attention", "loss"),
    [("xla", "logits"), ("tiled xla", "linear"), ("reference", "linear"), ("tpu", "linear"), ("triton", "linear")],
)
def test_loss_and_gradients_of_packed_rows_are_those_of_one_document_a_row(params, attention, loss, monkeypatch):
    if attention == "tiled xla":  # as rows above 512 are computed
        monkeypatch.setattr("ja_llm.attention.xla._SHORT", 0)
        attention = "xla"
    module = Decoder(dataclasses.replace(CONFIG, attention=attention))
    f = jax.jit(lambda b: accumulate(functools.partial(loss_sums, module, z_loss=1e-3, loss=loss), params, b, 1))
    with interpreted():
        (packed, sums), (single, single_sums) = (f(b) for b in batches())
    assert sums["weight_sum"] == single_sums["weight_sum"] == sum(map(sum, ROWS))
    assert float(sums["loss_sum"]) == pytest.approx(float(single_sums["loss_sum"]), rel=1e-5)
    assert relative(packed, single) <= 1e-5


def test_a_run_on_packed_rows_is_the_run_on_single_ones(params):
    """Four steps of AdamW, by the default implementations; the learning rate makes the loss fall by a tenth or more."""
    transformation = AdamW(weight_decay=0.0).transformation()
    step = jax.jit(make_train_step(loss_sums, Decoder(CONFIG), transformation, WarmupConstant(peak=1e-3, warmup_steps=1)))
    losses = []
    for batch in batches():
        state, found = TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params)), []
        for _ in range(4):
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"]))
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("changes", [{"tie_embeddings": True, "logits_softcap": 5.0, "padding_ids": 6}, {"num_experts": 2}])
def test_the_loss_without_logits_is_that_of_the_logits(changes):
    module = Decoder(dataclasses.replace(CONFIG, **changes))
    params = init_params(module.config, jax.random.key(1))
    batch = {k: v % 58 if "tokens" in k else v for k, v in batches()[0].items()}
    (grads, sums), (old_grads, old_sums) = (
        jax.jit(
            lambda b, loss=loss: accumulate(
                functools.partial(loss_sums, module, z_loss=1e-3, balance_loss=0.01, loss=loss), params, b, 1
            )
        )(batch)
        for loss in ("linear", "logits")
    )
    for name, value in old_sums.items():
        assert float(sums[name]) == pytest.approx(float(value), rel=1e-6)
    assert relative(grads, old_grads) <= 2e-6

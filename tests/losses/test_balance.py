"""The load-balance loss: transformers' value for one row, its bounds, and rows that do not touch each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.losses.balance import balance_loss


def routed(seed: int, rows: int, length: int, experts: int, count: int):
    """Logits, probabilities, choices as ones."""
    logits = np.random.default_rng(seed).normal(size=(rows, length, experts)).astype(np.float32) * 2
    probabilities = jax.nn.softmax(logits)
    chosen = jax.nn.one_hot(jax.lax.top_k(probabilities, count)[1], experts).sum(-2)
    return logits, probabilities, chosen


@pytest.mark.parametrize(("experts", "count"), [(8, 2), (5, 3), (4, 1)])
def test_a_row_has_transformers_value(experts, count):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.models.mixtral.modeling_mixtral").load_balancing_loss_func
    logits, probabilities, chosen = routed(0, 3, 20, experts, count)
    real = np.arange(20)[None] < np.array([20, 13, 1])[:, None]
    ours = balance_loss(probabilities, chosen, jnp.asarray(real))
    for row in range(3):
        mask = torch.from_numpy(real[row : row + 1].astype(np.int64))
        expected = theirs((torch.from_numpy(logits[row]),), experts, count, mask)
        assert float(ours[row]) * count == pytest.approx(float(expected), rel=1e-5)


def test_even_use_is_one_and_one_expert_alone_is_their_number():
    even = jnp.full((1, 6, 3), 1 / 3)
    assert float(balance_loss(even, jnp.tile(jnp.eye(3), (2, 1))[None])[0]) == pytest.approx(1)
    alone = jnp.tile(jnp.array([0.0, 1.0, 0.0]), (1, 6, 1))
    assert float(balance_loss(alone, alone)[0]) == pytest.approx(3)
    assert float(balance_loss(alone, alone, jnp.zeros((1, 6), bool))[0]) == 0


def test_a_row_does_not_know_the_others():
    _, probabilities, chosen = routed(1, 4, 9, 4, 2)
    whole = balance_loss(probabilities, chosen)
    for row in range(4):
        np.testing.assert_array_equal(balance_loss(probabilities[row : row + 1], chosen[row : row + 1])[0], whole[row])

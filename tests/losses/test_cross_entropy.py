"""Cross-entropy against torch, and the weights' promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.losses.cross_entropy import cross_entropy

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 7, 50)).astype(np.float32) * 8
    weights = rng.choice([0.0, 1.0, 0.25], size=(3, 7)).astype(np.float32)
    return logits, rng.integers(0, 50, (3, 7)).astype(np.int32), weights


def by_torch(logits, targets, weights, z_loss):
    """(loss, z term, gradient for the logits) with torch's own cross-entropy and log-sum-exp, in float64."""
    x = torch.tensor(np.asarray(logits), dtype=torch.float64, requires_grad=True)
    w = torch.tensor(weights, dtype=torch.float64)
    plain = torch.nn.functional.cross_entropy(
        x.reshape(-1, x.shape[-1]), torch.tensor(targets).long().reshape(-1), reduction="none"
    )
    z = z_loss * torch.logsumexp(x, -1) ** 2
    loss = (w * (plain.reshape(w.shape) + z)).sum()
    loss.backward()
    return loss.item(), (w * z).sum().item(), x.grad.numpy()


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_value_and_gradient_equal_torch(case, z_loss):
    logits, targets, weights = case
    loss, z, gradient = by_torch(logits, targets, weights, z_loss)
    total, z_sum, weight = cross_entropy(logits, targets, weights, z_loss)
    assert [total.dtype, z_sum.dtype, weight.dtype] == [jnp.float32] * 3
    assert float(total) == pytest.approx(loss, rel=1e-6) and float(z_sum) == pytest.approx(z, rel=1e-6)
    assert float(weight) == weights.sum()
    ours = jax.grad(lambda x: cross_entropy(x, targets, weights, z_loss)[0])(logits)
    np.testing.assert_allclose(ours, gradient, rtol=1e-5, atol=5e-6)  # logits near 25: float32 knows their exp to 2e-6


def test_gradients_of_the_z_term_and_of_the_weights(case):
    logits, targets, weights = case
    both = lambda x, w: cross_entropy(x, targets, w, 1e-2)[1]  # noqa: E731
    with_z, without = (jax.grad(lambda x, z=z: cross_entropy(x, targets, weights, z)[0])(logits) for z in (1e-2, 0.0))
    np.testing.assert_allclose(jax.grad(both)(logits, weights), with_z - without, atol=1e-5)
    ones = np.ones_like(weights)
    per_token = jax.grad(lambda w: cross_entropy(logits, targets, w, 1e-2)[0])(ones)
    assert float(per_token.sum()) == pytest.approx(float(cross_entropy(logits, targets, ones, 1e-2)[0]), rel=1e-6)


def test_a_token_of_weight_zero_does_not_count_whatever_stands_there(case):
    logits, targets, weights = case
    spoilt, far = logits.copy(), targets.copy()
    spoilt[weights == 0], far[weights == 0] = np.nan, 10**6
    spoilt[np.nonzero(weights == 0)[0][0], np.nonzero(weights == 0)[1][0]] = np.inf
    f = jax.value_and_grad(lambda x, t: cross_entropy(x, t, weights, 1e-3)[0])
    (a, ga), (b, gb) = f(logits, targets), f(spoilt, far)
    assert float(a) == float(b)
    np.testing.assert_array_equal(ga, gb)
    assert not np.any(gb[weights == 0])


def test_large_and_bfloat16_logits_are_summed_in_float32(case):
    logits, targets, weights = case
    large = logits + 3e4  # exp of it is infinite in any format
    assert float(cross_entropy(large, targets, weights)[0]) == pytest.approx(by_torch(large, targets, weights, 0.0)[0], rel=1e-5)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    expected = by_torch(rounded.astype(jnp.float32), targets, weights, 0.0)[0]
    assert float(cross_entropy(rounded, targets, weights)[0]) == pytest.approx(expected, rel=1e-6)

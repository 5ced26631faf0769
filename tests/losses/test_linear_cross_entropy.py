"""The loss without logits against torch in float64, in slabs of any size; its memory; what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.losses.cross_entropy import cross_entropy
from ja_llm.losses.linear_cross_entropy import linear_cross_entropy

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 7, 16), (16, 50)))
    weights = rng.choice([0.0, 1.0, 0.25], size=(3, 7)).astype(np.float32)
    return x, w, rng.integers(0, 45, (3, 7)).astype(np.int32), weights


def by_torch(x, w, targets, weights, z_loss=0.0, softcap=None, padding=0):
    """(sums, token losses, lse, gradients of x, w, weights) in float64."""
    x, w, weights = (torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in (x, w, weights))
    logits = x @ w[:, : w.shape[1] - padding]
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    lse = torch.logsumexp(logits, -1)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).long().flatten(), reduction="none")
    z = z_loss * lse**2
    token = plain.reshape(lse.shape) + z
    (weights * token).sum().backward()
    found = ((weights * token).sum(), (weights * z).sum(), token, lse, x.grad, w.grad, weights.grad)
    return [a.detach().numpy() for a in found]


@pytest.mark.parametrize(("slab", "options"), [(None, {}), (4, {}), (8, {"z_loss": 1e-2, "softcap": 3.0, "padding_rows": 5})])
def test_values_and_gradients_equal_torch_in_any_slabs(case, slab, options):
    x, w, targets, weights = case
    f = functools.partial(linear_cross_entropy, targets=targets, slab=slab, **options)

    def scaled(x, w, weights):
        found = f(x, w, weights=weights)
        return 0.5 * found.loss_sum, found

    (_, found), grads = jax.jit(jax.value_and_grad(scaled, (0, 1, 2), has_aux=True))(x, w, weights)
    z_loss, softcap, padding = (options.get(name) for name in ("z_loss", "softcap", "padding_rows"))
    theirs = by_torch(x, w, targets, weights, z_loss or 0.0, softcap, padding or 0)
    counted = weights != 0
    assert float(found.loss_sum) == pytest.approx(float(theirs[0]), rel=1e-6)
    assert float(found.z_loss_sum) == pytest.approx(float(theirs[1]), rel=1e-6, abs=1e-9)
    assert float(found.weight_sum) == weights.sum()
    np.testing.assert_allclose(found.loss, theirs[2] * counted, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(found.lse, theirs[3] * counted, rtol=2e-6, atol=1e-6)
    for ours, exact in zip(grads[:2], theirs[4:6], strict=True):
        np.testing.assert_allclose(ours, 0.5 * exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads[2], 0.5 * theirs[6] * counted, rtol=1e-5, atol=1e-6)
    if padding:
        assert not np.any(grads[1][:, -padding:])
    # Outside a gradient the same values come from a program without the two products of the gradient.
    alone = jax.jit(lambda x, w: f(x, w, weights=weights).loss_sum)
    assert float(alone(x, w)) == pytest.approx(float(found.loss_sum), rel=1e-6)
    assert str(jax.make_jaxpr(alone)(x, w)).count("dot_general[") == 1
    assert str(jax.make_jaxpr(jax.grad(alone))(x, w)).count("dot_general[") == 3


def test_it_is_cross_entropy_of_the_logits(case):
    x, w, targets, weights = case
    old = jax.value_and_grad(lambda x, w: cross_entropy(x @ w, targets, weights, 1e-3)[0], (0, 1))
    new = jax.value_and_grad(lambda x, w: linear_cross_entropy(x, w, targets, weights, z_loss=1e-3).loss_sum, (0, 1))
    for a, b in zip(jax.tree.leaves(old(x, w)), jax.tree.leaves(new(x, w)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stands_there", [1e30, np.inf, np.nan])
def test_a_token_of_weight_zero_has_no_influence_even_where_it_is_not_finite(case, stands_there):
    x, w, targets, weights = case
    bad, beyond = x.copy(), targets.copy()
    bad[weights == 0], beyond[weights == 0] = stands_there, 10**6
    f = jax.value_and_grad(lambda x, w, t: linear_cross_entropy(x, w, t, weights, slab=8, z_loss=1e-3).loss_sum, (0, 1))
    (clean, gradients), (value, changed) = f(x, w, targets), f(bad, w, beyond)
    assert float(value) == float(clean) and not np.any(gradients[0][weights == 0])
    for a, b in zip(gradients, changed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_through_the_token_losses_is_no_silent_zero(case):
    x, w, targets, weights = case
    mean = lambda x: linear_cross_entropy(x, w, targets, weights).loss.mean()  # noqa: E731
    with pytest.raises(ValueError, match="gradient is asked for through z_loss_sum, loss or lse.*derive loss_sum"):
        jax.grad(mean)(x)
    assert np.isnan(jax.jit(jax.grad(mean))(x)).all()
    both = lambda x: (found := linear_cross_entropy(x, w, targets, weights)).loss_sum + 0 * found.lse.sum()  # noqa: E731
    assert np.isfinite(jax.jit(jax.grad(both))(x)).all()


def test_float32_products_are_not_rounded_on_an_accelerator(case):
    """Seen in the program: the default precision of float32 products is bfloat16's on TPUs, TF32's on GPUs."""
    x, w, targets, weights = case
    f = jax.grad(lambda x, w: linear_cross_entropy(x, w, targets, weights).loss_sum, (0, 1))
    for dtype, count in (("float32", 3), ("bfloat16", 0)):
        text = jax.jit(f).lower(*(jnp.asarray(a, dtype) for a in (x, w))).as_text()
        assert text.count("stablehlo.dot_general") == 3
        assert sum("precision = [HIGHEST, HIGHEST]" in line for line in text.splitlines() if "dot_general" in line) == count


def test_the_mean_loss_of_bfloat16_states_is_right_to_a_hundred_thousandth():
    """Where the log-sum-exp is kept in bfloat16, this mean is off by some hundredths."""
    rng = np.random.default_rng(1)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, 512, 64), (64, 32768)))
    targets, weights = rng.integers(0, 32768, (1, 512)), np.ones((1, 512), np.float32)
    ours = float(linear_cross_entropy(x, w, targets, weights, slab=128).loss_sum) / 512
    logits = np.asarray(x[0], np.float64) @ np.asarray(w, np.float64)
    largest = logits.max(1)
    exact = (np.log(np.exp(logits - largest[:, None]).sum(1)) + largest - logits[np.arange(512), targets[0]]).mean()
    assert abs(ours - exact) <= 1e-5


def test_memory_is_that_of_a_slab():
    shape = jax.ShapeDtypeStruct
    args = (
        shape((4, 2048, 32), jnp.float32),
        shape((32, 8192), jnp.float32),
        shape((4, 2048), jnp.int32),
        shape((4, 2048), jnp.float32),
    )

    def extra(loss):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 8192 * 8192 * 4
    assert extra(lambda *a: linear_cross_entropy(*a, slab=256).loss_sum) < 6 * 256 * 8192 * 4 < logits / 5
    assert extra(lambda x, w, t, u: cross_entropy(x @ w, t, u)[0]) >= logits


def test_what_does_not_fit_is_refused(case):
    x, w, targets, weights = case
    for change, message in [
        ({"x": x[0]}, r"x \(7, 16\).*\[B, L, embed\]"),
        ({"w": w.T}, r"w \(50, 16\)"),
        ({"weights": weights[:, :3]}, r"weights \(3, 3\)"),
        ({"x": x.astype(np.int32)}, "x int32.*floats"),
        ({"targets": weights}, "targets are float32.*integers"),
        ({"padding_rows": 50}, "padding_rows is 50 of 50"),
        ({"softcap": -1.0}, "softcap is -1.0.*positive"),
        ({"slab": 0}, "slab is 0 tokens; give 1 or more"),
        ({"z_loss": -1.0}, "z_loss is -1.0; give 0 or a positive number"),
        ({"z_loss": float("nan")}, "z_loss is nan"),
        ({"x": x.tolist()}, "loss's x is a list; give an array"),
        ({"padding_rows": 40, "weights": np.ones_like(weights)}, "a target is .* where the head has the ids 0 to 9"),
    ]:
        arguments = {"x": x, "w": w, "targets": targets, "weights": weights} | change
        with pytest.raises(ValueError, match=message):
            linear_cross_entropy(**arguments)

"""Grouped products: each row by its own group's matrix, whatever the groups' sizes and the tiles' are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.models import grouped
from ja_llm.models.grouped import Rounds, expected_rounds, grouped_product

ROWS, INPUTS, OUTPUTS = 37, 6, 5


def by_hand(x, kernels, sizes):
    """Row by row; what is behind the last group is 0."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rows = [x[i] @ kernels[g] for i, g in enumerate(owner)] + [jnp.zeros(OUTPUTS)] * (len(x) - len(owner))
    return jnp.stack(rows)


@pytest.mark.parametrize("tiles", [(4, 8), (16, 5), (37, 1), (128, 128)])
@pytest.mark.parametrize("sizes", [(9, 0, 17, 11), (0, 37, 0, 0), (37, 0, 0, 0), (1, 1, 1, 34), (0, 3, 0, 5), (0, 0, 0, 0)])
def test_values_and_gradients_are_those_of_row_by_row(monkeypatch, tiles, sizes):
    monkeypatch.setitem(grouped.TILES, "cpu", tiles)
    rng = np.random.default_rng(0)
    x, kernels, target = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((ROWS, INPUTS), (4, INPUTS, OUTPUTS), (ROWS, OUTPUTS))
    )
    counts = jnp.asarray(sizes, jnp.int32)
    ours = lambda x, kernels: grouped_product(x, kernels, counts)  # noqa: E731
    out = jax.jit(ours)(x, kernels)
    np.testing.assert_allclose(out, by_hand(x, kernels, sizes), rtol=1e-5, atol=1e-5)
    assert not np.any(out[sum(sizes) :])
    found = jax.jit(jax.grad(lambda *a: (ours(*a) * target).sum(), (0, 1)))(x, kernels)
    expected = jax.grad(lambda *a: (by_hand(*a, sizes) * target).sum(), (0, 1))(x, kernels)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_bfloat16_matrices_are_added_in_float32():
    """Two thousand equal terms: added one tile to the other in bfloat16, they would stand still at 256 times the first."""
    x, dy = jnp.ones((2048, 1), jnp.bfloat16), jnp.ones((2048, 1), jnp.bfloat16)
    out, back = jax.vjp(lambda k: grouped_product(x, k, jnp.array([2048])), jnp.ones((1, 1, 1), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16 and float(back(dy)[0][0, 0, 0]) == 2048


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ("jit(train_step)/jvp(layers)/rounds_32.000000_36.000000/while", Rounds(32, 36)),
        ("transpose(jvp(layers/rounds_0.500000_1.000000))", Rounds(0.5, 1)),
        ("layers/rounds_2.000000_2.500000/while/body/dot_general", None),  # not the loop: what is in it
        ("layers/while", None),
    ],
)
def test_a_loop_is_known_by_its_scope(scope, found):
    assert expected_rounds(scope) == found

"""Attention: both implementations against a loop in float64, and what must hold for packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.attention import attention
from ja_llm.errors import UsageError
from tests.attention.exact import packed, two_rows


def qkv(batch: int, q_length: int, heads: int, kv_heads: int, width: int, k_length: int | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(q_length + heads)
    shapes = [(batch, q_length, heads, width)] + [(batch, k_length or q_length, kv_heads, width)] * 2
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_loop(q, k, v, q_segments, k_segments, q_positions, k_positions) -> np.ndarray:
    """The definition, one query at a time, in float64."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(*q.shape[:3]):
        sees = [
            j for j in range(k.shape[1]) if k_segments[b, j] == q_segments[b, i] != 0 and k_positions[b, j] <= q_positions[b, i]
        ]
        if sees:
            scores = k[b, sees, h // group].astype(np.float64) @ q[b, i, h].astype(np.float64) / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, i, h] = weights / weights.sum() @ v[b, sees, h // group]
    return out


def rows_and_positions(length: int) -> tuple[np.ndarray, np.ndarray]:
    """`two_rows`, and each token's place in its document."""
    return two_rows(length), np.stack([packed(lengths, length)[1] for lengths in ([1, 1, length // 3, length // 2], [length])])


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize(("length", "heads", "kv_heads", "width"), [(1, 2, 1, 8), (37, 6, 2, 10), (130, 2, 1, 8), (64, 2, 2, 4)])
def test_equals_the_definition(implementation, length, heads, kv_heads, width):
    q, k, v = qkv(2, length, heads, kv_heads, width)
    segments, positions = rows_and_positions(length)
    f = jax.jit(lambda *x: attention(*x[:3], segment_ids=x[3], positions=x[4], implementation=implementation))
    ours = f(q, k, v, segments, positions)
    np.testing.assert_allclose(ours, by_loop(q, k, v, segments, segments, positions, positions), atol=2e-6)


def gradients(implementation: str, q, k, v, **ids):
    weight = np.random.default_rng(9).normal(size=q.shape).astype(np.float32)

    def total(q, k, v):
        return (attention(q, k, v, implementation=implementation, **ids) * weight).sum()

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)


# 100: chunks of 64; 600: long chunks, recomputed; a pair of positions: no order, so all keys (600: in a loop).
@pytest.mark.parametrize(("length", "ordered"), [(100, True), (100, False), (600, True), (600, False)])
def test_gradients_of_both_implementations_agree(length, ordered):
    q, k, v = qkv(2, length, 4, 2, 8)
    segments, positions = rows_and_positions(length)
    ids = {"segment_ids": segments, "positions": positions if ordered else (positions, positions)}
    value, grads = gradients("xla", q, k, v, **ids)
    expected, expected_grads = gradients("reference", q, k, v, **ids)
    assert float(value) == pytest.approx(float(expected), abs=2e-3)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_padding_gives_zeros_and_gets_no_gradient(implementation):
    q, k, v = qkv(1, 70, 2, 1, 4)
    segments, positions = (x[None] for x in packed([5, 20], 70))
    ids = {"segment_ids": segments, "positions": positions}
    out = attention(q, k, v, implementation=implementation, **ids)
    assert not np.any(out[0, 25:]) and np.all(np.isfinite(out))
    for gradient in gradients(implementation, q, k, v, **ids)[1]:
        assert not np.any(gradient[0, 25:]) and np.all(np.isfinite(gradient)) and np.any(gradient[0, :25])
    nothing = np.zeros_like(segments)
    assert not np.any(attention(q, k, v, segment_ids=nothing, positions=positions, implementation=implementation))


@pytest.mark.parametrize("length", [100, 600])
def test_another_document_changes_no_bit(length):
    q, k, v = qkv(1, length, 2, 1, 8)
    first = length // 3
    segments, positions = (x[None] for x in packed([first, length // 2], length))
    ids = {"segment_ids": segments, "positions": positions}
    changed = [x.copy() for x in (q, k, v)]
    for x in changed:
        x[:, first:] = x[:, first:] * 3 + 50
    f = jax.jit(lambda q, k, v: attention(q, k, v, **ids))
    np.testing.assert_array_equal(f(q, k, v)[:, :first], f(*changed)[:, :first])
    # and the second document's output is that of the document alone
    alone = attention(*(x[:, first : first + length // 2] for x in (q, k, v)))
    np.testing.assert_allclose(f(q, k, v)[:, first : first + length // 2], alone, atol=2e-6)
    own, same = (gradients("xla", *x, **ids)[1] for x in ((q, k, v), changed))
    for before, after in zip(own, same, strict=True):
        np.testing.assert_array_equal(before[:, :first], after[:, :first])
        assert not np.array_equal(before[:, first:], after[:, first:])


def test_later_keys_of_a_cache_are_hidden_by_position():
    q, k, v = qkv(2, 1, 4, 2, 8, k_length=9)
    q_positions, k_positions = np.array([[3], [6]]), np.broadcast_to(np.arange(9), (2, 9))
    q_segments, k_segments = np.ones((2, 1), int), (k_positions < np.array([[5], [7]])).astype(int)
    ours = attention(q, k, v, segment_ids=(q_segments, k_segments), positions=(q_positions, k_positions))
    np.testing.assert_allclose(ours, by_loop(q, k, v, q_segments, k_segments, q_positions, k_positions), atol=2e-6)


def test_without_ids_the_index_decides_and_without_causal_nothing_is_hidden():
    q, k, v = qkv(1, 70, 2, 2, 4)
    ones, index = np.ones((1, 70), int), np.arange(70)[None]
    np.testing.assert_allclose(attention(q, k, v), by_loop(q, k, v, ones, ones, index, index), atol=2e-6)
    whole = by_loop(q, k, v, ones, ones, index * 0, index * 0)
    np.testing.assert_allclose(attention(q, k, v, causal=False), whole, atol=2e-6)
    q, k, v = qkv(1, 600, 2, 2, 4)  # above 512: in tiles
    segments = packed([100, 450], 600)[0][None]
    found, reference = (
        attention(q, k, v, causal=False, segment_ids=segments, implementation=name) for name in ("xla", "reference")
    )
    np.testing.assert_allclose(found, reference, atol=2e-6)


def test_bfloat16_inputs_have_float32_softmax():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in qkv(1, 64, 2, 2, 16))
    ours = np.asarray(attention(q, k, v), np.float64)
    exact = np.asarray(attention(q, k, v, implementation="reference"), np.float64)
    assert attention(q, k, v).dtype == jnp.bfloat16
    assert np.linalg.norm(ours - exact) / np.linalg.norm(exact) < 5e-3


def test_unknown_implementation_and_bad_shapes_are_refused():
    q, k, v = qkv(1, 4, 3, 2, 4)
    with pytest.raises(ValueError, match="shapes"):
        attention(q, k, v)
    with pytest.raises(UsageError, match="'flash'.*xla, reference"):
        attention(q, q, q, implementation="flash")


def windowed(window: int, q, k, v, segments, positions, softcap: float | None = None) -> np.ndarray:
    """The definition with a window and a soft-cap, one query at a time, in float64."""
    out, group = np.zeros(q.shape), q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(*q.shape[:3]):
        distance = positions[b, i] - positions[b]
        sees = np.flatnonzero((segments[b] == segments[b, i]) & (segments[b, i] != 0) & (distance >= 0) & (distance < window))
        if len(sees):
            scores = k[b, sees, h // group].astype(np.float64) @ q[b, i, h].astype(np.float64) / np.sqrt(q.shape[3])
            weights = np.exp(scores if softcap is None else softcap * np.tanh(scores / softcap))
            out[b, i, h] = weights / weights.sum() @ v[b, sees, h // group]
    return out


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize(("length", "window", "softcap"), [(150, 1, None), (150, 40, None), (150, 70, 1.5), (150, 500, 0.5)])
def test_a_window_and_a_soft_cap_equal_the_definition(implementation, length, window, softcap):
    """Windows below, at and above a chunk of 64; as a number (work is skipped) and as an array (it is not)."""
    q, k, v = qkv(2, length, 4, 2, 8)
    segments, positions = rows_and_positions(length)
    expected = windowed(window, q, k, v, segments, positions, softcap)
    for given in (window, jnp.asarray(window)):
        ids = {"segment_ids": segments, "positions": positions, "window": given, "softcap": softcap}
        np.testing.assert_allclose(attention(q, k, v, implementation=implementation, **ids), expected, atol=3e-6)


@pytest.mark.parametrize("length", [100, 600])
def test_gradients_with_a_window_and_a_soft_cap_agree(length):
    q, k, v = qkv(1, length, 2, 1, 8)
    segments, positions = (x[:1] for x in rows_and_positions(length))
    ids = {"segment_ids": segments, "positions": positions, "window": 33, "softcap": 2.0}
    (_, grads), (_, expected) = (gradients(name, q, k, v, **ids) for name in ("xla", "reference"))
    for ours, theirs in zip(grads, expected, strict=True):
        assert np.linalg.norm(ours - theirs) <= 3e-6 * np.linalg.norm(theirs)

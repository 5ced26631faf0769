"""The decoder: parameters and their axes, packed rows, prefix attention, scan, remat."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, abstract_params, init_params, param_axes
from ja_llm.models.layers import input_std, output_std
from ja_llm.models.matmul import product

CONFIG = DecoderConfig(
    vocab_size=97, embed_dim=24, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=10, mlp_dim=50, max_length=80
)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


def logits(params, tokens, config=CONFIG, **kwargs):
    return np.asarray(jax.jit(lambda p, t: Decoder(config).apply({"params": p}, t, t, **kwargs))(params, np.asarray(tokens)))


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape).astype(np.int32)


def test_every_parameter_has_as_many_known_axes_as_dimensions():
    known = {"vocab": 97, "embed": 24, "layers": 3, "heads": 6, "kv_heads": 2, "kv": 10, "mlp": 50}

    def check(array, axes):
        assert array.shape == tuple(known[axis] for axis in axes)

    for scan in (True, False):
        for tied in (True, False):
            config = dataclasses.replace(CONFIG, scan_layers=scan, tie_embeddings=tied)
            shapes = abstract_params(config)
            jax.tree.map(check, shapes, param_axes(config))
            assert ("logits_dense" in shapes) != tied and shapes["token_embedder"]["embedding"].shape == (97, 24)


def test_initial_values_have_the_documented_spread_and_depend_on_the_key_only(params):
    wide = dataclasses.replace(CONFIG, embed_dim=256, vocab_size=500)
    values = init_params(wide, jax.random.key(1))
    assert np.std(values["token_embedder"]["embedding"]) == pytest.approx(input_std(wide), rel=0.02)
    assert np.std(values["layers"]["mlp"]["wi_0"]["kernel"]) == pytest.approx(input_std(wide), rel=0.02)
    assert np.std(values["layers"]["mlp"]["wo"]["kernel"]) == pytest.approx(output_std(wide), rel=0.02)
    layers = values["layers"]["mlp"]["wo"]["kernel"]
    assert not np.array_equal(layers[0], layers[1])
    jax.tree.map(np.testing.assert_array_equal, params, init_params(CONFIG, jax.random.key(0)))
    assert np.abs(logits(params, tokens(0, 1, 8))).max() < 5  # the first loss is near log(vocab)


def test_parameter_and_computation_dtypes_are_the_configured_ones():
    config = dataclasses.replace(CONFIG, param_dtype="bfloat16", dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(abstract_params(config))} == {jnp.dtype("bfloat16")}
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    call = lambda p, t, method: Decoder(config).apply({"params": p}, *[t] * (2 if method is None else 1), method=method)  # noqa: E731
    for method, dtype in ((None, jnp.float32), ("hidden", jnp.bfloat16)):
        assert jax.eval_shape(lambda p, t, m=method: call(p, t, m), abstract_params(config), ids).dtype == dtype


def test_scanned_unrolled_and_recomputed_layers_give_one_result(params):
    scanned, values = dataclasses.replace(CONFIG, tie_embeddings=True), {k: v for k, v in params.items() if k != "logits_dense"}
    apart = {k: v for k, v in values.items() if k != "layers"}
    apart |= {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], values["layers"]) for i in range(3)}
    ids = tokens(1, 2, 20)

    def value_and_grad(config, p):
        def loss(p):
            out = Decoder(config).apply({"params": p}, ids, ids)
            return jnp.mean(jax.nn.logsumexp(out, -1) - jnp.take_along_axis(out, ids[..., None], -1)[..., 0])

        return jax.jit(jax.value_and_grad(loss))(p)

    expected, grads = value_and_grad(scanned, values)
    value, unrolled = value_and_grad(dataclasses.replace(scanned, scan_layers=False), apart)
    stacked = {k: v for k, v in unrolled.items() if not k.startswith("layers_")}
    stacked["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *(unrolled[f"layers_{i}"] for i in range(3)))
    results = [(value, stacked)]
    results += [value_and_grad(dataclasses.replace(scanned, remat_policy=policy), values) for policy in ("minimal", "full")]
    for value, result in results:
        assert float(value) == pytest.approx(float(expected), rel=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), result, grads)


def row(documents: list[np.ndarray], length: int) -> dict[str, np.ndarray]:
    ids, segments, positions = np.zeros((3, 1, length), np.int32)
    start = 0
    for number, document in enumerate(documents, 1):
        part = slice(start, start + len(document))
        ids[0, part], segments[0, part], positions[0, part] = document, number, np.arange(len(document))
        start += len(document)
    return {"tokens": ids, "decoder_segment_ids": segments, "decoder_positions": positions}


def test_a_packed_document_is_the_document_alone(params):
    documents = [tokens(n, size) for n, size in ((1, 30), (2, 1), (3, 40))]
    packed = logits(params, **row(documents, 80))
    start = 0
    for document in documents:
        alone = logits(params, document[None])[0]
        np.testing.assert_allclose(packed[0, start : start + len(document)], alone, atol=3e-6)
        start += len(document)


def test_another_document_of_the_row_changes_no_bit(params):
    first = tokens(1, 30)
    a, b = (logits(params, **row([first, tokens(seed, 40)], 80)) for seed in (2, 3))
    np.testing.assert_array_equal(a[0, :30], b[0, :30])
    assert not np.array_equal(a[0, 30:70], b[0, 30:70])


def test_a_later_token_changes_nothing_before_it(params):
    ids = tokens(1, 1, 40)
    other = ids.copy()
    other[0, 25] = (other[0, 25] + 1) % 97
    a, b = logits(params, ids), logits(params, other)
    np.testing.assert_array_equal(a[0, :25], b[0, :25])
    assert not np.array_equal(a[0, 25], b[0, 25])


def test_tokens_of_a_prefix_see_each_other_and_nothing_behind(params):
    ids = tokens(1, 1, 20)
    flags = (np.arange(20) < 8).astype(np.int32)[None]

    def changed_at(place):
        other = ids.copy()
        other[0, place] = (other[0, place] + 1) % 97
        a, b = (logits(params, x, decoder_causal_attention=flags) for x in (ids, other))
        return [int(i) for i in range(20) if not np.array_equal(a[0, i], b[0, i])]

    assert changed_at(5) == list(range(20))
    assert changed_at(10) == list(range(10, 20))


def test_an_id_outside_the_table_is_not_taken_for_another_row(params):
    ids = tokens(1, 1, 6)
    ids[0, 3] = 97
    out = logits(params, ids)
    assert np.all(np.isnan(out[0, 3:]))  # told at once, not a plausible number from a clipped index


@pytest.mark.parametrize(("x", "kernel", "contract"), [((2, 5, 6), (6, 3, 4), 1), ((2, 5, 3, 4), (3, 4, 6), 2)])
def test_the_hand_written_gradient_of_a_product_is_the_derivative(x, kernel, contract):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=x).astype(np.float32), rng.normal(size=kernel).astype(np.float32)
    plain = lambda x, k: jnp.tensordot(x, k, contract)  # noqa: E731
    weight = rng.normal(size=plain(x, kernel).shape).astype(np.float32)
    ours = jax.grad(lambda x, k: (product(x, k, contract) * weight).sum(), (0, 1))(x, kernel)
    theirs = jax.grad(lambda x, k: (plain(x, k) * weight).sum(), (0, 1))(x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

"""Optimizers against optax's own and against papers' arithmetic; decay masks, groups, averages."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ja_llm import sharding
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params, param_axes
from ja_llm.train.groups import Group, check_groups, factors
from ja_llm.train.learning_rates import WarmupConstant
from ja_llm.train.moments import _table, decode, encode
from ja_llm.train.optimizers import Adafactor, AdamW, Lion, Muon, _matrix
from ja_llm.train.settings import described, name_of
from ja_llm.train.state import plan_state
from ja_llm.train.step import PLAIN, StepOptions, TrainState, init_optimizer, loss_sums, make_train_step

CONFIG = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32, max_length=16
)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    tokens = np.random.default_rng(0).integers(0, 64, (4, 17)).astype(np.int32)
    ones = np.ones((4, 16), np.int32)
    names = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
    values = (tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones, np.arange(16, dtype=np.int32)[None].repeat(4, 0))
    return {f"decoder_{name}": value for name, value in zip(names, values, strict=True)}


@pytest.fixture(scope="module")
def train(params, batch):
    """train(optimizer, steps, rate, options) -> (state, metrics of each step)."""

    def run(optimizer, steps, rate=1e-2, options=PLAIN):
        transformation = optimizer.transformation(param_axes(CONFIG))
        schedule = WarmupConstant(peak=rate, warmup_steps=1)
        step = jax.jit(make_train_step(loss_sums, Decoder(CONFIG), transformation, schedule, options, axes=param_axes(CONFIG)))
        state = TrainState(jnp.zeros((), jnp.int32), params, init_optimizer(transformation, params, options))
        seen = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            seen.append({k: float(v) for k, v in metrics.items()})
        return state, seen

    return run


def named(tree):
    return {name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def directions(optimizer, params, steps=3):
    """The directions that an optimizer gives for gradients that everybody gets alike."""
    transformation = optimizer.transformation(param_axes(CONFIG)) if hasattr(optimizer, "transformation") else optimizer
    state, update = transformation.init(params), jax.jit(transformation.update)
    found = []
    for i in range(steps):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(40 * p + i), params)
        updates, state = update(grads, state, params)
        found.append(named(updates))
    return found


def test_adafactor_and_lion_are_optaxs(params):
    mask = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "scale", params)
    small = {"min_dim_size_to_factor": 8}
    theirs = optax.chain(optax.adafactor(1.0, multiply_by_parameter_scale=True, **small), optax.scale(-1.0))
    ours = Adafactor(relative=True, weight_decay=0.0, **small)
    lion = optax.chain(
        optax.clip_by_global_norm(1.0), optax.lion(1.0, b1=0.9, b2=0.99, weight_decay=0.3, mask=mask), optax.scale(-1.0)
    )
    for own, other in ((ours, theirs), (Lion(), lion)):
        for a, b in zip(directions(own, params), directions(other, params), strict=True):
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_adafactor_keeps_a_row_and_a_column_of_each_layers_matrix(params):
    state = Adafactor(min_dim_size_to_factor=8).transformation().init(params)["factored"]
    shapes = {name: value.shape for name, value in named(state.v_row).items()}
    columns = {name: value.shape for name, value in named(state.v_col).items()}
    assert {shapes["layers/mlp/wi_0/kernel"], columns["layers/mlp/wi_0/kernel"]} == {(2, 16), (2, 32)}


def test_muon_makes_each_layers_matrix_nearly_orthogonal_and_leaves_the_rest_to_adam(params):
    update = directions(Muon(clip_norm=None, weight_decay=0.0), params, steps=1)[0]
    adam = directions(AdamW(clip_norm=None, weight_decay=0.0), params, steps=1)[0]
    gradients = {name: np.sin(40 * value) for name, value in named(params).items()}
    for name, axes in (
        ("layers/mlp/wi_0/kernel", (16, 32)),
        ("layers/self_attention/query/kernel", (16, 16)),
        ("layers/self_attention/out/kernel", (16, 16)),
    ):
        for layer in range(2):
            matrix = update[name][layer].reshape(axes) / (0.2 * math.sqrt(max(axes)))
            values = np.linalg.svd(matrix, compute_uv=False)
            # Five quintic iterations (Jordan 2024) bring singular values near 1; those that were nearly 0 lag behind.
            expected = np.linalg.svd(gradients[name][layer].reshape(axes), compute_uv=False)
            expected /= np.linalg.norm(expected)
            for _ in range(5):
                expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
            np.testing.assert_allclose(np.sort(values), np.sort(expected), rtol=1e-3, err_msg=name)
            assert np.median(values) > 0.5 and values.max() < 1.3
    for name in ("token_embedder/embedding", "logits_dense/kernel", "layers/pre_mlp_norm/scale", "decoder_norm/scale"):
        np.testing.assert_array_equal(update[name], adam[name])


def test_which_dimensions_muon_takes_for_a_matrix():
    assert _matrix(("layers", "embed", "heads", "kv")) == ((1,), (2, 3))
    assert _matrix(("layers", "heads", "kv", "embed")) == ((1, 2), (3,))
    assert _matrix(("layers", "expert", "mlp", "embed")) == ((2,), (3,))
    for axes in (
        ("layers", "embed"),
        ("vocab", "embed"),
        ("embed", "vocab"),
        ("layers", "embed", "expert"),
        ("layers", "heads", "kv"),
    ):
        assert _matrix(axes) is None, axes


def test_without_a_gradient_a_step_decays_what_the_mask_leaves_by_rate_times_decay(params):
    # OLMo 2's mask: everything but the embedding.
    transformation = AdamW(weight_decay=0.1, no_decay=("token_embedder/*",)).transformation()
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, params), transformation.init(params), params)
    for name, after in named(jax.tree.map(lambda p, u: p - 0.5 * u, params, updates)).items():
        factor = 1.0 if name == "token_embedder/embedding" else 1 - 0.5 * 0.1
        np.testing.assert_allclose(after, named(params)[name] * factor, rtol=1e-6)
    with pytest.raises(UsageError, match="no_decay names 'token_embeder/\\*'.*token_embedder/embedding"):
        AdamW(no_decay=("token_embeder/*",)).check(params)


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_hold_seven_decades(signed):
    table = _table(signed)
    assert len(table) == 256 and len(set(table.tolist())) == (255 if signed else 256)
    rng = np.random.default_rng(0)
    x = (10 ** rng.uniform(-6, 0, (3, 300)) * (rng.choice([-1, 1], (3, 300)) if signed else 1)).astype(np.float32)
    x[0, :5] = 0
    back = np.asarray(decode(encode(jnp.asarray(x), signed), signed))
    scale = np.asarray(encode(jnp.asarray(x), signed).scale)
    assert scale.shape == (3, 2) and (back[x == 0] == 0).all() and (np.sign(back) == np.sign(x)).all()
    y = np.abs(x) / np.repeat(scale, (256, 44), axis=1)
    decade = np.floor(-np.log10(np.maximum(y, 1e-30))).clip(0, 6 if signed else 7)
    # Half the width of a fraction's bin; a value on a decade's edge may go to the next one's last bin.
    bound = 0.45 * 10.0**-decade / 2.0 ** ((6 if signed else 7) - decade) * 1.02
    assert (np.abs(back - x) / np.repeat(scale, (256, 44), axis=1) <= bound).all()
    assert np.median(np.abs(back - x)[y > 0.1] / np.abs(x)[y > 0.1]) < 0.012


@pytest.mark.parametrize(("moments", "share"), [("bfloat16", 0.5), ("int8", 0.27)])
def test_moments_in_fewer_bytes_train_alike(train, params, moments, share):
    wide, reference = train(AdamW(), 30)
    narrow, losses = train(AdamW(moments=moments), 30)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimizer["adam"])) for state in (narrow, wide)]
    assert sizes[0] < share * sizes[1] + 4 * 2000  # short rows have a scale each
    assert losses[0]["loss"] == reference[0]["loss"]
    assert losses[-1]["loss"] == pytest.approx(reference[-1]["loss"], rel=0.05) and losses[-1]["loss"] < 0.5 * losses[0]["loss"]


@pytest.mark.parametrize("optimizer", [Adafactor(), Lion(), Muon()])
def test_every_optimizer_learns(train, optimizer):
    _, metrics = train(optimizer, 20, rate=3e-3 if isinstance(optimizer, Lion) else 1e-2)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]


def test_new_rows_first_then_all(train, params):
    groups = (
        Group(parameters=("token_embedder/embedding", "logits_dense/kernel"), first_row=60),
        Group(frozen_steps=3),
    )
    start = named(params)
    for steps, others in ((3, False), (4, True)):
        state, metrics = train(AdamW(), steps, options=StepOptions(groups=groups, log_norms=True))
        for name, value in named(state.params).items():
            if name == "token_embedder/embedding":
                assert not np.array_equal(value[60:], start[name][60:])
                value, before = value[:60], start[name][:60]
            elif name == "logits_dense/kernel":
                assert (value[:, 60:] != start[name][:, 60:]).all()
                value, before = value[:, :60], start[name][:, :60]
            else:
                before = start[name]
            assert np.array_equal(value, before) != others, (name, steps)
        assert (metrics[-1]["update_norm/mlp"] > 0) == others
    # The gradient's norm, by which it is clipped, is of what learns alone.
    assert metrics[0]["gradient_norm"] == pytest.approx(
        math.hypot(metrics[0]["gradient_norm/token_embedder"], metrics[0]["gradient_norm/logits_dense"])
    )


def test_a_group_multiplies_the_rate(params):
    axes = param_axes(CONFIG)
    groups = (Group(("layers/mlp/*",), rate=0.5), Group(("layers/*",), rate=0.25))
    found = {k: float(v) for k, v in named(factors(groups, params, axes, jnp.int32(0))).items()}
    assert (found["layers/mlp/wo/kernel"], found["layers/self_attention/key/kernel"], found["decoder_norm/scale"]) == (
        0.5,
        0.25,
        1.0,
    )


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (Group(("layer/*",)), "'layer/\\*', which no parameter fits"),
        (Group("layers/*"), "give a tuple of patterns"),
        (Group(("layers/*",), first_row=3), "has no such row of the vocabulary"),
        (Group(("token_embedder/*",), first_row=64), "has no such row of the vocabulary"),
        (Group(rate=-1.0), "0 or more"),
    ],
)
def test_groups_that_fit_nothing_are_refused(params, group, says):
    with pytest.raises(UsageError, match=says):
        check_groups((group,), params, param_axes(CONFIG))


def test_the_moving_average_is_the_formula(train, params):
    state, _ = train(AdamW(), 2, options=StepOptions(ema_decay=0.75))
    one, _ = train(AdamW(), 1)
    first = jax.tree.map(lambda p, q: 0.75 * p + 0.25 * q, params, one.params)
    expected = jax.tree.map(lambda a, q: 0.75 * a + 0.25 * q, first, state.params)
    for a, b in zip(jax.tree.leaves(state.optimizer["ema"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_state_of_any_optimizer_is_spread_like_the_parameters():
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 1, 1), sharding.MESH_AXES)
    options = StepOptions(ema_decay=0.9)
    for optimizer in (AdamW(), AdamW(moments="int8"), Adafactor(min_dim_size_to_factor=8), Muon(), Lion(moments="bfloat16")):
        plan, _ = plan_state(CONFIG, optimizer, options, mesh, sharding.DEFAULT_RULES)
        spread = {name_of(path): s.spec for path, s in jax.tree_util.tree_leaves_with_path(plan.shardings.optimizer)}
        wi = [
            spec
            for name, spec in spread.items()
            if "mlp/wi_0/kernel" in name
            and "scale" not in name
            and "v_" not in name
            and not name.endswith("/v/layers/mlp/wi_0/kernel")
        ]
        assert wi and all(tuple(spec) == (None, "fsdp", "tensor") for spec in wi), (optimizer, spread)
        abstract = {name_of(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(plan.abstract.optimizer)}
        assert all(len(spec) in (0, len(abstract[name])) for name, spec in spread.items())


def test_fields_that_came_later_stand_in_the_ledger_only_where_they_are_used():
    assert described(AdamW()) == {"name": "AdamW", "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
    assert described(dataclasses.replace(AdamW(), moments="int8"))["moments"] == "int8"
    assert described((Group(),)) == [{"name": "Group", "parameters": ["*"], "rate": 1.0, "frozen_steps": 0, "first_row": 0}]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AdamW(moments="int4"), "AdamW.moments is 'int4'; give one of 'float32', 'bfloat16', 'int8'"),
        (lambda: AdamW(moments=None), "AdamW.moments is None"),
        (lambda: AdamW(clip_norm=-1), "AdamW.clip_norm is -1; give a number above 0"),
        (lambda: AdamW(b2=2), "AdamW.b2 is 2; give a number from 0 to below 1"),
        (lambda: AdamW(b1=-0.1), "AdamW.b1 is -0.1"),
        (lambda: AdamW(eps=0), "AdamW.eps is 0"),
        (lambda: AdamW(weight_decay=-0.1), "AdamW.weight_decay is -0.1; give a number of 0 or more"),
        (lambda: Adafactor(min_dim_size_to_factor=1.5), "Adafactor.min_dim_size_to_factor is 1.5; give a whole number of 1"),
        (lambda: Adafactor(decay_rate=-0.8), "Adafactor.decay_rate is -0.8"),
        (lambda: Adafactor(clipping_threshold=0), "Adafactor.clipping_threshold is 0"),
        (lambda: Adafactor(relative="no"), "Adafactor.relative is 'no'; give True or False"),
        (lambda: Lion(b1=1.0), "Lion.b1 is 1.0"),
        (lambda: Muon(beta=1), "Muon.beta is 1"),
    ],
)
def test_settings_that_would_train_otherwise_than_they_say_are_refused(make, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        make()


def test_settings_at_the_ends_of_their_ranges_are_taken():
    AdamW(b1=0, b2=0, weight_decay=0, clip_norm=None)
    Adafactor(decay_rate=1, clipping_threshold=None, min_dim_size_to_factor=1, relative=True)

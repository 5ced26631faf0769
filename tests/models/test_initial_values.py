"""How new parameters are drawn: by width and depth, or with a standard deviation that a recipe gives."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from ja_llm.errors import UsageError
from ja_llm.models.config import INIT_FIELDS, DecoderConfig
from ja_llm.models.decoder import abstract_params, init_params
from ja_llm.models.layers import input_std, output_std
from ja_llm.train.settings import name_of

# Everything that is a matrix or a table in any family, wide enough to measure.
DENSE = DecoderConfig(
    vocab_size=600,
    embed_dim=128,
    num_layers=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=256,
    max_length=200,
    positions="learned",
    norm="layer",
    attention_bias="qkvo",
    gated_mlp=False,
    mlp_bias=True,
)
EXPERTS = dataclasses.replace(DENSE, num_experts=4, experts_per_token=2, gated_mlp=True, mlp_bias=False, qk_norm="head")
WRITES = ("self_attention/out/kernel", "mlp/wo/kernel")  # to the residual stream


def drawn(config: DecoderConfig) -> dict[str, np.ndarray]:
    """Matrices and tables by their names; norms and biases must be what they always are."""
    values = {
        name_of(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(init_params(config, jax.random.key(3)))
    }
    fixed = {name for name in values if name.rpartition("/")[2] in ("scale", "bias")}
    for name in fixed:
        assert np.all(values[name] == (name.rpartition("/")[2] == "scale")), name
    return {name: x for name, x in values.items() if name not in fixed}


def check_spread(config: DecoderConfig, reads: float, writes: float) -> None:
    """The standard deviation of each, within four of its own standard errors."""
    kinds = set()
    for name, x in drawn(config).items():
        wanted = writes if name.endswith(WRITES) else reads
        assert np.std(x) == pytest.approx(wanted, rel=4 / math.sqrt(2 * x.size)), name
        assert abs(x.mean()) < 4 * wanted / math.sqrt(x.size), name
        kinds.add(name.rpartition("layers/")[2])
    tables = {"token_embedder/embedding", "position_embedder/embedding", "logits_dense/kernel"}
    attention = {f"self_attention/{part}/kernel" for part in ("query", "key", "value", "out")}
    own = {"wi_0", "wi_1", "router"} if config.num_experts > 1 else {"wi"}
    assert kinds == tables | attention | {f"mlp/{part}/kernel" for part in own | {"wo"}}


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_every_matrix_and_table_has_the_given_standard_deviation(config):
    check_spread(config, input_std(config), output_std(config))
    check_spread(dataclasses.replace(config, init_std=0.02), 0.02, 0.02)
    check_spread(dataclasses.replace(config, init_std=0.02, init_depth_scaled=True), 0.02, 0.02 / math.sqrt(2 * 8))


def test_a_cut_distribution_ends_where_it_is_cut_and_is_as_narrow_as_that_makes_it():
    """A normal distribution cut at 3 standard deviations keeps .9866 of its own, at 1 .5396 (its variance is 1 - 2 c phi(c) / P(|x| < c))."""
    for cut, left in ((3, 0.98658), (1, 0.53956)):
        config = dataclasses.replace(EXPERTS, init_std=0.02, init_cut=cut, init_depth_scaled=True)
        for name, x in drawn(config).items():
            std = 0.005 if name.endswith(WRITES) else 0.02
            assert np.abs(x).max() <= cut * std * (1 + 1e-6), name
            assert np.abs(x).max() > 0.85 * cut * std, name
            assert np.std(x) == pytest.approx(left * std, rel=4 / math.sqrt(2 * x.size)), name
    whole = drawn(dataclasses.replace(EXPERTS, init_std=0.02))
    assert np.abs(whole["token_embedder/embedding"]).max() > 0.07  # 77,000 values: some lie beyond 3.5


def test_it_is_no_part_of_the_model_but_of_a_run():
    given = dataclasses.replace(DENSE, init_std=0.02, init_cut=3, init_depth_scaled=True)
    assert abstract_params(given) == abstract_params(DENSE)
    assert given.parts() == DENSE.parts() and DecoderConfig.from_parts(given.parts()) == DENSE
    assert given.subset(INIT_FIELDS) == {"init_std": 0.02, "init_cut": 3.0, "init_depth_scaled": True}
    assert DENSE.subset(INIT_FIELDS) == {}
    for wrong in ({"init_cut": 3}, {"init_depth_scaled": True}):
        with pytest.raises(UsageError, match=f"DecoderConfig.{next(iter(wrong))} is .*, and init_std None"):
            dataclasses.replace(DENSE, **wrong)
    for wrong in ({"init_std": 0}, {"init_std": "0.02"}, {"init_std": 0.02, "init_cut": -3}, {"init_depth_scaled": 1}):
        with pytest.raises(UsageError, match="DecoderConfig.init_"):
            dataclasses.replace(DENSE, **wrong)

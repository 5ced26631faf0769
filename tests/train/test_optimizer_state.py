"""The optimizer's state in a checkpoint: its names on disk, and what may change around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import Checkpoints
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import init_optimizer
from ja_llm.train.stored_arrays import stored_tree

CONFIG = DecoderConfig(vocab_size=16, embed_dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8, max_length=8)
WEIGHTS = [
    "decoder_norm/scale",
    "layers/mlp/wi_0/kernel",
    "layers/mlp/wi_1/kernel",
    "layers/mlp/wo/kernel",
    "layers/pre_attention_norm/scale",
    "layers/pre_mlp_norm/scale",
    "layers/self_attention/key/kernel",
    "layers/self_attention/out/kernel",
    "layers/self_attention/query/kernel",
    "layers/self_attention/value/kernel",
    "logits_dense/kernel",
    "token_embedder/embedding",
]


def one_update(optimizer):
    """Parameters, and a state whose moments are no zeros."""
    params = init_params(CONFIG, jax.random.key(0))
    transformation = optimizer.transformation()
    _, state = transformation.update(jax.tree.map(jnp.sin, params), init_optimizer(transformation, params), params)
    return params, state


def abstract(optimizer, params):
    on_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = jax.eval_shape(lambda p: init_optimizer(optimizer.transformation(), p), params)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_device), (params, state))


def save(directory, params, state):
    checkpoints = Checkpoints(directory, asynchronous=False)
    checkpoints.save(5, params, state)
    checkpoints.close()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_state_on_disk_has_names_and_no_positions(tmp_path, clip_norm):
    save(tmp_path, *one_update(AdamW(clip_norm=clip_norm)))
    stored = stored_tree(tmp_path / "checkpoints/5/optimizer")
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(stored, is_leaf=lambda x: x is None)  # empty links would be None
    ]
    assert names == [
        "state/adam/count",
        *(f"state/adam/mu/{name}" for name in WEIGHTS),
        *(f"state/adam/nu/{name}" for name in WEIGHTS),
    ]


@pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None)])
def test_clipping_may_come_and_go_between_two_uses_of_a_checkpoint(tmp_path, before, after):
    params, state = one_update(AdamW(clip_norm=before))
    save(tmp_path, params, state)
    other = AdamW(clip_norm=after)
    restored_params, restored = Checkpoints(tmp_path).restore(5, *abstract(other, params))
    assert jax.tree.structure(restored) == jax.tree.structure(other.transformation().init(params))
    leaves = [jax.tree.leaves((restored_params, restored)), jax.tree.leaves((params, state))]
    assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
    assert float(jnp.abs(restored["adam"].mu["logits_dense"]["kernel"]).sum()) > 0


def test_every_moment_can_be_spread_like_its_parameter():
    params = jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    names = jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path), params)
    transformation = AdamW().transformation()
    state = jax.eval_shape(lambda p: init_optimizer(transformation, p), params)
    spread = optax.tree_utils.tree_map_params(
        transformation, lambda _, name: name, state, names, transform_non_params=lambda _: "everywhere"
    )
    assert spread["adam"].mu == spread["adam"].nu == names and spread["adam"].count == "everywhere"

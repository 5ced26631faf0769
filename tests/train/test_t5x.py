"""The real t5x on a tiny model: losses, and a checkpoint of ours as its own manager restores it. `make test-t5x` compares the rest."""

import jax
import numpy as np
import pytest
from flax.core import unfreeze

from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train import checkpoints
from ja_llm.vocab.base import load_tokenizer

pytest.importorskip("t5x.trainer", reason="t5x, airio and jestimator are not on PyPI (docs/t5x.md)")


@pytest.fixture(scope="module")
def model(tmp_path_factory, cache_dir):
    tokenizer = load_tokenizer(cache_dir / "vocab")
    shape = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 32, "max_length": 32}
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **shape)
    folder = tmp_path_factory.mktemp("t5x") / "model"
    checkpoints.save_model(folder, config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    return folder


def test_losses_equal(model, cache_dir):
    from benchmarks.t5x import losses

    found = losses(model, cache_dir, steps=5, length=32, batch=4)
    assert found["batches_equal"] and found["largest_difference"] <= 1e-5
    assert found["ours"][0] != found["ours"][-1]


def test_losses_equal_on_eight_devices(cache_dir, tmp_path):
    from benchmarks.t5x import LAYOUTS, spread_claims, spread_losses

    found = spread_losses(cache_dir, tmp_path, steps=4, length=32)
    assert list(found) == list(LAYOUTS)
    assert [claim for one in found.values() for claim, holds in spread_claims(one).items() if not holds] == []
    assert [one["mesh"]["t5x"] for one in found.values()] == [{"data": 2, "model": 4}, {"data": 4, "model": 2}]


def test_t5x_restores_our_checkpoint(model, tmp_path):
    from t5x import partitioning, utils
    from t5x.checkpoints import OrbaxCheckpointManagerInterface

    from ja_llm.interop import t5x as bridge
    from ja_llm.interop.t5x_checkpoints import to_t5x
    from ja_llm.train.learning_rates import WarmupConstant
    from ja_llm.train.optimizers import AdamW

    path = to_t5x(model, tmp_path)["path"]
    optimizer = bridge.optimizer(AdamW(), WarmupConstant(1e-3, 1))
    theirs = bridge.DecoderModel(bridge.module(str(model)), bridge.vocabulary(str(model)), optimizer)
    rules = partitioning.standard_logical_axis_rules(additional_rules=(("kv_heads", "model"),))
    partitioner = partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=rules)
    shapes = dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), (1, 8))
    initialiser = utils.TrainStateInitializer(optimizer, theirs.get_initial_variables, shapes, partitioner)
    manager = OrbaxCheckpointManagerInterface(str(tmp_path), initialiser.global_train_state_shape, partitioner)
    state = manager.restore(path=path)
    own = checkpoints.load_model(model).params
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), unfreeze(state.params), own))
    assert int(state.step) == 0

"""t5x's checkpoints in and out, without t5x: what goes out comes back, and what is no such checkpoint is a sentence."""

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.interop.t5x_checkpoints import format_crossing, from_t5x, is_t5x, to_t5x
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train import checkpoints, stored_arrays
from ja_llm.train.optimizers import AdamW, Muon
from ja_llm.train.step import init_optimizer
from ja_llm.vocab.base import load_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory, cache_dir):
    """A model directory, and a run of step 3 with AdamW's moments."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(cache_dir / "vocab")
    shape = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 32, "max_length": 32}
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **shape)
    params = init_params(config, jax.random.key(0))
    for name in ("model", "run", "muon"):
        checkpoints.save_model(folder / name, config=config, params=params, tokenizer=tokenizer, ledger={"job": "test"})
    moments = jax.tree.map(lambda x: x + 0.5, init_optimizer(AdamW().transformation(), params))
    for name, state in (("run", moments), ("muon", init_optimizer(Muon().transformation(_axes(config)), params))):
        manager = checkpoints.Checkpoints(folder / name, asynchronous=False)
        manager.save(3, params, state)
        manager.close()
    return folder, params, moments


def _axes(config):
    from ja_llm.models.decoder import param_axes

    return param_axes(config)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def test_what_goes_out_comes_back(models, tmp_path):
    folder, params, _ = models
    summary = to_t5x(folder / "model", tmp_path / "out")
    assert summary["step"] == 0 and "fresh AdamW moments" in format_crossing(summary)
    checkpoint = tmp_path / "out" / "checkpoint_0"
    assert is_t5x(checkpoint) and not is_t5x(folder / "model")
    from_t5x(checkpoint, folder / "model", tmp_path / "back")
    loaded = checkpoints.load_model(tmp_path / "back")
    assert equal(loaded.params, params) and loaded.ledger["parents"][0]["name"] == "model"


def test_a_run_takes_its_moments_along(models, tmp_path):
    folder, _, moments = models
    assert "moments of the run" in to_t5x(folder / "run", tmp_path)["optimizer"]
    state = stored_arrays.read_item(tmp_path / "checkpoint_3" / "state")["state"]
    assert state["step"] == 3 and state["param_states"]["1"]["count"] == 3
    assert equal(state["param_states"]["0"], stored_arrays.named_leaves(moments)["state"])


def test_what_does_not_cross_is_a_sentence(models, tmp_path):
    folder, *_ = models
    with pytest.raises(JaLlmError, match="is not AdamW's"):
        to_t5x(folder / "muon", tmp_path)
    to_t5x(folder / "run", tmp_path)
    with pytest.raises(UsageError, match="this checkpoint exists"):
        to_t5x(folder / "run", tmp_path)
    with pytest.raises(UsageError, match="no checkpoint of t5x"):
        from_t5x(folder / "model", folder / "model", tmp_path / "x")
    config, tokenizer = checkpoints.read_model_files(folder / "model")
    wider = DecoderConfig(**{**config.__dict__, "mlp_dim": 48})
    other = init_params(wider, jax.random.key(1))
    checkpoints.save_model(tmp_path / "wider", config=wider, params=other, tokenizer=tokenizer, ledger={})
    with pytest.raises(JaLlmError, match="belongs to another model: layers/mlp"):
        from_t5x(tmp_path / "checkpoint_3", tmp_path / "wider", tmp_path / "x")
    assert not (tmp_path / "x").exists()

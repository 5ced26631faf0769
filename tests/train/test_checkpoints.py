"""Model directories: what is taken for one, what is refused, and what a killed save leaves."""

import json

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import load_model, refuse_foreign, save_model, split_step
from ja_llm.train.identity import initial_entry
from ja_llm.train.main import model_config
from ja_llm.vocab.train import train_sentencepiece


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(["a small text for a small vocabulary " * 9], tmp_path_factory.mktemp("vocab"), vocab_size=280)


def config(tokenizer, **changes):
    sizes = {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_dim": 8, "max_length": 8}
    return DecoderConfig(**{"vocab_size": tokenizer.vocab_size, **sizes, **changes})


@pytest.fixture
def saved(tokenizer, tmp_path):
    c = config(tokenizer)
    params = init_params(c, jax.random.key(0))
    save_model(tmp_path / "model", config=c, params=params, tokenizer=tokenizer, ledger={"job": "test"}, step=3)
    return tmp_path / "model", params


def test_what_is_saved_is_loaded_bit_for_bit(saved, tokenizer):
    directory, params = saved
    for path in (directory, f"{directory}@3"):
        loaded = load_model(path)
        assert (loaded.step, loaded.ledger["job"], loaded.tokenizer.fingerprint) == (3, "test", tokenizer.fingerprint)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True))
    with pytest.raises(UsageError, match="there is no checkpoint 4; there are 3"):
        load_model(f"{directory}@4")


def test_a_checkpoint_of_another_model_is_refused_by_the_name_of_the_parameter(saved, tokenizer, tmp_path):
    other = config(tokenizer, mlp_dim=16)
    save_model(tmp_path / "other", config=other, params=init_params(other, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    (saved[0] / "model.json").write_text((tmp_path / "other/model.json").read_text())
    with pytest.raises(JaLlmError, match=r"belongs to another model: layers/mlp/\w+/kernel is"):
        load_model(saved[0])


def test_the_description_says_apart_what_a_model_is_and_how_it_is_stored_and_computed(saved, tokenizer):
    value = json.loads((saved[0] / "model.json").read_text())
    assert value.keys() == {"schema", "family", "architecture", "storage", "execution", "vocabulary"}
    loaded = load_model(saved[0], overrides={"dtype": "bfloat16", "attention": "reference"})
    assert loaded.config == config(tokenizer, dtype="bfloat16", attention="reference")
    assert loaded.params["token_embedder"]["embedding"].dtype == np.float32
    with pytest.raises(UsageError, match="scan_layers can't be changed for a stored model"):
        load_model(saved[0], overrides={"scan_layers": False})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": "ja_llm.model/1"}, "is 'ja_llm.model/1', but 'ja_llm.model/2' is needed; make the model directory again"),
        ({"storage": None}, "model.json: the model description lacks 'storage'"),
        ({"architecture": {"dropout": 0.1}}, "model.json: the model configuration has the unknown field 'dropout'"),
        ({"vocabulary": None}, "does not fit the checkpoint"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused_in_a_sentence(saved, change, says):
    path = saved[0] / "model.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {k: {**value[k], **v} if isinstance(v, dict) else v for k, v in change.items()}))
    with pytest.raises(JaLlmError, match=says):
        load_model(saved[0])


@pytest.fixture
def stored_on(saved):
    """The configuration that MODEL_OVERRIDES make of the saved model."""
    return lambda **overrides: model_config(None, overrides, str(saved[0]), 280)


def test_training_from_a_checkpoint_may_change_its_execution_and_raise_its_length(stored_on, tokenizer):
    assert stored_on() == config(tokenizer)
    changes = {"dtype": "bfloat16", "remat_policy": "full", "attention": "reference", "max_length": 16}
    assert stored_on(**changes) == config(tokenizer, **changes)
    with pytest.raises(UsageError, match="lowers max_length from 8 to 4"):
        stored_on(max_length=4)
    with pytest.raises(UsageError, match=r"'scan_layers' \(it says how the checkpoint's arrays lie\); of a checkpoint only"):
        stored_on(scan_layers=False)
    with pytest.raises(UsageError, match="MODEL_OVERRIDES names 'rope_theta'; of a checkpoint only"):
        stored_on(rope_theta=7.0)


def test_a_run_is_refused_an_initial_checkpoint_of_another_model(saved, tokenizer):
    assert initial_entry(str(saved[0]), config(tokenizer, dtype="bfloat16", max_length=16), tokenizer)["step"] == 3
    for name, value in {"scan_layers": False, "param_dtype": "bfloat16", "mlp_dim": 16, "rope_theta": 7.0}.items():
        with pytest.raises(UsageError, match=f"the checkpoint has {name} = .*, the model {value!r}"):
            initial_entry(str(saved[0]), config(tokenizer, **{name: value}), tokenizer)


def test_a_vocabulary_that_is_not_the_models_is_refused(saved, tmp_path):
    other = train_sentencepiece(["another text with other pieces " * 9], tmp_path / "v", vocab_size=275)
    other.save(saved[0] / "vocab")
    with pytest.raises(JaLlmError, match="does not fit the checkpoint"):
        load_model(saved[0])


def test_a_vocabulary_larger_than_the_table_is_never_saved(tokenizer, tmp_path):
    c = config(tokenizer, vocab_size=tokenizer.vocab_size - 1)
    with pytest.raises(JaLlmError, match="embedding rows"):
        save_model(tmp_path / "m", config=c, params=init_params(c, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    assert not (tmp_path / "m").exists()


def test_only_a_model_or_the_beginning_of_a_run_is_written_over(saved, tmp_path):
    refuse_foreign(saved[0])
    refuse_foreign(tmp_path / "absent")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / ".run.json.k3.tmp").write_text("{")  # a kill in the middle of the very first write
    refuse_foreign(begun)
    (begun / "run.json").write_text("{}")
    (begun / "vocab").mkdir()
    refuse_foreign(begun)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds something else"):
        refuse_foreign(foreign)
    with pytest.raises(UsageError, match="holds something else"):
        refuse_foreign(foreign / "thesis.tex")


def test_paths_with_a_step():
    assert split_step("runs/a@12") == (split_step("runs/a")[0], 12)
    assert str(split_step("odd@name/run")[0]) == "odd@name/run"

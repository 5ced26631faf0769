"""What a checkpoint that can't be written is said to be, whoever writes it and however it learns of it."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import Checkpoints, save_model
from ja_llm.vocab.train import train_sentencepiece

# As TensorStore 0.1 words a file system that is full, seen on a tmpfs of 1 MB.
FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0" in OCDBT database at local file "/x/params/ocdbt.process_0/": Failed writing: '
    "\"/x/params/ocdbt.process_0/d/9fdc\": Failed to write 6475776 bytes to file 4: No space left on device [os_error_code='28']"
)
ERRORS = [
    (ValueError(FULL), "the disk is full; free some space"),
    (ValueError(FULL.replace(" [os_error_code='28']", "")), "the disk is full; free some space"),
    (OSError(28, "No space left on device"), "the disk is full; free some space"),
    (PermissionError(13, "Permission denied"), "no permission to write here"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "could not be written (RuntimeError: RESOURCE_EXHAUSTED: Out of memory)"),
    (TypeError("no such leaf\n at 7"), "could not be written (TypeError: no such leaf); run the same command with --debug"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(["a small text for a small vocabulary " * 9], tmp_path_factory.mktemp("vocab"), vocab_size=280)


def fails(monkeypatch, owner, method, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(owner, method, fail)


@pytest.mark.parametrize(("error", "says"), ERRORS)
def test_a_models_save(tokenizer, tmp_path, monkeypatch, error, says):
    sizes = {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_dim": 8, "max_length": 8}
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **sizes)
    fails(monkeypatch, ocp.Checkpointer, "save", error)
    with pytest.raises(JaLlmError) as caught:
        save_model(tmp_path / "m", config=config, params=init_params(config, jax.random.key(0)), tokenizer=tokenizer, ledger={})
    sentence(caught, f"{tmp_path}/m", says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
@pytest.mark.parametrize(("error", "says"), ERRORS)
def test_a_runs_checkpoint(tmp_path, monkeypatch, method, error, says):
    checkpoints = Checkpoints(tmp_path / "run", asynchronous=False)
    with monkeypatch.context() as patch, pytest.raises(JaLlmError) as caught:
        fails(patch, ocp.CheckpointManager, method, error)
        checkpoints.save(1, {"a": np.zeros(3)}, {"b": np.zeros(3)})
        checkpoints.wait()
    sentence(caught, f"{tmp_path}/run/checkpoints", says)


def sentence(caught, path, says):
    text = str(caught.value)
    assert text.startswith(path) and says in text and len(text.splitlines()) == 1

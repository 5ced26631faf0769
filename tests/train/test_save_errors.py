"""What a checkpoint that can't be written is said to be, whoever writes it and however it learns of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


TRAINS = """
import json, shutil, sys
sys.path.insert(0, sys.argv[1])
import test_faults as t
from pathlib import Path
from ja_llm.errors import JaLlmError
from ja_llm.train.checkpoints import model_steps

disk, ask, save = Path(sys.argv[2]), shutil.disk_usage, t.Checkpoints.save

def fill_behind(path):  # the room is there when it is looked at, and gone when the save writes
    found = ask(path)
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return found

def watched(self, step, *trees, **named):
    if step == 8 and sys.argv[3] == "fills":
        self.wait()
        shutil.disk_usage = fill_behind
    save(self, step, *trees, **named)

t.Checkpoints.save = watched
source, said = t.Source(), "nothing"
config = t.RunConfig(disk / "run", 12, mesh={"data": 1}, checkpoint_period=4)
try:
    t.run(config, t.MODEL, t.Letters(), source, t.AdamW(), t.WarmupConstant(peak=3e-2, warmup_steps=1), identity={})
except JaLlmError as error:
    said = str(error)
print(json.dumps([said, model_steps(disk / "run"), source.read[0], t.lines(disk / "run")[-1]["step"]]), flush=True)
"""


def test_a_disk_that_fills_up_in_the_middle_of_a_save_keeps_what_was_saved_before(tmp_path):
    """A real one, of 8 MB, in a namespace of its own; with room again, the run goes on from there to its end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    twice = 'mount -t tmpfs -o size=8m none "$0" || exit 9; "$@" fills; rm "$0/filler"; exec "$@" again'
    within = ["unshare", "-rm", "sh", "-c", twice, str(disk)]
    command = [*within, sys.executable, "-c", TRAINS, str(Path(__file__).parent), str(disk)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=280)
    except FileNotFoundError:
        pytest.skip("there is no unshare on this system")
    if found.returncode == 9 or "unshare" in found.stderr.partition("\n")[0]:
        pytest.skip(f"this system lets nobody mount a small disk ({found.stderr[-200:]})")
    first, second = (json.loads(line) for line in found.stdout.splitlines() if line.startswith("["))
    assert "the disk is full; free some space" in first[0] and str(disk) in first[0]
    assert first[1:3] == [[4], 0]
    assert second == ["nothing", [8, 12], 4, 12], found.stderr

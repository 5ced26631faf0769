"""Whole runs of the training command: resume, meshes, and what it says when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from ja_llm.cli import main
from ja_llm.train.checkpoints import load_model, model_steps


def kill_after(training, directory, steps, at_step, number, **macros):
    """Start a run and send it a signal as soon as its metrics reach `at_step`; returns the process."""
    process = subprocess.Popen(
        training.command(directory, steps, **macros),
        env=training.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        path = directory / "metrics.jsonl"
        # A checkpoint is written in the background: without one the second run would begin anew and prove nothing.
        if path.exists() and path.read_bytes().count(b"\n") >= at_step and model_steps(directory):
            os.kill(process.pid, number)
            break
        time.sleep(0.005)
    return process, process.communicate(timeout=200)


def test_a_run_writes_what_the_design_says(straight, metrics):
    lines = metrics(straight)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert [line["step"] for line in lines if "eval/web_ja/bits_per_byte" in line] == [0, 10, 20]
    ledger = json.loads((straight / "run.json").read_text())
    assert {"data", "vocabulary", "model", "seed", "optimizer", "schedule", "batch_size"} <= ledger["identity"].keys()
    text = (straight / "config.gin").read_text()
    assert "PEAK_LEARNING_RATE" in text and "keep_checkpoints = 2" in text and "LOGICAL_AXIS_RULES" in text
    assert model_steps(straight)[-1] == 20
    assert list((straight / "tensorboard").iterdir())


def test_killed_and_started_again_gives_the_same_losses(training, straight, metrics, tmp_path):
    directory = tmp_path / "killed"
    process, _ = kill_after(training, directory, 20, 8, signal.SIGKILL, EVAL_PERIOD=10)
    assert process.returncode == -signal.SIGKILL
    assert 0 < model_steps(directory)[-1] < 20
    result = training.run(directory, 20, EVAL_PERIOD=10)
    assert result.returncode == 0, result.stderr
    assert metrics(directory) == metrics(straight)
    a, b = load_model(straight), load_model(directory)
    assert all((np.asarray(a.params[k]["embedding"]) == np.asarray(b.params[k]["embedding"])).all() for k in ["token_embedder"])


def test_sigterm_saves_and_another_mesh_goes_on(training, metrics, straight, tmp_path):
    directory = tmp_path / "preempted"
    process, (_, err) = kill_after(training, directory, 20, 6, signal.SIGTERM, EVAL_PERIOD=10)
    assert process.returncode == 75, err  # a launcher starts it again
    assert "stopped at step" in err and "Traceback" not in err
    saved = model_steps(directory)[-1]
    assert 0 < saved < 20 and f"stopped at step {saved} of 20" in err
    # It goes on on another mesh, to the same losses but for the order of float32 sums.
    result = training.run(directory, 20, devices=4, EVAL_PERIOD=10, MESH={"data": 2, "tensor": 2})
    assert result.returncode == 0, result.stderr
    ours, theirs = ([line["loss"] for line in metrics(run) if "loss" in line] for run in (directory, straight))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    history = json.loads((directory / "run.json").read_text())["history"]
    assert [(entry["from_step"], entry["mesh"]["tensor"]) for entry in history] == [(0, 1), (saved, 2)]


def test_eight_devices_give_the_losses_of_one(training, straight, metrics, tmp_path):
    directory = tmp_path / "mesh"
    result = training.run(directory, 20, devices=8, MESH={"data": 4, "tensor": 2}, EVAL_PERIOD=20)
    assert result.returncode == 0, result.stderr
    assert json.loads((directory / "run.json").read_text())["mesh"]["tensor"] == 2
    ours = np.array([line["loss"] for line in metrics(directory) if "loss" in line])
    one = np.array([line["loss"] for line in metrics(straight) if "loss" in line])
    np.testing.assert_allclose(ours, one, rtol=1e-5)


def test_a_finished_run_is_not_trained_again_and_microbatches_and_mesh_may_change(training, straight, metrics):
    before = metrics(straight)
    result = training.run(straight, 20, EVAL_PERIOD=10, MICROBATCHES=2)
    assert result.returncode == 0, result.stderr
    assert metrics(straight) == before


@pytest.mark.parametrize(
    ("macros", "says"),
    [
        ({"RANDOM_SEED": 7}, "holds a run with seed = 0"),
        ({"BATCH_SIZE": 4}, "holds a run with batch_size = 8"),
        ({"MIXTURE_OR_TASK_NAME": "other"}, "this cache holds 'mixed', not 'other'"),
        ({"TASK_FEATURE_LENGTHS": {"targets": 128}}, "the model takes 64"),
        ({"MICROBATCHES": 3}, "BATCH_SIZE is 8"),
        ({"MICROBATCHES": 0}, "MICROBATCHES is 0"),
        ({"CHECKPOINT_PERIOD": 0}, "CHECKPOINT_PERIOD is 0"),
        ({"TRAIN_STEPS": 1e3}, "TRAIN_STEPS is 1000.0"),
        ({"TASK_FEATURE_LENGTHS": 32}, "TASK_FEATURE_LENGTHS is 32"),
        ({"MODEL_DIR": "s3://bucket/run"}, "only local folders"),
        ({"INITIAL_CHECKPOINT_PATH": "/nowhere/at/all"}, "does not exist"),
        ({"CACHE_DIR": "/nowhere/at/all"}, "/nowhere/at/all: this folder does not exist"),
        ({"TRIAN_STEPS": 7}, "did you mean TRAIN_STEPS"),
    ],
)
def test_wrong_settings_get_one_sentence(training, straight, capsys, macros, says):
    assert in_process(training, straight, **macros) in (1, 2)
    assert says in one_sentence(capsys)


def in_process(training, directory, **macros) -> int:
    """The command without the seconds that a new interpreter takes."""
    return main(training.command(directory, 20, **macros)[3:])


def one_sentence(capsys) -> str:
    """What the user sees: one line on standard error, no traceback."""
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and "Traceback" not in err
    return err


def test_a_vocabulary_that_does_not_fit_the_checkpoint_is_refused(training, straight, tmp_path, make_cache, capsys):
    other = make_cache(tmp_path / "other", seed=1, vocab_size=380)
    capsys.readouterr()
    assert in_process(training, tmp_path / "run", INITIAL_CHECKPOINT_PATH=str(straight), CACHE_DIR=str(other)) == 2
    assert "is not the one that the data were tokenized with" in one_sentence(capsys)


def test_a_run_goes_on_with_other_remat_but_not_with_another_layout(training, straight, metrics, model_gin, tmp_path, capsys):
    before, described = metrics(straight), (straight / "model.json").read_text()
    text = model_gin.read_text()
    for change, code in (("remat_policy = 'full'", 0), ("scan_layers = False", 2), ("dtype = 'bfloat16'", 2)):
        other = tmp_path / "other.gin"
        other.write_text(text + f"config.DecoderConfig.{change}\n")
        capsys.readouterr()
        command = [word.replace(str(model_gin), str(other)) for word in training.command(straight, 20, EVAL_PERIOD=10)]
        assert main(command[3:]) == code, change
        if code:
            assert f"holds a run with model.{change.split(' = ')[0]} = " in one_sentence(capsys)
            assert json.loads((straight / "model.json").read_text())["storage"] == json.loads(described)["storage"]
    assert metrics(straight) == before and load_model(straight).step == 20


def test_half_written_and_damaged_checkpoints(training, straight, tmp_path):
    directory = tmp_path / "damaged"
    shutil.copytree(straight, directory)
    # What a save that was killed leaves: orbax's temporary name. It is not a checkpoint.
    shutil.copytree(directory / "checkpoints" / "20", directory / "checkpoints" / "25.orbax-checkpoint-tmp-7")
    assert load_model(directory).step == 20
    for file in (directory / "checkpoints" / "20" / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 100 and "d/" in file.as_posix():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(Exception, match="this checkpoint is damaged"):
        load_model(directory)

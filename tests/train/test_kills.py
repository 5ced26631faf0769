"""A run that is killed at random moments, and gone on with, has the losses of the undisturbed one."""

import os
import random
import signal
import time

import pytest

STEPS = 20


def lines_of(directory):
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(process, directory, moment, rng):
    """Wait for the moment and send SIGKILL; False where the process ended before."""
    begun, before = time.monotonic(), lines_of(directory)
    delay = rng.uniform(0, 6) if moment == "start" else rng.uniform(0, 0.05)
    target = before + rng.randint(1, 8)
    while process.poll() is None and time.monotonic() - begun < 900:
        saving = any((directory / "checkpoints").glob("*tmp*")) if moment == "save" else False
        if (
            (moment == "start" and time.monotonic() - begun > delay)
            or saving
            or (moment == "step" and lines_of(directory) >= target)
        ):
            time.sleep(0 if moment == "start" else delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.002)
    return False


def survive(training, directory, moments, seed, counts=(1,)):
    """Kill at each moment (one process of as many as `counts` says), go on, and at last let the run end."""
    rng = random.Random(seed)
    killed = []
    for moment in moments:
        processes = training.start(directory, STEPS, count := rng.choice(counts), EVAL_PERIOD=10)
        victim = rng.randrange(count)
        killed.append(kill_at(processes[victim], directory, moment, rng))
        for process in processes:  # what a launcher does when one of its processes is gone
            process.kill()
            process.wait()
    (last,) = training.start(directory, STEPS, EVAL_PERIOD=10)
    assert last.wait(timeout=900) == 0, directory.with_name(f"{directory.name}.0.log").read_text()
    return killed


@pytest.mark.timeout(3600)  # a busy machine; half a minute on a quiet one
def test_three_kills(training, straight, metrics, tmp_path):
    killed = survive(training, tmp_path / "run", ("step", "save", "start"), seed=0)
    assert killed[0]
    assert metrics(tmp_path / "run") == metrics(straight)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills(training, straight, metrics, tmp_path):
    killed = []
    for seed in range(1, 6):
        killed += survive(training, tmp_path / f"run{seed}", ("save", "step", "start", "step"), seed)
        assert metrics(tmp_path / f"run{seed}") == metrics(straight)
    assert len(killed) == 20 and sum(killed) >= 12


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_of_four_processes_killed_and_gone_on_with_by_another_number(training, straight, metrics, tmp_path):
    killed = survive(training, tmp_path / "run", ("step", "save", "step"), seed=7, counts=(4, 2))
    assert any(killed)
    losses = [[line["loss"] for line in metrics(run) if "loss" in line] for run in (tmp_path / "run", straight)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert os.listdir(tmp_path / "run/checkpoints")

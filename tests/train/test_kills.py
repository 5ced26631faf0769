"""A run that is killed at random moments, and gone on with, has the batches and the losses of the undisturbed one."""

import json
import random
import signal
import time

import pytest

from ja_llm.data.stages import StagedBatches

STEPS = 20


def lines_of(directory):
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(directory):
    """Whether a save stands under its temporary name; what an earlier kill left there is removed when a run begins."""
    return any((directory / "checkpoints").glob("*tmp*"))


def kill_at(process, directory, moment, rng):
    """Wait for the moment and send SIGKILL; whether it came in that moment, and not behind it."""
    begun, before, left = time.monotonic(), lines_of(directory), saving(directory)
    delay = rng.uniform(0, 4) if moment == "start" else rng.uniform(0, 0.2) if moment == "save" else rng.uniform(0, 0.05)
    target = min(before + rng.randint(1, 8), STEPS)
    while process.poll() is None and time.monotonic() - begun < 900:
        left = left and saving(directory)
        due = {
            "start": time.monotonic() - begun > delay,
            "save": not left and saving(directory),
            "step": lines_of(directory) >= target,
        }
        if due[moment]:
            time.sleep(0 if moment == "start" else delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode == -signal.SIGKILL and (moment != "save" or saving(directory))
        time.sleep(0.002)
    return False


def survive(training, directory, moments, seed, counts=(1,), devices=(1,)):
    """Kill at each moment (one process of as many, each with as many devices, as the seed chooses), go on, and at last let the run end.

    Checks that every kill came in its moment, and that every batch that was read, by whichever process, is the undisturbed run's.
    """
    rng, record = random.Random(seed), directory.with_name(f"{directory.name}.ids")
    plants = {"record": {"path": str(record)}, "slow_save": {"seconds": 0.5}}
    for moment in moments:
        processes = training.start(
            directory, STEPS, count := rng.choice(counts), rng.choice(devices) if count == 1 else 1, plants, EVAL_PERIOD=10
        )
        victim = rng.randrange(count)
        killed = kill_at(processes[victim], directory, moment, rng)
        for process in processes:  # what a launcher does when one of its processes is gone
            process.kill()
            process.wait()
        assert killed, (moment, directory.with_name(f"{directory.name}.{victim}.log").read_text())
    (last,) = training.start(directory, STEPS, plants={"record": plants["record"]}, EVAL_PERIOD=10)
    assert last.wait(timeout=900) == 0, directory.with_name(f"{directory.name}.0.log").read_text()
    batches = StagedBatches(training.cache_dir, length=32, batch_size=8, seed=0)
    read = [json.loads(line) for line in record.read_text().splitlines()]
    assert {step for step, *_ in read} == set(range(STEPS))
    for step, shard, shards, rows in read:
        whole = [list(row) for row in batches.sources[0]._rows(step, 0, 1)]
        assert rows == whole[shard * 8 // shards : (shard + 1) * 8 // shards], step


def losses(metrics, directory):
    return [line["loss"] for line in metrics(directory) if "loss" in line]


def positions(metrics, directory):
    """(step, stage, data step) of each training step."""
    return [(line["step"], line["stage"], line["data_step"]) for line in metrics(directory) if "loss" in line]


@pytest.mark.timeout(3600)  # a busy machine; half a minute on a quiet one
def test_three_kills(training, straight, metrics, tmp_path):
    survive(training, tmp_path / "run", ("step", "save", "start"), seed=0)
    assert metrics(tmp_path / "run") == metrics(straight)
    assert positions(metrics, straight) == [(step + 1, 0, step) for step in range(STEPS)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills(training, straight, metrics, tmp_path):
    for seed in range(1, 4):
        survive(training, tmp_path / f"run{seed}", ("save", "step", "start", "step"), seed)
        assert metrics(tmp_path / f"run{seed}") == metrics(straight)
    for seed in range(4, 6):  # the same run on one device and on two, in turns
        survive(training, tmp_path / f"run{seed}", ("save", "step", "start", "step"), seed, devices=(1, 2))
        assert positions(metrics, tmp_path / f"run{seed}") == positions(metrics, straight)
        assert losses(metrics, tmp_path / f"run{seed}") == pytest.approx(losses(metrics, straight), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_of_four_processes_killed_and_gone_on_with_by_another_number(training, straight, metrics, tmp_path):
    survive(training, tmp_path / "run", ("step", "save", "step"), seed=7, counts=(4, 2))
    assert positions(metrics, tmp_path / "run") == positions(metrics, straight)
    assert losses(metrics, tmp_path / "run") == pytest.approx(losses(metrics, straight), rel=1e-5)

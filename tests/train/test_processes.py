"""Several real processes over loopback as one run: equal losses, one asked to stop stops all, one that is silent is named."""

import json
import shutil
import signal
import time

import pytest

from ja_llm.errors import UsageError
from ja_llm.train.checkpoints import model_steps
from ja_llm.train.processes import RESTART, join, stop_on_signals

STEPS = 20


def wait(processes, seconds=900):
    deadline = time.monotonic() + seconds
    return [process.wait(timeout=max(deadline - time.monotonic(), 1)) for process in processes]


def log(directory, index):
    return directory.with_name(f"{directory.name}.{index}.log").read_text()


def until_step(directory, step, processes, seconds=900):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        path = directory / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError(log(directory, 0))


def losses(metrics, directory):
    return [line["loss"] for line in metrics(directory) if "loss" in line]


@pytest.fixture
def started(training):
    """Starts processes, and leaves none behind."""
    running = []

    def start(*arguments, **named):
        running.extend(processes := training.start(*arguments, **named))
        return processes

    yield start
    for process in running:
        process.kill()


@pytest.mark.timeout(1800)  # a busy machine; half a minute on a quiet one
def test_two_processes_one_of_them_asked_to_stop(started, straight, metrics, tmp_path):
    directory = tmp_path / "two"
    processes = started(directory, STEPS, 2, EVAL_PERIOD=10, MESH={"data": 1}, DCN_MESH={"data": 2})
    until_step(directory, 6, processes)
    processes[1].send_signal(signal.SIGTERM)  # of a pod's hosts one is told of the maintenance
    assert wait(processes) == [75, 75], log(directory, 0)
    saved = model_steps(directory)[-1]
    assert saved < STEPS and all(f"stopped at step {saved} of {STEPS}" in log(directory, i) for i in range(2))
    assert wait(started(directory, STEPS, 1, EVAL_PERIOD=10)) == [0], log(directory, 0)
    assert losses(metrics, directory) == pytest.approx(losses(metrics, straight), rel=1e-5)
    history = json.loads((directory / "run.json").read_text())["history"]
    assert [(entry["from_step"], entry["mesh"]["data"]) for entry in history] == [(0, 2), (saved, 1)]


@pytest.mark.timeout(1800)
def test_what_one_process_refuses_or_finds_damaged_all_know(started, straight, metrics, tmp_path):
    directory = tmp_path / "two"
    shutil.copytree(straight, directory)
    processes = started(directory, STEPS, 2, RANDOM_SEED=7)  # only the first process looks at the ledger
    assert wait(processes) == [2, 2], log(directory, 1)
    assert all("holds a run with seed = 0, the command says 7" in log(directory, i) for i in range(2))
    processes = started(directory, STEPS, 2, plants={"damaged": {"process": 1, "step": STEPS}}, EVAL_PERIOD=10)
    assert wait(processes) == [0, 0], log(directory, 1)
    assert "the run goes on from step 15" in log(directory, 0)
    assert losses(metrics, directory) == pytest.approx(losses(metrics, straight), rel=1e-5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, RESTART), (signal.SIGINT, 1)])
def test_a_launcher_starts_again_what_the_machine_stopped_and_not_what_a_person_did(number, code):
    with stop_on_signals() as stopping:
        signal.raise_signal(number)
        assert stopping.at(5) and stopping.exit_code == code


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_process_of_four_is_named_and_the_restart_ends_equal(started, straight, metrics, tmp_path):
    directory = tmp_path / "four"
    processes = started(directory, STEPS, 4, EVAL_PERIOD=10, STEP_TIMEOUT=30, BATCH_SIZE=8)
    until_step(directory, 7, processes)
    processes[2].send_signal(signal.SIGSTOP)
    codes = wait([process for i, process in enumerate(processes) if i != 2])
    assert codes == [RESTART] * 3, [log(directory, i)[-2000:] for i in range(4)]
    assert all("silent is process 2 (gives no sign of life)" in log(directory, i) for i in (0, 1, 3))
    processes[2].kill()
    assert wait(started(directory, STEPS, 4, EVAL_PERIOD=10, STEP_TIMEOUT=120)) == [0] * 4, log(directory, 0)
    assert losses(metrics, directory) == pytest.approx(losses(metrics, straight), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, 2, None), "need --coordinator_address"),
        (("h:1", None, 0), "needs --process_count N and --process_index from 0 to N - 1, not None and 0"),
        (("h:1", 2, 2), "not 2 and 2"),
    ],
)
def test_flags_that_do_not_go_together(arguments, says):
    with pytest.raises(UsageError, match=says):
        join(*arguments)

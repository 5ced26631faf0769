"""Several real processes over loopback as one run: equal losses, one asked to stop stops all, one that is silent is named."""

import contextlib
import json
import os
import re
import shutil
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.interop.hf import export_hf
from ja_llm.train import failures, memory, processes, session
from ja_llm.train.checkpoints import model_steps
from ja_llm.train.processes import RESTART, Interrupted, Stopping, between_batches, join, stop_on_signals

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
    processes = started(directory, STEPS, 2, EVAL_PERIOD=10, MESH={"data": 1}, DCN_MESH={"data": 2}, EXPORT_PERIOD=5)
    until_step(directory, 6, processes)
    processes[1].send_signal(signal.SIGTERM)  # of a pod's hosts one is told of the maintenance
    assert wait(processes) == [75, 75], log(directory, 0)
    saved = model_steps(directory)[-1]
    assert saved < STEPS and all(f"stopped at step {saved} of {STEPS}" in log(directory, i) for i in range(2))
    exported = max(int(path.name) for path in (directory / "export").iterdir())  # by one of the two, which the other waited for
    export_hf(f"{directory}@{exported}", tmp_path / "alone")
    weights = [path / "model.safetensors" for path in (directory / f"export/{exported}", tmp_path / "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
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


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_data_that_one_process_can_not_read_end_all_with_its_sentence_and_no_restart(started, tmp_path, process):
    """The damage is still there after a restart. Process 0 serves the others' questions, and so ends last."""
    directory = tmp_path / "two"
    processes = started(directory, STEPS, 2, plants={"unreadable": {"process": process, "step": 7}})
    assert wait(processes) == [1, 1], log(directory, 0) + log(directory, 1)
    sentence = "tokens/c/3: this shard can't be read (planted); make the cache again."
    assert f"ja-llm: {sentence}" in log(directory, process)
    assert f"ja-llm: process {process} of this run has ended: {sentence}" in log(directory, 1 - process)
    assert not any("Traceback" in log(directory, i) for i in (0, 1))
    assert model_steps(directory) == [5]  # what was being saved when it happened is whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [5, 10], ids=["a step follows", "the last step"])
def test_who_survives_a_process_that_is_killed_in_a_save_asks_for_a_restart(started, tmp_path, step):
    directory = tmp_path / "two"
    plants = {"slow_save": {"seconds": 5}, "silence": {"seconds": 6}}
    processes = started(directory, 10, 2, plants=plants, CHECKPOINT_PERIOD=step)
    deadline = time.monotonic() + 900
    while not any((directory / "checkpoints").glob(f"{step}.*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].kill()
    assert wait(processes) == [RESTART, -signal.SIGKILL], log(directory, 0)
    assert "Traceback (most recent call last)" not in log(directory, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, RESTART), (signal.SIGINT, 1)])
def test_a_launcher_starts_again_what_the_machine_stopped_and_not_what_a_person_did(number, code):
    with stop_on_signals() as stopping:
        signal.raise_signal(number)
        assert stopping.at(5) and stopping.exit_code == code


class Store:
    """The coordination service's keys, as two processes in one see them."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        if key in self.values and not allow_overwrite:
            raise RuntimeError("ALREADY_EXISTS")
        self.values[key] = value

    def key_value_try_get(self, key):
        return self.values[key]


class Hosts:
    """Threads in place of processes, each with its rank, and a collective that waits for all."""

    def __init__(self, count):
        self.rank, self.values, self.barrier = threading.local(), [None] * count, threading.Barrier(count)

    def process_allgather(self, value):
        self.values[self.rank.number] = value
        self.barrier.wait(timeout=20)
        found = np.stack(self.values)
        self.barrier.wait(timeout=20)
        return found


@pytest.mark.parametrize("who", [0, 2])
def test_all_processes_leave_an_evaluator_behind_the_same_batch(monkeypatch, who):
    """On a mesh where processes 0 and 1 compute together and 2 alone, so that nothing but the question itself keeps them at one batch."""
    hosts, pair, left = Hosts(3), threading.Barrier(2), {}
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", hosts.process_allgather)

    def evaluate(rank):
        hosts.rank.number = rank
        stopping = Stopping()
        stopping._client = object()
        for batch in range(1, 60):
            if rank < 2:
                pair.wait(timeout=20)
            else:
                time.sleep(0.001)
            if (rank, batch) == (who, 7):
                stopping.ask(signal.SIGTERM)
            try:
                stopping._check_batch()
            except Interrupted:
                left[rank] = batch
                return

    threads = [threading.Thread(target=evaluate, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert left == {0: 7, 1: 7, 2: 7}
    between_batches()  # elsewhere it is nothing


@pytest.mark.parametrize(
    ("error", "cause", "code"),
    [
        (ValueError("Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:1"), None, RESTART),
        (
            JaLlmError("d/checkpoints/5: a checkpoint could not be written"),
            ValueError("UNAVAILABLE: Barrier failed: task 1"),
            RESTART,
        ),
        (JaLlmError("d/checkpoints/5: a checkpoint could not be written"), ValueError("UNAVAILABLE: [tensorstore/gcs]"), None),
        (JaLlmError("tokens: connection refused of ours, which is a sentence"), None, None),
        # The network of this process, not the others': a restart would meet it again.
        (ConnectionResetError(104, "Connection reset by peer"), None, None),
        (JaLlmError("WANDB_PROJECT 'p': W&B could not be opened"), OSError("HTTPSConnectionPool: Connection refused"), None),
        (type("CommError", (Exception,), {})("503 UNAVAILABLE: coordination service, barrier"), None, None),
        (ValueError("UNAVAILABLE: Connection reset by peer; reading gs://bucket/store"), None, None),
        (
            jax.errors.JaxRuntimeError(
                "UNAVAILABLE: failed to connect to all addresses; while calling /tensorflow.CoordinationService/Barrier"
            ),
            None,
            RESTART,
        ),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer"), None, RESTART),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Broken channel: Connection closed by peer"), None, RESTART),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: [tensorstore/gcs] Connection reset by peer"), None, None),
        # A restart would run out of memory again.
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: NCCL operation ncclCommInitRank failed: out of memory"), None, None),
        (ValueError("shapes do not match"), None, None),
    ],
)
def test_a_lost_process_is_known_behind_a_save_that_it_broke(monkeypatch, capsys, error, cause, code):
    store, ended = Store(), []
    monkeypatch.setattr(failures, "_service", lambda: (store, 1, 2))
    monkeypatch.setattr(failures, "_exit", lambda code, rank: ended.append(code))
    error.__cause__ = cause
    failures.leave_if_lost(error)
    assert ended == [code] * (code is not None)
    if code:
        assert "process 1 has lost another process of this run" in capsys.readouterr().err
        assert failures.posted().code == RESTART  # for those that wait where nothing breaks


def test_who_loses_a_process_that_had_an_error_ends_with_its_sentence_and_code(monkeypatch, capsys):
    store, ended = Store(), []
    monkeypatch.setattr(failures, "_service", lambda: (store, 1, 2))
    monkeypatch.setattr(failures, "_exit", lambda code, rank: ended.append(code))
    store.values[failures._FAILED] = json.dumps([0, 1, "tokens: damaged."])
    failures.leave_if_lost(ValueError("Gloo all-reduce failed: Connection reset by peer"))
    assert ended == [1] and "process 0 of this run has ended: tokens: damaged." in capsys.readouterr().err


@pytest.fixture
def of_three(monkeypatch):
    """(the store, the codes that were ended with) of a run of three, of which this process is number 1; all waits are short."""
    store, ended = Store(), []
    monkeypatch.setattr(failures, "_service", lambda: (store, 1, 3))
    monkeypatch.setattr(os, "_exit", ended.append)
    for name, seconds in {"_LOOK": 0.02, "_STAYS": 0.3, "_COORDINATOR_STAYS": 0.0, "_SAYS": 0.05}.items():
        monkeypatch.setattr(failures, name, seconds)
    yield store, ended
    for thread in threading.enumerate():  # what ends a process later would end this one
        if thread.name in ("end", "failures", "last"):
            thread.join(timeout=60)


def test_a_process_says_its_own_error_where_another_was_first_and_a_third_hangs(of_three, capsys):
    store, ended = of_three
    with pytest.raises(JaLlmError, match="our own"), failures.shared():
        store.values[failures._FAILED] = json.dumps([0, 2, "theirs."])
        raise JaLlmError("our own.")
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [1] and "theirs" not in capsys.readouterr().err  # the command line prints our own


def test_a_second_control_c_is_told_to_the_others(of_three):
    store, ended = of_three
    with pytest.raises(KeyboardInterrupt), failures.shared():
        raise KeyboardInterrupt
    assert failures.posted()[:3] == (1, 1, "it was stopped at once, by a second Ctrl-C.")


def test_one_that_looks_for_more_is_waited_for(of_three):
    store, ended = of_three
    with failures.shared():
        assert not failures.all_end()
        store.values[failures._FAILED] = json.dumps([0, 3, "the step does not fit.", 60.0])
        time.sleep(1.5)  # longer than what others stay otherwise
        assert not ended and failures.all_end()
        store.values[f"{failures._FAILED}/0"] = "failed"
        deadline = time.monotonic() + 20
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [3]


def test_what_would_fit_is_told_where_the_close_behind_it_hangs(of_three, monkeypatch, capsys):
    """A save in the background waits for the others, who wait for what was found out: all end with it, and not when the time is over."""
    store, ended = of_three
    monkeypatch.setattr(memory, "device_bytes", lambda: 100)
    answers = {None: "too large.", 100: "too large; MICROBATCHES = 2 would fit."}

    def explain(*_, limit, needed):
        if limit:  # the others know before
            assert failures.posted().sentence == "too large." and 0 < failures.posted().stays <= 600
        return JaLlmError(answers[limit])

    monkeypatch.setattr(memory, "explain", explain)

    @contextlib.contextmanager
    def close_that_hangs():
        try:
            yield
        finally:
            deadline = time.monotonic() + 20
            while not ended and time.monotonic() < deadline:
                time.sleep(0.01)
            told.append(list(ended))

    told = []
    at = types.SimpleNamespace(current="step")
    with (
        pytest.raises(JaLlmError, match="MICROBATCHES = 2 would fit"),
        failures.shared(),
        close_that_hangs(),
        session._in_sentences(at, None, None, None, 4),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
    assert told == [[1]] and "ja-llm: too large; MICROBATCHES = 2 would fit." in capsys.readouterr().err
    assert failures.posted() == (1, 1, "too large; MICROBATCHES = 2 would fit.", 0.0)
    failures.post(JaLlmError("the checkpoint could not be written."))  # what follows from it is not believed instead
    assert "would fit" in failures.posted().sentence


def test_the_others_end_with_what_was_found_out(of_three, capsys):
    store, ended = of_three
    with failures.shared():
        store.values[failures._FAILED] = json.dumps([0, 1, "too large.", 60.0])
        deadline = time.monotonic() + 20
        while not failures.all_end() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        store.values[failures._FAILED] = json.dumps([0, 1, "MICROBATCHES = 2 would fit.", 0.0])
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [1] and "process 0 of this run has ended: MICROBATCHES = 2 would fit." in capsys.readouterr().err


def test_what_an_end_at_once_would_lose_is_written(of_three, capsys):
    _, ended = of_three
    written = []

    def fails():
        raise OSError("the bucket does not answer")

    with failures.last(lambda: written.append("goodput"), fails, lambda: written.append("metrics")):
        failures._exit(75, 1)
    assert written == ["goodput", "metrics"] and ended == [75] and "the bucket does not answer" in capsys.readouterr().err
    failures._exit(75, 1)
    assert len(written) == 2  # behind the block there is nothing left to write


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_processes_have_one_devices_losses_and_a_restart_of_them_the_same_bits(started, training, metrics, tmp_path):
    one = training.run(tmp_path / "one", 40)
    assert one.returncode == 0, one.stderr
    assert wait(started(tmp_path / "four", 40, 4)) == [0] * 4, log(tmp_path / "four", 0)
    four = losses(metrics, tmp_path / "four")
    assert len(four) == 40 and four == pytest.approx(losses(metrics, tmp_path / "one"), rel=1e-5)
    processes = started(tmp_path / "again", 40, 4)
    until_step(tmp_path / "again", 17, processes)
    for process in processes:
        process.kill()
    wait(processes)
    assert wait(started(tmp_path / "again", 40, 4)) == [0] * 4, log(tmp_path / "again", 0)
    assert losses(metrics, tmp_path / "again") == four


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_process_of_four_is_named_and_the_restart_ends_equal(started, straight, metrics, tmp_path):
    directory = tmp_path / "four"
    processes = started(directory, STEPS, 4, EVAL_PERIOD=10, STEP_TIMEOUT=30, BATCH_SIZE=8)
    until_step(directory, 7, processes)
    processes[2].send_signal(signal.SIGSTOP)
    codes = wait([process for i, process in enumerate(processes) if i != 2])
    assert codes == [RESTART] * 3, [log(directory, i)[-2000:] for i in range(4)]
    said = [
        re.search(r"has waited ([\d.]+) s for .*silent is process 2 \(gives no sign of life\)", log(directory, i))
        for i in (0, 1, 3)
    ]
    assert all(told and float(told[1]) <= 30 for told in said)  # before the time is over
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

"""The watchdog: a hung step, a hung source and a silent process are named in time, and the process ends with the code to restart on."""

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from ja_llm.train import failures, watchdog
from ja_llm.train.checkpoints import model_steps
from ja_llm.train.watchdog import Watchdog


def test_a_hung_source_ends_the_process_with_its_stacks_and_a_sentence(capfd):
    ended = []
    with Watchdog(0.4, end=ended.append) as dog:
        dog.sign(3, "checkpoint", timed=False)
        time.sleep(0.8)
        assert not ended
        dog.sign(4, "data")
        deadline = time.monotonic() + 30
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
    assert ended == [75]
    said = capfd.readouterr().err
    assert "step 4: process 0 has waited" in said and "for a batch of its data" in said and "code 75" in said
    assert "test_a_hung_source_ends" in said and threading.active_count() >= 1


def test_a_phase_that_is_no_step_has_its_own_time(capfd):
    ended = []
    with Watchdog(None, 0.4, end=ended.append) as dog:
        dog.sign(3, "data")
        time.sleep(0.8)
        assert not ended
        dog.sign(5, "evaluation", timed=False)
        deadline = time.monotonic() + 30
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
    assert ended == [75] and "for the end of its phase 'evaluation'" in capfd.readouterr().err


class Beating(watchdog.Pulse):
    """What the processes' pulses say is `said(number of the question)`."""

    said = None

    def __init__(self, period):
        self.step, self._client, self._ended, self._count = -1, None, threading.Event(), itertools.count()

    def beats(self):
        return Beating.said(next(self._count))


@pytest.fixture
def of_two(monkeypatch):
    """of_two(said) makes this process one of two."""
    monkeypatch.setattr(watchdog, "_STAYS", 0.0)
    monkeypatch.setattr(watchdog, "_COORDINATOR_STAYS", 0.0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(watchdog, "Pulse", Beating)
    return lambda said: monkeypatch.setattr(Beating, "said", staticmethod(said))


@pytest.mark.parametrize(
    ("beats", "says"),
    [
        (lambda n: {0: str(n), 1: "7 3"}, "silent is process 1 (gives no sign of life)"),
        (
            lambda n: {0: str(n), 1: str(n)} if n < 3 else time.sleep(3600),
            "silent is process 0 (the coordinator, which does not answer)",
        ),
        (lambda n: {0: str(n), 1: watchdog.ENDED}, None),
    ],
    ids=["stopped", "coordinator stopped", "ended"],
)
def test_a_silent_process_is_named_whatever_the_others_do(capfd, monkeypatch, of_two, beats, says):
    """It stops while the others evaluate, which nobody times; one that has done its work is not missed."""
    monkeypatch.setattr(watchdog, "SILENCE", 0.8)
    of_two(beats)
    ended = []
    with Watchdog(None, end=ended.append) as dog:
        dog.sign(3, "evaluation", timed=False)
        deadline = time.monotonic() + (30 if says else 2)
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
    said = capfd.readouterr().err
    assert (ended == [75] and says in said) if says else not ended


STOPPED = "process 1 (gives no sign of life)"


@pytest.mark.parametrize("timeout", [0.5, 30.0, 600.0])
@pytest.mark.parametrize(
    ("steps", "names"),
    [((4, None), STOPPED), ((5, 4), "process 1 (at step 4, others at 5)"), ((4, 4), "no single process (all at step 4)")],
    ids=["stopped", "behind", "none"],
)
def test_a_silent_process_is_named_before_the_time_is_over_and_others_have_all_of_it(monkeypatch, of_two, timeout, steps, names):
    """By a clock of our own: a pulse, its hearing and the look at it each come as late as they may."""
    of_two(lambda n: {})
    with Watchdog(timeout) as dog:
        dog.close()
        dog.sign(4, "step")
        begun = dog._since
        last = begun + dog._look + dog._period  # when the last pulse of the process that is stopped now is heard
        dog._heard[1] = f"7 {steps[1]}", last
        for tick in range(1, 1000):
            now = begun + tick * dog._tick
            dog._answered, dog._heard[0] = now, (f"{tick} {steps[0]}", now)
            if steps[1] is not None:
                dog._heard[1] = f"{tick} {steps[1]}", now
            if (due := dog._due(now)) is not None:
                break
    assert due == (pytest.approx(now - begun), names)
    earliest, latest = (min(0.9 * timeout, watchdog.SILENCE), timeout) if names == STOPPED else (timeout, 1.05 * timeout)
    assert earliest < due[0] <= latest


def test_no_restart_is_asked_for_where_a_process_has_said_why_all_end(monkeypatch, of_two):
    """One that looks for what would fit into memory takes longer than the others' steps may."""
    of_two(lambda n: {0: str(n), 1: "7 4"})
    monkeypatch.setattr(failures, "all_end", lambda: True)
    ended = []
    with Watchdog(0.5, end=ended.append) as dog:
        dog.sign(4, "step")
        time.sleep(2.0)
    assert not ended


def test_a_source_that_hangs_in_a_run_ends_the_process_at_its_step(tmp_path):
    """In a process of its own, which the watchdog really ends; a run that goes on is the undisturbed one (tests/train/test_kills.py)."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import test_faults as t; from pathlib import Path\n"
        "class Hung(t.Source):\n"
        "    def batch(self, step):\n"
        "        time.sleep(3600 if step == 5 else 0)\n"
        "        return super().batch(step)\n"
        "config = t.RunConfig(Path(sys.argv[2]), 12, mesh={'data': 1}, checkpoint_period=4, step_timeout=6.0)\n"
        "source = Hung()\n"
        "t.run(config, t.MODEL, t.Letters(), source, t.AdamW(), t.WarmupConstant(3e-2, 1), identity={})\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=280)
    assert found.returncode == 75, found.stderr
    assert "step 5: process 0 has waited" in found.stderr and "for a batch of its data" in found.stderr
    assert "in batch" in found.stderr  # the stack says where
    assert model_steps(tmp_path / "run") == [4]

"""Real training under `ja-llm launch local`: one of four is killed, one is stopped, and the losses are the undisturbed run's."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS, TIMEOUT = 20, 30


def child(launcher: int, index: int) -> int:
    """Process `index` of a launcher, found as the system lists it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == launcher and f"--process_index={index}".encode() in words:
            return int(entry.name)
    raise AssertionError(f"process {index} does not run")


def until(check, launcher, log, seconds=600):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline and launcher.poll() is None, log.read_text()[-3000:]
        time.sleep(0.005)
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_killed_and_a_stopped_process_of_four_are_named_and_the_losses_stay(training, straight, metrics, tmp_path):
    directory, log = tmp_path / "four", tmp_path / "launcher.log"
    train = training.command(directory, STEPS, EVAL_PERIOD=10_000, STEP_TIMEOUT=TIMEOUT)
    flags = ["--processes=4", "--device=cpu", "--backoff=0.5", "--grace=30"]
    with open(log, "w") as file:
        command = [sys.executable, "-m", "ja_llm", "launch", "local", *flags, "--", *train]
        launcher = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "XLA_FLAGS": ""})

    def steps():
        path = directory / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    try:
        until(lambda: steps() >= 6, launcher, log)
        os.kill(child(launcher.pid, 1), signal.SIGKILL)
        killed = time.monotonic()
        found = until(lambda: "lost process 1 (killed by SIGKILL); all start again" in log.read_text(), launcher, log)
        assert found - killed < TIMEOUT
        # Between the checkpoints at 10 and 15, which STEP_TIMEOUT does not time.
        until(lambda: steps() >= 9, launcher, log)
        second = child(launcher.pid, 2)
        until(lambda: steps() >= 12, launcher, log)
        os.kill(second, signal.SIGSTOP)
        stopped = time.monotonic()
        until(lambda: "silent is process 2 (gives no sign of life)" in log.read_text(), launcher, log)
        waited = max(int(n) for n in re.findall(r"has waited (\d+) s for .*silent is process 2", log.read_text()))
        assert TIMEOUT <= waited <= TIMEOUT + 10
        again = until(lambda: "lost process 2 (gives no sign of life), so the others say" in log.read_text(), launcher, log)
        assert again - stopped < 3 * TIMEOUT
        assert launcher.wait(timeout=900) == 0, log.read_text()[-3000:]
    finally:
        launcher.terminate()
    said = log.read_text()
    print(said[said.rindex("goodput") :])
    assert re.search(r"goodput [\d.]+ % of \d+ s \(.*step \d+ s.*\), 2 restarts", said)
    ours, theirs = ([line["loss"] for line in metrics(d) if "loss" in line] for d in (directory, straight))
    assert len(ours) == STEPS and ours == pytest.approx(theirs, rel=1e-5)

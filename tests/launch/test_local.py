"""`ja-llm launch local` with processes of no weight (member.py): who is lost is named, what is started again and what is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ja_llm.errors import UsageError
from ja_llm.launch.command import check_command, macro
from ja_llm.launch.local import SILENT, environments
from ja_llm.launch.progress import goodput, newest_step
from ja_llm.launch.restarts import LONG, RESTART, Restarts, killed_by, lost

MEMBER = Path(__file__).with_name("member.py")


class Launched:
    """A launcher and what it said."""

    def __init__(self, folder: Path, plan: dict, *flags: str, processes: int = 3):
        self.run, self.processes = folder / "run", processes
        self.run.mkdir()
        self.logs = folder / "run.logs"
        command = [sys.executable, "-m", "ja_llm", "launch", "local", f"--processes={processes}", "--backoff=0.1"]
        command += [
            f"--run={self.run}",
            f"--logs={self.logs}",
            *flags,
            "--",
            sys.executable,
            str(MEMBER),
            str(self.run),
            json.dumps(plan),
        ]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _begun(self, index: int) -> bool:
        log = self.logs / f"process-{index}.log"
        return log.exists() and "begins at step" in log.read_text()

    def wait(self) -> int:
        self.out, self.err = self.popen.communicate(timeout=120)
        return self.popen.returncode

    def until_step(self, step: int) -> None:
        """Wait until process 0 has come to the step and all have begun: one that a signal meets before it listens just dies."""
        deadline = time.monotonic() + 60
        while (newest_step(self.run) or 0) < step or not all(self._begun(index) for index in range(self.processes)):
            assert time.monotonic() < deadline and self.popen.poll() is None
            time.sleep(0.02)


@pytest.fixture
def launched(tmp_path):
    found = []

    def start(*arguments, **named):
        found.append(Launched(tmp_path, *arguments, **named))
        return found[-1]

    yield start
    for each in found:
        each.popen.kill()


def test_a_killed_process_is_named_and_all_start_again(launched):
    run = launched({"step": 3, "who": 1, "does": "kill"})
    assert run.wait() == 0, run.err
    assert "lost process 1 (killed by SIGKILL); all start again" in run.err and "1 restart" in run.err
    assert run.out.count("process 0 of 3 begins at step 0") == 1 and 4 <= run.out.count(" of 3 begins at step") <= 6
    assert "[2] process 2 of 3 begins at step 0" in run.out  # with its number in front, and in its log without
    assert "process 2 of 3 begins at step 0\n" in (run.logs / "process-2.log").read_text()


def test_silence_ends_a_run_with_a_stopped_process_and_names_it(launched):
    run = launched({"step": 2, "who": 2, "does": "stop"}, "--silence=4", "--grace=5")
    assert run.wait() == 0, run.err
    assert "(process 2 is stopped); all start again" in run.err
    assert 4 <= run.out.count(" of 3 begins at step") <= 6  # a slow one may be ended before it says so, the second time none is


@pytest.mark.parametrize(("code", "ends"), [(1, 1), (2, 2), (3, 1)])
def test_a_fault_is_not_started_again(launched, code, ends):
    run = launched({"step": 2, "who": 0, "does": code, "pace": 0.01})
    assert run.wait() == ends, run.err
    assert f"process 0 ended with code {code}" in run.err and "start again" not in run.err
    assert run.out.count("process 0 of 3 begins at step") == 1  # the others may be ended before they say so


def test_the_limit_counts_starts_without_progress(launched):
    run = launched({"step": 2, "who": 1, "does": RESTART, "always": True, "pace": 0.01}, "--max_restarts=2", processes=2)
    assert run.wait() == 1, run.err
    # The first failure was progress: the run had come from nothing to step 2.
    assert "process 1 ended with code 75; that was 2 starts again without progress" in run.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, RESTART), (signal.SIGINT, 1)])
def test_signals_are_passed_on_and_end_orderly(launched, number, code):
    run = launched({"steps": 10_000})
    run.until_step(2)
    run.popen.send_signal(number)
    assert run.wait() == code, run.err
    assert all(f"process {index} is saved at step" in run.out for index in range(3))
    assert f"asked to end ({number.name})" in run.err and "start again" not in run.err


def test_what_does_not_listen_is_killed_and_nothing_is_left_behind(launched):
    run = launched({"step": 2, "who": 1, "does": "deaf", "steps": 10_000}, "--grace=1")
    run.until_step(4)
    run.popen.send_signal(signal.SIGTERM)
    assert run.wait() == RESTART, run.err
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(run.run) not in left


def test_a_command_that_is_not_there(launched, tmp_path):
    command = [sys.executable, "-m", "ja_llm", "launch", "local", f"--logs={tmp_path}/l", "--", "/nowhere/ja-llm"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "'/nowhere/ja-llm' could not be started (No such file" in result.stderr


def test_the_pause_doubles_up_to_its_longest_and_progress_sets_it_back():
    policy = Restarts(limit=4, first=5.0, longest=30.0)
    assert [policy.next(10, 1.0) for _ in range(5)] == [5.0, 10.0, 20.0, 30.0, None]
    assert policy.next(11, 1.0) == 5.0 and policy.done == 5
    # Where the steps can't be seen, a long attempt is progress.
    blind = Restarts(limit=1)
    assert blind.next(None, 1.0) == 5.0 and blind.next(None, 1.0) is None and blind.next(None, LONG + 1) == 5.0


def test_codes():
    from ja_llm.train import processes

    assert processes.RESTART == RESTART
    assert [lost(code) for code in (75, -9, 137, 143, 1, 2, 3, 127, 255)] == [True] * 4 + [False] * 5
    assert killed_by(-signal.SIGSTOP) == "SIGSTOP" and killed_by(137) == "SIGKILL" and killed_by(75) is None


def test_goodput_is_of_this_launch_alone(tmp_path):
    now = time.time()
    calls = [
        {"until": now - 500, "seconds": {"step": 900.0, "down": 0.0}},
        {"until": now - 50, "seconds": {"step": 20.0, "compile": 10.0, "lost": 5.0, "down": 300.0}},
        {"until": now, "seconds": {"step": 30.0, "compile": 10.0, "lost": 0.0, "down": 7.0}},
    ]
    (tmp_path / "goodput.json").write_text(json.dumps({"shares": {}, "calls": calls}))
    said = goodput(tmp_path, now - 100, 100.0, 1)
    assert said == "goodput 50.0 % of 100 s (step 50 s, compile 20 s, down and lost 30 s), 1 restart"


def test_the_newest_step_of_a_file_that_is_being_written(tmp_path):
    assert newest_step(None) is None and newest_step(tmp_path) == -1
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    assert newest_step(tmp_path) == 4


def test_each_process_has_its_own_gpu_and_set_flags_stay(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_pipelined_all_gather=false")
    found = environments(2, "gpu", hardware="h100")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["4", "6"]
    assert found[0]["XLA_FLAGS"].count("xla_gpu_enable_pipelined_all_gather") == 1
    assert found[0]["XLA_FLAGS"].endswith("--xla_gpu_enable_pipelined_all_gather=false")
    with pytest.raises(UsageError, match="3 processes need as many GPUs"):
        environments(3, "gpu")
    assert "CUDA_VISIBLE_DEVICES" not in environments(1, "cpu")[0] and os.environ["XLA_FLAGS"].startswith("--xla_gpu")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no command is given"),
        (["--"], "no command is given"),
        (["--", "ja-llm", "train", "--process_index=1"], "--process_index=1: the launcher gives each process its own"),
        (["--", "ja-llm", "train", "--gin.X='a\nb'"], "has a line break"),
    ],
)
def test_commands_that_can_t_be_launched(words, says):
    with pytest.raises(UsageError, match=says):
        check_command(words)


def test_the_run_directory_is_read_from_the_command():
    assert macro(["train", "--gin.MODEL_DIR='runs/a b'"], "MODEL_DIR") == "runs/a b"
    assert macro(["train", "--gin.MODEL_DIR=gs://b/r"], "MODEL_DIR") == "gs://b/r"
    assert macro(["train"], "MODEL_DIR") is None


def test_the_command_s_own_debug_flag_stays_with_it(capsys):
    from ja_llm.cli import main

    assert main(["launch", "local", "--dry_run", "--debug", "--processes", "2", "--", "prog", "--debug", "a b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("prog --debug 'a b' --coordinator_address=127.0.0.1:PORT" in text for text in lines)
    assert "--process_index=1 > launch_logs/process-1.log" in lines[1]


@pytest.mark.parametrize("who", ["process 2 (gives no sign of life)", "process 1, 3 (at step 4, others at 5)", "process 0"])
def test_whom_the_others_name_is_read_from_the_watchdog_s_sentence(who):
    said = f"ja-llm: step 12: process 1 has waited 33 s for its results; silent is {who}; it ends with code 75, start the same"
    assert SILENT.search(said)[1] == who

"""N processes of one command on this machine as one run: watched, ended together, started again together."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.launch.command import line
from ja_llm.launch.flags import environment
from ja_llm.launch.progress import goodput, newest_step
from ja_llm.launch.restarts import FAILED, MISUSED, RESTART, Restarts, killed_by, lost

_LOOK = 0.1  # seconds between two looks at the processes

# The trainer's processes wait for each other's sentence before they end with code 75 (`ja_llm.train.watchdog`); process 0 ends last.
_SENTENCES = 25.0

# Seconds between SIGTERM and SIGKILL where one is lost already: the others can't save without it.
_WITHOUT = 15.0


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to start.

    Attributes:
      command: program and arguments; each of several processes is given --coordinator_address, --process_count, --process_index.
      processes: how many.
      logs: folder of process-I.log.
      environments: what each process's environment has beside this one's.
      run: run directory, whose steps say whether there is progress; None where it is not here.
      silence: seconds without a line of output and without a step after which the run counts as hung; None for never.
      grace: seconds that an orderly end may take (a checkpoint is written) before SIGKILL.
    """

    command: list[str]
    processes: int
    logs: Path
    environments: list[dict[str, str]]
    run: Path | None = None
    silence: float | None = None
    grace: float = 60.0

    def commands(self, port: int | str) -> list[list[str]]:
        """The command of each process; the coordinator listens at `port`."""
        if self.processes == 1:
            return [self.command]
        address = f"--coordinator_address=127.0.0.1:{port}"
        flags = [address, f"--process_count={self.processes}"]
        return [[*self.command, *flags, f"--process_index={index}"] for index in range(self.processes)]

    def dry_run(self) -> str:
        """What would be run, as lines of a shell."""
        ends = " &" if self.processes > 1 else ""
        return "\n".join(
            line(["env", *(f"{k}={v}" for k, v in env.items()), *words]) + f" > {line([str(self.log(i))])} 2>&1{ends}"
            for i, (env, words) in enumerate(zip(self.environments, self.commands("PORT"), strict=True))
        )

    def log(self, index: int) -> Path:
        """Where process `index` writes."""
        return self.logs / f"process-{index}.log"


def environments(
    processes: int, device: str = "auto", gpus: str | None = None, cpu_devices: int | None = None, hardware: str | None = None
) -> list[dict[str, str]]:
    """What each process's environment has beside this one's: its own device, and the compiler's flags.

    Args:
      processes: how many.
      device: "cpu", "gpu" or "auto" (as "gpu" where `gpus` is given, else JAX's own choice).
      gpus: one each, of this list ("0,1,3"); default: the first ones of CUDA_VISIBLE_DEVICES, or of the machine.
      cpu_devices: simulated devices of a process (CPU).
      hardware: whose flags to set (`ja_llm.launch.flags`).

    Raises:
      UsageError: there are fewer GPUs than processes in the list, or the flags do not go together.
    """
    shared: dict[str, str] = {}
    if device == "cpu":
        shared["JAX_PLATFORMS"] = "cpu"
        hardware = hardware or "cpu"
    if cpu_devices is not None:
        if device != "cpu":
            raise UsageError("--cpu_devices needs --device cpu: only the CPU's devices are simulated.")
        before = os.environ.get("XLA_FLAGS", "")
        shared["XLA_FLAGS"] = f"{before} --xla_force_host_platform_device_count={cpu_devices}".strip()
    if hardware:
        shared |= environment(hardware, {**os.environ, **shared})
    if device != "gpu" and gpus is None:
        return [dict(shared) for _ in range(processes)]
    visible = (gpus or os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(processes)))).split(",")
    if len(visible) < processes:
        raise UsageError(f"--gpus {','.join(visible)}: {processes} processes need as many GPUs, one each.")
    return [{**shared, "CUDA_VISIBLE_DEVICES": visible[index]} for index in range(processes)]


class Process:
    """One process: its output goes to a log and, with its number in front, to the terminal."""

    def __init__(self, index: int, command: list[str], environment: dict[str, str], log: Path, show: Callable[[str], None]):
        # A session of its own: Ctrl-C reaches the launcher alone, which passes it on, and its children are ended with it.
        self.popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.index, self.heard, self.tail = index, time.monotonic(), deque[str](maxlen=400)
        self._log, self._show, self._closed = log, show, False
        self._reader = threading.Thread(target=self._read, name=f"output {index}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with open(self._log, "ab") as log:
            for raw in self.popen.stdout:
                self.heard = time.monotonic()
                log.write(raw)
                log.flush()
                text = raw.decode("utf-8", "replace").rstrip("\r\n")
                self.tail.append(text)
                self._show(f"[{self.index}] {text}")

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.popen.poll()

    def stopped(self) -> bool:
        """Whether it is stopped (SIGSTOP, a debugger), where the system says so (Linux)."""
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
        return False

    def send(self, number: int) -> None:
        """A signal to it and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, number)

    def close(self) -> None:
        """What it has said is in its log; what it has started and left behind is ended."""
        if self._closed:
            return
        self._closed = True
        self.send(signal.SIGKILL)
        self.popen.wait()
        self._reader.join(timeout=5)


@dataclasses.dataclass
class Outcome:
    """How an attempt ended: the exit code that counts, and words on who it was."""

    code: int
    words: str


class Supervisor:
    """Runs a `Launch` to its end."""

    def __init__(self, launch: Launch, restarts: Restarts):
        self._launch, self._restarts = launch, restarts
        self._asked: list[int] = []  # signals that this process was sent
        self._lock = threading.Lock()

    def _show(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)

    def _say(self, text: str) -> None:
        with self._lock:
            print(f"ja-llm launch: {text}", file=sys.stderr, flush=True)

    def run(self) -> int:
        """Start, watch, start again; returns 0 (done), 75 (asked to end by SIGTERM), or 1.

        Raises:
          UsageError: a process ended with code 2.
          JaLlmError: the run failed otherwise, or the limit of restarts is reached.
        """
        begun, clock = time.time(), time.monotonic()
        self._launch.logs.mkdir(parents=True, exist_ok=True)
        with self._signals():
            while True:
                since = time.monotonic()
                outcome = self._attempt()
                if outcome.code == 0 or self._asked or not lost(outcome.code):
                    break
                pause = self._restarts.next(newest_step(self._launch.run), time.monotonic() - since)
                if pause is None:
                    outcome.words += f"; that was {self._restarts.limit} starts again without progress"
                    break
                self._say(f"{outcome.words}; all start again in {pause:.0f} s (number {self._restarts.done})")
                self._wait(pause)
                if self._asked:
                    break
        self._say(goodput(self._launch.run, begun, time.monotonic() - clock, self._restarts.done))
        return self._end(outcome)

    def _end(self, outcome: Outcome) -> int:
        if outcome.code == 0:
            return 0
        if self._asked:
            self._say(f"asked to end ({signal.Signals(self._asked[0]).name}); {outcome.words}")
            return FAILED if self._asked[0] == signal.SIGINT else RESTART
        kind = UsageError if outcome.code == MISUSED else JaLlmError
        raise kind(f"{outcome.words}; see {self._launch.logs}/process-*.log.")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: object) -> None:
            self._asked.append(number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._asked:
            time.sleep(min(_LOOK, max(until - time.monotonic(), 0)))

    def _attempt(self) -> Outcome:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running: list[Process] = []
        try:
            for index, words in enumerate(self._launch.commands(port)):
                env = {**os.environ, **self._launch.environments[index]}
                running.append(Process(index, words, env, self._launch.log(index), self._show))
            return self._watch(running)
        except OSError as error:
            return Outcome(FAILED, f"{self._launch.command[0]!r} could not be started ({error.strerror})")
        finally:
            for process in running:
                process.close()

    def _watch(self, running: list[Process]) -> Outcome:
        passed, last, since, step = 0, None, time.monotonic(), newest_step(self._launch.run)
        while True:
            codes = [process.code for process in running]
            if all(code == 0 for code in codes):
                return Outcome(0, "done")
            if any(code not in (None, 0) for code in codes):
                return self._ended(running, codes)
            if len(self._asked) > passed:
                for process in running:
                    process.send(self._asked[passed])
                passed += 1
                last = time.monotonic()
            if last is not None and time.monotonic() - last > self._launch.grace:
                return self._finish(running, "the processes did not end in time")
            if self._launch.silence is not None and last is None:
                if (now := newest_step(self._launch.run)) != step:
                    since, step = time.monotonic(), now
                quiet = time.monotonic() - max(since, *(process.heard for process in running))
                if quiet > self._launch.silence:
                    return self._finish(running, f"nothing was heard for {quiet:.0f} s{_stopped(running)}")
            time.sleep(_LOOK)

    def _finish(self, running: list[Process], words: str) -> Outcome:
        self._end_all(running)
        return Outcome(RESTART, words)

    def _ended(self, running: list[Process], codes: list[int | None]) -> Outcome:
        """One or more have ended, not well: who it was, what it means, and the end of the others."""
        first = {process.index: code for process, code in zip(running, codes, strict=True) if code not in (None, 0)}
        halted = _stopped(running)
        if any(code == RESTART for code in first.values()):
            # They save, or name who is silent, before they end.
            self._await(running, self._launch.grace if self._asked else max(_SENTENCES, self._launch.grace))
        self._end_all(running)
        named = next((found for process in running for text in process.tail if (found := re.search(SILENT, text))), None)
        killed = {index: name for index, code in first.items() if code is not None and (name := killed_by(code))}
        if killed:
            words = f"lost process {', '.join(f'{index} (killed by {name})' for index, name in killed.items())}"
            return Outcome(RESTART, words)
        if (refused := next((code for code in first.values() if code != RESTART), None)) is not None:
            who = ", ".join(f"process {index} ended with code {code}" for index, code in first.items())
            return Outcome(MISUSED if refused == MISUSED else FAILED, who)
        if named:
            return Outcome(RESTART, f"lost {named[1]}, so the others say{halted}")
        return Outcome(RESTART, f"process {', '.join(map(str, first))} ended with code {RESTART}{halted}")

    def _await(self, running: list[Process], seconds: float) -> None:
        until, asked = time.monotonic() + seconds, len(self._asked)
        while time.monotonic() < until and any(process.code is None and not process.stopped() for process in running):
            if len(self._asked) > asked:  # a second Ctrl-C
                return
            time.sleep(_LOOK)

    def _end_all(self, running: list[Process]) -> None:
        """SIGTERM, then SIGKILL (which a stopped process gets, too)."""
        for process in running:
            if process.code is None:
                process.send(signal.SIGTERM)
        self._await(running, min(_WITHOUT, self._launch.grace))
        for process in running:
            process.close()


# In the sentence of `ja_llm.train.watchdog`.
SILENT = re.compile(r"silent is (process \d+(?:, \d+)*(?: \([^)]*\))?)")


def _stopped(running: list[Process]) -> str:
    found = [str(process.index) for process in running if process.code is None and process.stopped()]
    return f" (process {', '.join(found)} is stopped)" if found else ""

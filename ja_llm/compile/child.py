"""One compilation in a process of its own: libtpu can't be given back, and what it prints is not ours.

python -m ja_llm.compile.child REQUEST.json RESULT.json
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.compile.hardware import parse_gpus
from ja_llm.compile.settings import CandidateError
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.launch.restarts import killed_by

# The kinds of a child's errors, the narrowest first.
_KINDS = {"candidate": CandidateError, "usage": UsageError, "failed": JaLlmError}


def compile_in_child(
    files: Sequence[str],
    bindings: Sequence[str],
    topology: str,
    *,
    search_paths: str = "",
    vocab_size: int | None = None,
    candidate: Mapping[str, Any] | None = None,
    compiler_options: Mapping[str, str] | None = None,
    dump: str | None = None,
) -> dict[str, Any]:
    """What `ja_llm.compile.aot.compile_step` gives; for TPUs one at a time on this machine, others wait.

    Raises:
      CandidateError: mesh, batch and model do not fit each other.
      UsageError: the run's settings do not fit.
      JaLlmError: the compiler ended without an answer.
    """
    request = {
        **{"files": list(files), "bindings": list(bindings), "topology": topology, "search_paths": search_paths},
        **{"vocab_size": vocab_size, "candidate": dict(candidate or {}), "compiler_options": dict(compiler_options or {})},
        "dump": None if dump is None else str(Path(dump).absolute()),
    }
    lock = contextlib.nullcontext() if parse_gpus(topology) is not None else _one_at_a_time()
    with tempfile.TemporaryDirectory(prefix="ja_llm-compile-") as folder, lock:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        write_json(asked, request)
        # libtpu asks Compute Engine who it is unless told not to, and logs into a folder that others may own.
        quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}
        found = subprocess.run(
            [sys.executable, "-m", "ja_llm.compile.child", str(asked), str(answer)],
            env={**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=False,
        )
        if not answer.exists():
            raise JaLlmError(_without_answer(topology, found.returncode, found.stderr))
        result = read_json(answer)
    if "error" in result:
        raise _KINDS[result["kind"]](result["error"])
    return result["found"]


def _without_answer(topology: str, code: int, said: str) -> str:
    """Why a process ended that wrote no result."""
    last = ([line for line in said.splitlines() if line.strip()] or ["it said nothing"])[-1][:300]
    if (name := killed_by(code)) is not None:
        return f"the compiler for {topology} was ended by {name} ({last}); if memory ran out on this host, give it more."
    return f"the compiler for {topology} ended with code {code}: {last}"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """libtpu is for one process at a time."""
    name = Path(tempfile.gettempdir()) / f"ja_llm-libtpu-{os.getuid()}.lock"
    with open(name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"waiting for another compilation on this machine (libtpu is for one process; lock: {name})",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(request: str, result: str) -> None:
    """Compile what the file asks for."""
    from ja_llm.compile.aot import compile_step
    from ja_llm.compile.settings import Candidate, settings

    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    try:
        with settings(asked["files"], asked["bindings"], asked["search_paths"], asked["vocab_size"]) as run:
            found = compile_step(
                run.changed(Candidate(**asked["candidate"])), asked["topology"], asked["compiler_options"], asked["dump"]
            )
        write_json(Path(result), {"found": found})
    except JaLlmError as error:
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        write_json(Path(result), {"error": str(error).splitlines()[0], "kind": kind})


if __name__ == "__main__":
    main(*sys.argv[1:])

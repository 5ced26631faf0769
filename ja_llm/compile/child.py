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

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json


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
    """What `ja_llm.compile.aot.compile_step` gives; one at a time on this machine, others wait.

    Raises:
      UsageError: the run's settings do not fit.
      JaLlmError: the compiler ended without an answer.
    """
    request = {
        **{"files": list(files), "bindings": list(bindings), "topology": topology, "search_paths": search_paths},
        **{"vocab_size": vocab_size, "candidate": dict(candidate or {}), "compiler_options": dict(compiler_options or {})},
        "dump": None if dump is None else str(Path(dump).absolute()),
    }
    with tempfile.TemporaryDirectory(prefix="ja_llm-compile-") as folder, _one_at_a_time():
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
            last = ([line for line in found.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1][:300]
            raise JaLlmError(
                f"the compiler for {topology} ended with code {found.returncode} ({last}); if memory ran out on this host, give it more."
            )
        result = read_json(answer)
    if "error" in result:
        raise (UsageError if result["usage"] else JaLlmError)(result["error"])
    return result["found"]


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """libtpu is for one process at a time."""
    with open(Path(tempfile.gettempdir()) / f"ja_llm-libtpu-{os.getuid()}.lock", "w") as file:
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
        write_json(Path(result), {"error": str(error).splitlines()[0], "usage": isinstance(error, UsageError)})


if __name__ == "__main__":
    main(*sys.argv[1:])

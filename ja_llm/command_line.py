"""What every command shares, of `ja-llm` and of `python -m beam_pipelines.corpus`: paths, and sentences instead of tracebacks.

Standard library only, and light: `ja-llm --help` loads it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from ja_llm.errors import JaLlmError

_STOPPED = "stopped; what was finished is kept, the same command goes on from there."


def path(text: str) -> str:
    """Type of an argument that is a path of this machine (argparse's `type=`).

    Raises:
      UsageError: it names a remote store.
    """
    from ja_llm.files import local_path

    local_path(text)
    return text


def checkpoint(text: str) -> str:
    """Type of an argument that is a model directory, here or in a bucket (gs://).

    Raises:
      UsageError: it names another remote store.
    """
    return text if text.startswith("gs://") else path(text)


def run(prog: str, call: Callable[[], int | None], debug: bool = False) -> int:
    """Call; returns its exit code, or 1 (failed) or 2 (used wrongly) with one sentence on standard error.

    Args:
      prog: how the sentence begins.
      call: does the work.
      debug: let errors through, with their traceback.
    """
    if not debug:
        sys.excepthook = _late
    try:
        return call() or 0
    except JaLlmError as error:
        if debug:
            raise
        # gin adds lines about the call that failed; the sentence is the first.
        return _say(prog, str(error).splitlines()[0], error.exit_code)
    except KeyboardInterrupt:
        return _say(prog, _STOPPED)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        return _say(prog, _unexpected(error))


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, once: a second one does not cut short what is done about the first."""
    asked = False

    def handler(number: int, frame: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    with _sigterm(handler):
        yield


@contextlib.contextmanager
def sigterm_leaves(prog: str) -> Iterator[None]:
    """SIGTERM ends the process within the block, at once and with the sentence of Ctrl-C: for work that may be killed at any moment, and whose
    own way out is long or loud."""

    def handler(number: int, frame: object) -> None:
        os.write(2, f"{prog}: {_STOPPED}\n".encode())  # not by sys.stderr, amidst whose writing the signal may have come
        os._exit(1)

    with _sigterm(handler):
        yield


@contextlib.contextmanager
def _sigterm(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no handler can be set there
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _late(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For what no caller can catch: after a failed save TensorStore's threads report to an event loop that has ended."""
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def _say(prog: str, sentence: str, code: int = 1) -> int:
    print(f"{prog}: {sentence}", file=sys.stderr, flush=True)
    return code


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        from ja_llm.files import os_error_sentence

        return str(os_error_sentence(error, error.filename))
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed; install the extra that brings it, e.g. pip install 'ja_llm[data,beam,eval]'."
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {first} (this is a fault of ja_llm; run again with --debug and report what it prints)."

"""An error in one process of several ends all of them, with its sentence and its exit code.

Without this the others would wait for the one that is gone, find a broken connection, and ask the launcher for a restart (code 75) that
meets the same damaged store again. A process that can't go on posts why under a key of the coordination service; a thread of each process
looks for it. A process that was killed can post nothing: whoever meets the broken connection first posts that, and all end with 75,
those too that wait in a save for a barrier which breaks much later.

Whoever ends so does not tidy up, since that waits for the others; what is to be written all the same is named with `last`.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from ja_llm.errors import JaLlmError
from ja_llm.train.checkpoint_errors import first_line
from ja_llm.train.memory import is_out_of_memory
from ja_llm.train.processes import RESTART, Lost, Stopped

_FAILED = "ja_llm/failed"

# Seconds: between two looks; that a process stays when another has failed, so that its own error may come and a save in the background end;
# by which process 0, which serves the key and whose end aborts the others, outlives what they still have to say; that `last` may take; by which a process
# outlives its own error, so that it is printed.
_LOOK, _STAYS, _COORDINATOR_STAYS, _LAST, _SAYS = 1.0, 10.0, 6.0, 20.0, 3.0

# What XLA says of a process that is gone: in the collectives of CPU and GPU, and in the coordination service ("while calling
# /tensorflow.CoordinationService/...", "Barrier failed", "Barrier timed out"). It raises its own kind, and ValueError where an array is read.
# Others' errors (of W&B, of a bucket) are of kinds of their own, or name what they are of, and a restart would meet them again.
_GONE = re.compile(r"gloo|nccl|coordination[ _]?(service|agent)|jax_worker|barrier (failed|timed out)", re.IGNORECASE)
# XLA's own kind says it with a connection alone, too, where no bucket is meant: what reads one (TensorStore) raises ValueError and names itself.
_BROKEN = re.compile(rf"{_GONE.pattern}|unavailable|connection (reset|closed|refused)", re.IGNORECASE)


class Failure(NamedTuple):
    """Why a run of several processes ends.

    Attributes:
      rank: the process that said so.
      code: exit code, for all.
      sentence: of its error.
      stays: seconds that the others give it to find out more, before they end.
    """

    rank: int
    code: int
    sentence: str
    stays: float = 0.0


def _service() -> tuple[Any, int, int]:
    """(client of the coordination service or None, this process's number, how many there are), without asking for the devices."""
    from jax._src import distributed  # no public name yet

    state = distributed.global_state
    return state.client if (state.num_processes or 1) > 1 else None, state.process_id, state.num_processes or 1


def post(error: BaseException, stays: float = 0.0) -> None:
    """Tell the other processes that this one can't go on; the first that does is believed, and may say once more what it has found out.

    Args:
      error: why.
      stays: as of `Failure`.
    """
    client, rank, _ = _service()
    if client is None:
        return
    code = error.exit_code if isinstance(error, JaLlmError) else 1
    # gin adds lines about the call that failed; a sentence of ours is the first, whole.
    said = str(error).splitlines()[0] if isinstance(error, JaLlmError) else f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, KeyboardInterrupt):
        said = "it was stopped at once, by a second Ctrl-C."
    told = posted()
    more = told is not None and told.rank == rank and told.stays > 0
    with contextlib.suppress(Exception):  # another was first, or nobody serves the key any more
        client.key_value_set(_FAILED, json.dumps([rank, code, said, stays]), allow_overwrite=more)


def posted() -> Failure | None:
    """What a process has posted."""
    client, _, _ = _service()
    with contextlib.suppress(Exception):  # nobody has, or nobody answers
        return Failure(*json.loads(client.key_value_try_get(_FAILED)))
    return None


def leave_if_lost(error: BaseException) -> None:
    """End this process where `error` comes of another one that is gone: with that one's sentence and code, or with 75 if it left none.

    At once: what would be tidied up (background writes, the service's own farewell) waits for the lost process.
    """
    client, rank, _ = _service()
    if client is None or (words := _of_another(error)) is None:
        return
    post(
        Lost(
            f"process {rank} has lost another process of this run ({words}); it ends with code {RESTART}, start the same command again (all "
            "processes of it) to go on from the last checkpoint."
        )
    )
    told = posted() or Failure(rank, RESTART, f"process {rank} has lost process 0 of this run; start the same command again.")
    _leave(told, rank)


def _of_another(error: BaseException | None) -> str | None:
    """The words that say that another process is gone, of an error or of what led to it; sentences of ours only tell what did."""
    while error is not None and not isinstance(error, Lost):
        if _tells_of_another(error):
            return first_line(error)
        error = error.__cause__
    return None


def _tells_of_another(error: BaseException) -> bool:
    if isinstance(error, jax.errors.JaxRuntimeError):
        pattern = _BROKEN
    elif isinstance(error, ValueError) and not isinstance(error, JaLlmError):  # and what gin makes of both
        pattern = _GONE
    else:
        return False
    # NCCL's buffers may be what did not fit, and would not after a restart.
    return pattern.search(str(error)) is not None and "tensorstore" not in str(error) and not is_out_of_memory(error)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Within the block an error of any process of this run ends all of them; one process alone needs none of it.

    An error that all raise, and a run that was asked to stop, end each process as if it were alone.
    """
    client, rank, count = _service()
    if client is None:
        yield
        return
    ended = threading.Event()
    _told.clear()
    threading.Thread(target=_listen, args=(rank, ended), name="failures", daemon=True).start()
    try:
        yield
    except Stopped:  # all have agreed on it
        _say_ended(client, rank, "done")
        raise
    except (Exception, KeyboardInterrupt) as error:
        leave_if_lost(error)
        post(error)
        ended.set()  # what this process has to say is its own error, whoever was first
        _say_ended(client, rank, "failed")
        if not _all_ended(client, count):
            # They are gone, or will be, and Python's own end waits for them before it asks atexit: a thread ends it behind the error's sentence.
            code = error.exit_code if isinstance(error, JaLlmError) else 1
            threading.Thread(target=_exit, args=(code, rank, _SAYS), name="end", daemon=True).start()
        raise
    else:
        _say_ended(client, rank, "done")
    finally:
        ended.set()
        _told.clear()  # a later run of this process has watchdogs, too


def _listen(rank: int, ended: threading.Event) -> None:
    while not ended.wait(_LOOK):
        told = posted()
        if told is not None:
            _told.set()
            told = _found_out(told, ended)
            # Long enough for this process's own error; one that has one waits for the others itself, and not for ever.
            if not ended.wait(_STAYS if told.rank != rank else 3 * _STAYS):
                _leave(posted() or told, rank)
            return


def _found_out(told: Failure, ended: threading.Event) -> Failure:
    """What a process that has posted `told` says at last: waits until it has found out more, has ended, or its time is over."""
    begun = time.monotonic()
    while time.monotonic() < begun + told.stays and not _has_ended(told.rank) and not ended.wait(_LOOK):
        told = posted() or told
    return told


_told = threading.Event()


def all_end() -> bool:
    """Whether a process has said why all end, and this one will; for whoever would end it for another reason."""
    return _told.is_set()


def _has_ended(rank: int) -> bool:
    client, _, _ = _service()
    with contextlib.suppress(Exception):  # it has said nothing
        return bool(client.key_value_try_get(f"{_FAILED}/{rank}"))
    return False


def _say_ended(client: Any, rank: int, how: str) -> None:
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_FAILED}/{rank}", how, allow_overwrite=True)


def _all_ended(client: Any, count: int, gone: int = 0) -> bool:
    """Whether all processes have come to the end of the block by themselves; waits for those that are on their way, which `gone` are not."""
    deadline = time.monotonic() + 2 * _STAYS
    how: dict[int, str] = {}
    while len(how) < count - gone and time.monotonic() < deadline:
        for rank in sorted(set(range(count)) - how.keys()):
            with contextlib.suppress(Exception):
                how[rank] = client.key_value_try_get(f"{_FAILED}/{rank}")
        time.sleep(0.05)
    return len(how) == count and "gone" not in how.values()


def _leave(told: Failure, rank: int) -> None:
    """Say why, and end this process without tidying up."""
    with _leaving:  # the main thread meets a broken connection while the listener is here
        who = "" if told.rank == rank else f"process {told.rank} of this run has ended: "
        print(f"ja-llm: {who}{told.sentence}", file=sys.stderr, flush=True)
        client, _, count = _service()
        _say_ended(client, rank, "gone")
        if rank == 0:
            _all_ended(client, count, gone=int(told.code == RESTART))
        _exit(told.code, rank)


_leaving = threading.Lock()
_last: list[Callable[[], object]] = []


@contextlib.contextmanager
def last(*writes: Callable[[], object]) -> Iterator[None]:
    """Within the block a process that ends without tidying up calls each of `writes` before; they have some seconds, and may fail."""
    before = _last[:]
    _last.extend(writes)
    try:
        yield
    finally:
        _last[:] = before


def end(code: int) -> None:
    """End this process at once, but for what was named with `last`."""
    writer = threading.Thread(target=_write_last, name="last", daemon=True)
    writer.start()
    writer.join(timeout=_LAST)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit(code: int, rank: int, after: float = 0.0) -> None:
    time.sleep(after + (_COORDINATOR_STAYS if rank == 0 else 0))
    end(code)


def _write_last() -> None:
    for write in _last[:]:
        try:
            write()
        except Exception as error:  # what is lost is said, and the others are written
            print(f"ja-llm: not all could be written at the end ({first_line(error)}).", file=sys.stderr, flush=True)

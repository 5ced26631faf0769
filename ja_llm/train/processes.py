"""Several processes as one run: joining, agreeing on the step to stop at, and knowing who is silent.

All of it goes over the coordination service that `jax.distributed` runs in process 0; one process alone needs none of it.
"""

import contextlib
import contextvars
import itertools
import json
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.train.checkpoint_errors import Damaged, first_line

# Exit code that a launcher starts the command again on (EX_TEMPFAIL of sysexits.h): a hung step, a lost process.
RESTART = 75

_STOP = "ja_llm/stop_at"


class Lost(JaLlmError):
    """The run can't go on in these processes; the same command goes on from the last checkpoint."""

    exit_code = RESTART


def join(coordinator: str | None, count: int | None, index: int | None, timeout: int = 300) -> None:
    """Join a run of several processes (t5x's --coordinator_address, --process_count, --process_index).

    Without an address nothing happens: one process, or a TPU pod or Slurm job that `jax.distributed` finds out about by itself when
    the address is "auto".

    Args:
      coordinator: HOST:PORT of process 0, or "auto".
      count: how many processes.
      index: which of them this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UsageError: the three do not go together.
      Lost: the others did not come.
    """
    if coordinator is None:
        if count is not None or index is not None:
            raise UsageError("--process_count and --process_index need --coordinator_address HOST:PORT.")
        return
    arguments: dict[str, Any] = {}
    if coordinator != "auto":
        if count is None or index is None or not 0 <= index < count:
            raise UsageError(
                f"--coordinator_address {coordinator} needs --process_count N and --process_index from 0 to N - 1, "
                f"not {count} and {index}."
            )
        arguments = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    try:
        # A silent process is this program's own matter (`ja_llm.train.watchdog`); the service's abort names nobody.
        jax.distributed.initialize(**arguments, initialization_timeout=timeout, heartbeat_timeout_seconds=600)
    except Exception as error:  # XLA's own kinds
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Lost(f"process {index} could not join the run at {coordinator} ({first}); start all processes again.") from error


def client() -> Any:
    """The coordination service's client; None in a run of one process, and for what one does `alone`."""
    from jax._src import distributed  # the key-value store has no public name yet

    return distributed.global_state.client if jax.process_count() > 1 and not _alone.get() else None


_alone = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within the block this process does something that the others don't: nothing is agreed on with them."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


_rounds = itertools.count()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What one process raises inside the block, every process raises behind it, so that none goes on into something that waits for all.

    Each process must come to the block. One process alone needs no agreement.

    Raises:
      JaLlmError: what the first process (by its number) that failed has raised, of the same kind; what is no sentence of ours is
        raised as itself where it happened.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if (service := client()) is not None:
        this = f"ja_llm/together/{next(_rounds)}"
        service.key_value_set(f"{this}/{jax.process_index()}", _verdict(own))
        if own is None or isinstance(own, JaLlmError):
            verdicts = [
                json.loads(service.blocking_key_value_get(f"{this}/{rank}", _PATIENCE_MS)) for rank in range(jax.process_count())
            ]
            failed = next((rank for rank, (kind, _) in enumerate(verdicts) if kind), jax.process_index())
            if failed != jax.process_index():
                kind, text = verdicts[failed]
                own = _KINDS[kind](text)
    if own is not None:
        raise own


def told_by_all(word: str) -> list[str]:
    """What each process says, by its number; every process must come."""
    if (service := client()) is None:
        return [word]
    this = f"ja_llm/told/{next(_rounds)}"
    service.key_value_set(f"{this}/{jax.process_index()}", word)
    return [service.blocking_key_value_get(f"{this}/{rank}", _PATIENCE_MS) for rank in range(jax.process_count())]


def any_process(value: bool) -> bool:
    """Whether it is so in any process; every process must come."""
    return "yes" in told_by_all("yes" if value else "no")


def say(sentence: str) -> None:
    """Say something to the user, once for all processes."""
    if jax.process_index() == 0:
        print(f"train: {sentence}", file=sys.stderr, flush=True)


# Reading a checkpoint may take one process much longer than another; who is silent meanwhile is the watchdog's matter.
_PATIENCE_MS = 6 * 3600 * 1000
_KINDS: dict[str, type[JaLlmError]] = {kind.__name__: kind for kind in (JaLlmError, UsageError, Damaged)}


def _verdict(error: Exception | None) -> str:
    if error is None:
        return json.dumps(["", ""])
    known = next((name for name, kind in reversed(_KINDS.items()) if isinstance(error, kind)), "")
    rank = jax.process_index()
    return json.dumps(
        [known, str(error)] if known else ["JaLlmError", f"process {rank} failed ({first_line(error)}); see what it says."]
    )


class Stopped(JaLlmError):
    """The run was asked to end, and is saved. The machine asked (SIGTERM, maintenance), so a launcher starts it again.

    The codes belong to classes: gin raises a copy of an error that passes through it, and the copy has nothing of the instance.
    """

    exit_code = RESTART


class StoppedByHand(Stopped):
    """As `Stopped`, where a person asked (Ctrl-C)."""

    exit_code = 1


class Interrupted(Exception):
    """An evaluation was left between two of its batches, since the run was asked to end."""


class Stopping:
    """SIGTERM (preemption, a maintenance notice) and the first Ctrl-C ask for a checkpoint and an orderly end; a second Ctrl-C ends
    at once. One process that is asked asks all: they agree on the step.

    Attributes:
      exit_code: with which to end, that of the error to raise.
    """

    # A process that is at step s has had the numbers of step s - 2, so none is more than two steps ahead.
    AHEAD = 3

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at: int | None = None
        self._client = client()
        self.exit_code = RESTART

    def ask(self, number: int = 0, frame: Any = None) -> None:
        """A signal's handler."""
        if self._asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._asked.is_set():
            self.exit_code = 1 if number == signal.SIGINT else RESTART
        self._asked.set()

    def at(self, step: int) -> bool:
        """Whether to save and end after `step` steps; every process is asked at every step."""
        if self._client is None:
            return self._asked.is_set()
        if self._at is None:
            if self._asked.is_set():
                with contextlib.suppress(Exception):  # another process was first
                    self._client.key_value_set(_STOP, f"{step + self.AHEAD} {self.exit_code}")
            with contextlib.suppress(Exception):  # nobody has asked
                self._at, self.exit_code = map(int, self._client.key_value_try_get(_STOP).split())
        return self._at is not None and step >= self._at

    def now(self, whole: bool = True) -> tuple[bool, bool]:
        """(whether to end before the next step, whether all have said `whole`); every process must ask at the same place, and all get one answer."""
        told = [word.split() for word in told_by_all(f"{self.exit_code if self._asked.is_set() else 0} {int(whole)}")]
        code = max(int(word) for word, _ in told)
        self.exit_code = code or self.exit_code
        return code > 0, all(word == "1" for _, word in told)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within the block `between_batches` raises Interrupted where the run is asked to end; every process must come to the block."""
        global _interrupting
        _interrupting = self
        try:
            yield
        finally:
            _interrupting = None

    def _check_batch(self) -> None:
        # All are asked at each batch: whether one can be computed without the others is a matter of the mesh, and whoever left a batch
        # earlier would leave the others waiting in theirs.
        asked = self._asked.is_set()
        if self._client is not None:
            asked = bool(np.any(multihost_utils.process_allgather(np.asarray(asked, np.int32))))
        if asked:
            raise Interrupted


_interrupting: Stopping | None = None


def between_batches() -> None:
    """To be called by what evaluates, behind each batch, by all processes alike and equally often.

    Raises:
      Interrupted: the run that evaluates is asked to end; its caller knows.
    """
    if _interrupting is not None:
        _interrupting._check_batch()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Within the block signals ask a `Stopping`."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, stopping.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# What a pulse says of a process that has done its work ("beats step" otherwise).
ENDED = "ended -1"


class Pulse:
    """Each process's sign of life: a counter in the key-value store, written by a thread every `period` seconds.

    A process that is stopped as a whole (SIGSTOP, a dead machine) writes nothing; one whose main thread hangs still does, with the
    step that it is at.
    """

    def __init__(self, period: float = 2.0):
        self._client, self._period = client(), period
        self.step = -1
        self._ended = threading.Event()
        self._beats = 0
        if self._client is not None:
            self._thread = threading.Thread(target=self._write, name="pulse", daemon=True)
            self._thread.start()

    def _write(self) -> None:
        while not self._ended.wait(self._period):
            self._beats += 1
            with contextlib.suppress(Exception):  # who can't be reached is found out by who asks
                self._client.key_value_set(_pulse(jax.process_index()), f"{self._beats} {self.step}", allow_overwrite=True)

    def close(self, ended: bool = False) -> None:
        """End the thread; `ended`: tell the others that this process has done its work."""
        self._ended.set()
        if ended and self._client is not None:
            self._thread.join(timeout=2 * self._period)
            with contextlib.suppress(Exception):
                self._client.key_value_set(_pulse(jax.process_index()), ENDED, allow_overwrite=True)

    def beats(self) -> dict[int, str]:
        """What each process's pulse said last, by its number; {} where the coordinator does not answer, or in a run of one process."""
        found: dict[int, str] = {}
        for rank in range(jax.process_count()) if self._client is not None else ():
            with contextlib.suppress(Exception):  # has not begun yet
                found[rank] = self._client.key_value_try_get(_pulse(rank))
        return found


def _pulse(rank: int) -> str:
    return f"ja_llm/pulse/{rank}"

"""The watchdog: a step, or the data of one, that does not come is a stack dump, a name and an exit, and not a night of idle machines."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from ja_llm.train.processes import RESTART, Pulse

# Seconds between the sentence and the end in a run of several processes: when one goes, the others' step fails at once, and when process 0
# goes, which serves their questions, they are aborted; so all speak before any ends, and process 0 ends last.
_STAYS, _COORDINATOR_STAYS = 10.0, 20.0


class Watchdog:
    """Ends the process when the loop gives no sign for `timeout` seconds.

    What it ends with (75) tells a launcher to start the command again; the run then goes on from its last checkpoint. It prints
    every thread's stack, and one sentence that names the phase, the step and the process that is silent.

    Args:
      timeout: seconds between two signs; None watches nothing. Give several times the slowest step; compilation, saving and
        evaluation are not timed.
      end: called with the exit code.
    """

    def __init__(self, timeout: float | None, end: Callable[[int], Any] = os._exit):
        self._timeout, self._end = timeout, end
        self._phase, self._step, self._since = "start", 0, time.monotonic()
        self._timed = False
        self._closed = threading.Event()
        self.pulse = Pulse(period=2.0 if timeout is None else min(2.0, timeout / 10)) if timeout is not None else None
        if timeout is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def sign(self, step: int, phase: str, timed: bool = True) -> None:
        """The loop is at `step` and begins `phase` ("data", "step"); with `timed` False it may take as long as it likes."""
        self._step, self._phase, self._since, self._timed = step, phase, time.monotonic(), timed
        if self.pulse is not None:
            self.pulse.step = step

    def _watch(self) -> None:
        assert self._timeout is not None
        while not self._closed.wait(min(self._timeout / 4, 5.0)):
            waited = time.monotonic() - self._since
            if self._timed and waited > self._timeout:
                self._bark(waited)
                return

    def _bark(self, waited: float) -> None:
        stream = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback(file=stream, all_threads=True)
        waiting = "a batch of its data" if self._phase == "data" else "its results"
        who = "" if jax.process_count() == 1 or self.pulse is None else f"; silent is {self.pulse.silent()}"
        print(
            f"ja-llm: step {self._step}: process {jax.process_index()} has waited {waited:.0f} s for {waiting}{who}; it ends with "
            f"code {RESTART}, start the same command again (all processes of it) to go on from the last checkpoint.",
            file=stream,
            flush=True,
        )
        if jax.process_count() > 1:
            time.sleep(_COORDINATOR_STAYS if jax.process_index() == 0 else _STAYS)
        self._end(RESTART)

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        if self.pulse is not None:
            self.pulse.close()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

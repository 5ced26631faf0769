"""The watchdog: a step, or the data of one, that does not come is a stack dump, a name and an exit, and not a night of idle machines."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from ja_llm.train import failures
from ja_llm.train.processes import ENDED, RESTART, Pulse

# Seconds without a sign of life of another process after which a run of several ends, whatever it is doing.
SILENCE = 300.0

# Who is silent where nobody can be asked.
COORDINATOR = "process 0 (the coordinator, which does not answer)"

# Of the time that a phase may take: by when a process that gives no sign of life is named, so that it is known before the time is over.
_NAMED_BY = 0.9

# Pulses that do not come before a process counts as silent, where this one waits for too long.
_MISSED = 5

# Seconds between the sentence and the end in a run of several processes: when one goes, the others' step fails at once, and when process 0
# goes, which serves their questions, they are aborted; so all speak before any ends, and process 0 ends last.
_STAYS, _COORDINATOR_STAYS = 10.0, 20.0


class Watchdog:
    """Ends the process when the loop gives no sign for `timeout` seconds.

    What it ends with (75) tells a launcher to start the command again; the run then goes on from its last checkpoint. It prints
    every thread's stack, and one sentence that names the phase, the step and the process that is silent.

    Args:
      timeout: seconds between two signs of a step; None does not time them. Give several times the slowest step.
      phase_timeout: seconds that anything else (compiling, saving, evaluating, reading a checkpoint) may take; None does not time it.
      end: called with the exit code.

    In a run of several processes each also looks whether the others are alive. Where one gives no sign of life, it is named before the time
    of the phase is over; in every phase, and without any timeout set, after SILENCE seconds. Then all end.
    """

    def __init__(self, timeout: float | None, phase_timeout: float | None = None, end: Callable[[int], Any] = failures.end):
        self._timeout, self._phase_timeout, self._end = timeout, phase_timeout, end
        self._phase, self._step, self._since = "start", 0, time.monotonic()
        self._timed = False
        self._closed = threading.Event()
        least = min(t for t in (timeout, phase_timeout, SILENCE) if t is not None)
        watched = timeout is not None or phase_timeout is not None or jax.process_count() > 1
        self._period = min(2.0, least / 10)
        self.pulse = Pulse(self._period) if watched else None
        self._look, self._tick = min(least / 10, 5.0), min(least / 50, 1.0)
        self._heard: dict[int, tuple[str, float]] = {}  # rank -> what its pulse said last, and since when
        self._answered = time.monotonic()
        if watched:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if jax.process_count() > 1:
            threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def sign(self, step: int, phase: str, timed: bool = True) -> None:
        """The loop is at `step` and begins `phase` ("data", "step"); with `timed` False it may take as long as it likes."""
        self._step, self._phase, self._since, self._timed = step, phase, time.monotonic(), timed
        if self.pulse is not None:
            self.pulse.step = step

    def _watch(self) -> None:
        while not self._closed.wait(self._tick) and not failures.all_end():
            if (due := self._due(time.monotonic())) is not None:
                self._bark(*due)
                return

    def _due(self, now: float) -> tuple[float, str] | None:
        """(seconds waited, who is silent) where it is time to end."""
        limit = self._timeout if self._timed else self._phase_timeout
        waited = now - self._since
        if limit is None or waited <= _NAMED_BY * limit:
            silent = self._silent(now, SILENCE)
        else:
            silent = self._silent(now, _MISSED * self._period + self._look, never=True)
            silent = silent or (self._behind() if waited > limit else None)
        return None if silent is None else (waited, silent)

    def _listen(self) -> None:
        """Hear the others' pulses; in a thread of its own, for a question to a coordinator that is stopped never comes back."""
        assert self.pulse is not None
        while not self._closed.wait(self._look):
            beats, now = self.pulse.beats(), time.monotonic()
            self._answered = now if beats else self._answered
            for rank, beat in beats.items():
                if rank not in self._heard or self._heard[rank][0] != beat:
                    self._heard[rank] = beat, now

    def _silent(self, now: float, seconds: float, never: bool = False) -> str | None:
        """Who has given no sign of life for so long, as words for a sentence; `never`: or has not given one yet."""
        if jax.process_count() == 1:
            return None
        if now - self._answered > seconds:
            return COORDINATOR
        still = {rank for rank, (beat, since) in self._heard.copy().items() if beat != ENDED and now - since > seconds}
        if never:
            still |= set(range(jax.process_count())) - self._heard.keys()
        return f"process {', '.join(map(str, sorted(still)))} (gives no sign of life)" if still else None

    def _behind(self) -> str:
        """Who of those alive is behind the others, as words for a sentence."""
        steps = {rank: int(beat.split()[1]) for rank, (beat, _) in self._heard.copy().items() if beat != ENDED}
        if not steps:
            return "process 0"
        least, most = min(steps.values()), max(steps.values())
        if least == most:
            return f"no single process (all at step {least})"
        behind = sorted(rank for rank, step in steps.items() if step == least)
        return f"process {', '.join(map(str, behind))} (at step {least}, others at {most})"

    def _bark(self, waited: float, silent: str) -> None:
        stream = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback(file=stream, all_threads=True)
        waiting = {"data": "a batch of its data", "step": "its results"}.get(self._phase, f"the end of its phase {self._phase!r}")
        who = "" if jax.process_count() == 1 else f"; silent is {silent}"
        print(
            f"ja-llm: step {self._step}: process {jax.process_index()} has waited {waited:.1f} s for {waiting}{who}; it ends with "
            f"code {RESTART}, start the same command again (all processes of it) to go on from the last checkpoint.",
            file=stream,
            flush=True,
        )
        if jax.process_count() > 1:
            time.sleep(_COORDINATOR_STAYS if jax.process_index() == 0 else _STAYS)
        self._end(RESTART)

    def close(self, ended: bool = False) -> None:
        """End the watch; `ended`: this process has done all of its work, so that the others shall not miss it."""
        self._closed.set()
        if self.pulse is not None:
            self.pulse.close(ended)

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

"""What watches the loop: the watchdog, goodput and the profiler, told of each phase in one call."""

from pathlib import Path
from typing import Any

import jax

from ja_llm.train.goodput import Goodput
from ja_llm.train.watchdog import Watchdog


class Monitors:
    """Args:
    config: `RunConfig`: step_timeout and profile.
    goodput: the run's.
    directory: the run directory; a profile goes to profile/ in it.
    """

    def __init__(self, config: Any, goodput: Goodput, directory: Path):
        self._goodput, self._profile, self._directory = goodput, config.profile, directory
        self._watchdog = Watchdog(config.step_timeout, config.phase_timeout)
        self._first = True
        self._tracing = False

    def phase(self, kind: str, step: int) -> None:
        """The loop begins `kind` (see `Goodput`) after `step` steps."""
        self._goodput.phase(kind, step)
        if kind == "data":
            self._trace(step)
        # The first step of a process may compile, and saving and evaluating take what they take: `phase_timeout` is theirs.
        self._watchdog.sign(step, kind, timed=kind in ("data", "step") and not self._first)
        self._first = self._first and kind != "step"

    def _trace(self, step: int) -> None:
        if self._profile is None:
            return
        first, count = self._profile
        if step >= first and step < first + count and not self._tracing:
            jax.profiler.start_trace(str(self._directory / "profile"))
            self._tracing = True
        elif self._tracing and step >= first + count:
            self._end_trace()

    def _end_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def __enter__(self) -> "Monitors":
        return self

    def __exit__(self, kind: object, *unused: object) -> None:
        self._watchdog.close(ended=kind is None)
        self._end_trace()
        self._goodput.phase("checkpoint")
        self._goodput.write()

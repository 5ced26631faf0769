"""Goodput: where a run's wall time went, over all of its calls. `goodput.json` in the run directory.

Kinds: start (mesh, ledger, reading a checkpoint), compile, data (waiting for a batch), step, checkpoint (what saving holds up),
evaluation; of earlier calls also lost (steps that were done again because the process died before the next checkpoint) and down (between
two calls). Goodput is the share of "step".
"""

import time
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import read_json, write_json

KINDS = ("start", "compile", "data", "step", "checkpoint", "evaluation", "lost", "down")
_EVERY = 30.0  # seconds between two writings


class Goodput:
    """A stopwatch that is always in one phase.

    Args:
      path: of goodput.json; None keeps nothing (a process that does not write).
      begun: time.time() at which this call began.
    """

    def __init__(self, path: Path | None, begun: float):
        self._path, self._begun = path, begun
        self._calls = _earlier(path)
        self._from, self._step, self._started = 0, 0, False
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._phase, self._since, self._written = "start", time.monotonic() - (time.time() - begun), time.monotonic()

    def starts_at(self, step: int) -> None:
        """The step that this call goes on from, at its beginning or behind a rollback; what was done beyond it is lost."""
        own = {"from_step": self._from, "to_step": self._step, "seconds": self.seconds}
        for call in (*self._calls[-1:], own):
            done, beyond = call["to_step"] - call["from_step"], call["to_step"] - step
            if done > 0 and beyond > 0:
                share = min(beyond / done, 1.0) * call["seconds"]["step"]
                call["seconds"]["step"] -= share
                call["seconds"]["lost"] += share
                call["to_step"] = step
        if self._calls:
            self.seconds["down"] = max(self._begun - self._calls[-1]["until"], 0.0)
        self._from = min(self._from, step) if self._started else step
        self._step, self._started = step, True

    def phase(self, kind: str, step: int | None = None) -> None:
        """From now on time counts as `kind`; `step` is how many are done."""
        now = time.monotonic()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = kind, now
        self._step = self._step if step is None else step
        if now - self._written > _EVERY:
            self.write()

    @property
    def current(self) -> str:
        """The kind that time counts as now."""
        return self._phase

    def total(self) -> dict[str, float]:
        """Seconds by kind over all calls."""
        return {kind: self.seconds[kind] + sum(call["seconds"].get(kind, 0.0) for call in self._calls) for kind in KINDS}

    def shares(self) -> dict[str, float]:
        """Shares of the wall time by kind; they add up to 1."""
        total = self.total()
        whole = sum(total.values()) or 1.0
        return {kind: value / whole for kind, value in total.items()}

    def write(self) -> None:
        """Write goodput.json."""
        self._written = time.monotonic()
        if self._path is None:
            return
        call = {"from_step": self._from, "to_step": self._step, "until": time.time(), "seconds": self.seconds}
        write_json(self._path, {"shares": self.shares(), "calls": [*self._calls, call]})


def _earlier(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    try:
        calls = read_json(path)["calls"]
        return [
            c for c in calls if {"from_step", "to_step", "until", "seconds"} <= c.keys() and set(KINDS) <= c["seconds"].keys()
        ]
    except (JaLlmError, KeyError, TypeError, AttributeError):  # a statistic, and no reason to stop
        return []

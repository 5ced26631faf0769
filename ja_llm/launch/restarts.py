"""When a run that ended is started again: on code 75 or a lost process, with longer and longer pauses, and not forever."""

import dataclasses
import signal

# sysexits.h's EX_TEMPFAIL; the trainer's own constant stands in `ja_llm.train.processes`, which loads JAX (a test compares them).
RESTART = 75
FAILED, MISUSED = 1, 2

# An attempt that lasted longer counts as progress where the run's steps can't be seen from here.
LONG = 3600.0


@dataclasses.dataclass
class Restarts:
    """How often and after which pauses.

    Attributes:
      limit: starts again without progress between them; 0 for never.
      first: seconds before the first start again; each further pause is twice as long.
      longest: seconds of the longest pause.
      done: starts again so far, over the whole run.
      since: of these, since the last progress.
      furthest: the step that was reached so far; -1 for none.
    """

    limit: int = 10
    first: float = 5.0
    longest: float = 300.0
    done: int = 0
    since: int = 0
    furthest: int = -1

    def next(self, step: int | None, lasted: float) -> float | None:
        """Seconds to wait before the next start; None when the limit is reached.

        Args:
          step: the newest step of the run; None where it can't be seen.
          lasted: seconds of the attempt that ended.
        """
        if lasted > LONG if step is None else step > self.furthest:
            self.since = 0
        self.furthest = max(self.furthest, -1 if step is None else step)
        if self.since >= self.limit:
            return None
        pause = min(self.first * 2**self.since, self.longest)
        self.since += 1
        self.done += 1
        return pause


def killed_by(code: int) -> str | None:
    """Name of the signal that ended a process, from its exit code (-9, or a shell's 137); None where it ended by itself."""
    number = -code if code < 0 else code - 128
    if not (code < 0 or 128 < code < 160):
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def lost(code: int) -> bool:
    """Whether to start again what ended with `code`."""
    return code == RESTART or killed_by(code) is not None

"""Progress for long work: a bar on a terminal, a plain line now and then elsewhere (logs, CI, pipes)."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")

_passing = False


@contextlib.contextmanager
def passing() -> Iterator[None]:
    """Within the block progress leaves nothing behind: a finished bar vanishes, and a plain closing line comes only after
    others. For a caller that tells itself what came out."""
    global _passing
    before, _passing = _passing, True
    try:
        yield
    finally:
        _passing = before


def quiet() -> bool:
    """Whether a caller tells itself what came out (`passing`)."""
    return _passing


class Progress:
    """Counts units of work towards `total` (None when it is not known).

    Args:
      label: what is being done, e.g. "train".
      total: units in all, or None.
      unit: name of one unit, e.g. "step".
      initial: units already done (after a resume).
      every: seconds between plain lines where there is no terminal.
      stream: where to write; stderr by default, so that stdout stays the command's result.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, initial: int = 0, every: float = 10.0, stream: TextIO | None = None
    ):
        self._stream = stream or sys.stderr
        self._label, self._total, self._unit = label, total, unit
        self._done, self._every, self._last, self._start = initial, every, time.monotonic(), time.monotonic()
        self._initial, self._note = initial, ""
        self._bar, self._told, self._passing = None, False, _passing
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=initial, desc=label, unit=unit, file=self._stream, dynamic_ncols=True, leave=not _passing
            )

    def update(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` (e.g. "loss 3.21") is shown beside the count."""
        self._done += n
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last >= self._every:
            self._line()

    def _line(self) -> None:
        self._last, self._told = time.monotonic(), True
        of = f"/{self._total}" if self._total is not None else ""
        rate = _rate((self._done - self._initial) / max(self._last - self._start, 1e-9))
        note = f", {self._note}" if self._note else ""
        print(f"{self._label}: {self._done}{of} {self._unit}s ({rate}){note}", file=self._stream, flush=True)

    def close(self) -> None:
        """End the bar; elsewhere print the closing line."""
        if self._bar is not None:
            self._bar.close()
        elif self._told or not self._passing:
            self._line()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def _rate(per_second: float) -> str:
    """A rate in the largest of units in which it is not shown as 0: a second, a minute, an hour."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 0.05:
            return f"{per_second * seconds:.1f}/{unit}"
    return "0.0/s"


def track(items: Iterable[T], label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing progress."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.update()

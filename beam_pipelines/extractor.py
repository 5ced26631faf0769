"""Main text of an HTML page by trafilatura, or plain text of wikitext, in a process of its own that is killed when a page takes too long.

trafilatura may not come back from some pages and has no time-out (adbar/trafilatura#704); a thread can't be killed, a
process can. The limit is in CPU seconds, set in the child by an interval timer, so that a busy machine drops no more
pages than an idle one; a wall-clock limit stands behind it for a child that waits without computing.

Messages both ways: 4-byte little-endian length, 1 byte (of a request its kind, of an answer its status), UTF-8 text.
"""

import contextlib
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

from beam_pipelines.inputs import wikitext
from ja_llm.text.normalise import strip_controls

TEXT, NOTHING, FAILED = range(3)  # status of an answer
HTML, WIKITEXT = range(2)  # kind of a request
WALL_CLOCK_FACTOR = 10
_MEMORY = 8 << 30

_WHITE_SPACE = re.compile(r"[ \t\r\n\f]+")
_WIDE = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U000323af"
_JAPANESE_BREAK = re.compile(f"(?<=[{_WIDE}])[ \\t]*[\\r\\n][ \\t\\r\\n]*(?=[{_WIDE}])")


class ExtractionProblem(Exception):
    """A page gave no text: `reason` is no_main_text, extract_deadline, extract_crashed or extract_failed."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class Extractor:
    """Client of one extractor process; starts it when it is needed and again after it had to be killed. Threads take turns.

    Args:
      deadline_s: CPU seconds a page.
      favour: as in `main_text`.
      reset_every: pages between resets of trafilatura's caches.
    """

    def __init__(self, deadline_s: float, favour: str = "", reset_every: int = 1000):
        self._deadline = deadline_s
        self._command = [sys.executable, "-m", "beam_pipelines.extractor", str(deadline_s), favour, str(reset_every)]
        self._child: subprocess.Popen | None = None
        self._turn = threading.Lock()  # Dataflow and Flink give one process several units at a time

    def extract(self, page: str, kind: int = HTML) -> str:
        """Main text of a page in HTML or WIKITEXT, one paragraph a line.

        Raises:
          ExtractionProblem: the page has none, or the extractor failed, crashed or did not come back in time.
        """
        with self._turn:
            return self._extract(page, kind)

    def _extract(self, page: str, kind: int) -> str:
        child = self._start()
        try:
            _send(child.stdin, kind, page)  # type: ignore[arg-type]
            status, text = self._receive(child)
        except (BrokenPipeError, EOFError):
            code = self._stop()
            reason = "extract_deadline" if code == -signal.SIGVTALRM else "extract_crashed"
            raise ExtractionProblem(reason, f"the extractor ended with {code}") from None
        except TimeoutError:
            self._stop()
            raise ExtractionProblem("extract_deadline", "the extractor did not come back") from None
        if status != TEXT:
            raise ExtractionProblem("no_main_text" if status == NOTHING else "extract_failed", text)
        return text

    def _start(self) -> subprocess.Popen:
        if self._child is None:
            # Its own process group: Ctrl-C is answered by the process that asks; this one ends when its input does.
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        return self._child

    def _receive(self, child: subprocess.Popen) -> tuple[int, str]:
        end = time.monotonic() + WALL_CLOCK_FACTOR * self._deadline + 30  # the child may still be starting
        header = self._read(child, 5, end)
        length, status = struct.unpack("<IB", header)
        return status, self._read(child, length, end).decode("utf-8")

    @staticmethod
    def _read(child: subprocess.Popen, length: int, end: float) -> bytes:
        stream = child.stdout
        assert stream is not None
        data = bytearray()
        while len(data) < length:
            ready, _, _ = select.select([stream], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            piece = stream.raw.read(length - len(data))  # type: ignore[attr-defined]
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _stop(self) -> int:
        assert self._child is not None
        if not self._ends_soon():
            self._child.kill()
        code = self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._child = None
        return code

    def _ends_soon(self) -> bool:
        """Whether the child, whose pipe broke, is on its way out: its own exit code says why."""
        assert self._child is not None
        try:
            self._child.wait(1)
            return True
        except subprocess.TimeoutExpired:
            return False

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._stop()


def _send(stream: BinaryIO, status: int, text: str) -> None:
    data = text.encode("utf-8", "replace")
    stream.write(struct.pack("<IB", len(data), status) + data)
    stream.flush()


def main_text(html: str, favour: str = "") -> str | None:
    """trafilatura's main text: comments and tables off (Swallow v1's setting).

    Args:
      html: the page.
      favour: "" for trafilatura's own balance, "recall" or "precision".
    """
    import trafilatura

    tree = trafilatura.load_html(html)
    if tree is None:
        return None
    collapse_white_space(tree)
    return trafilatura.extract(
        tree,
        favor_recall=favour == "recall",
        favor_precision=favour == "precision",
        include_comments=False,
        include_tables=False,
    )


def collapse_white_space(tree: Any) -> None:
    """Undo the line breaks of the HTML source, in place: they are white space, outside `pre` and `textarea`.

    Between Japanese characters a line break is nothing at all, elsewhere a space (CSS Text Module Level 4, segment
    break transformation). trafilatura makes all of them spaces, which puts spaces into Japanese words.
    """
    stack = [(tree, False)]
    while stack:
        element, kept = stack.pop()
        inside = kept or element.tag in ("pre", "textarea")
        if element.text and not inside and isinstance(element.tag, str):
            element.text = _collapsed(element.text)
        if element.tail and not kept:
            element.tail = _collapsed(element.tail)
        stack += [(child, inside) for child in element]


def _collapsed(text: str) -> str:
    return _WHITE_SPACE.sub(" ", _JAPANESE_BREAK.sub("", strip_controls(text)))  # "&#1;" is a control character by now


def _serve(deadline_s: float, favour: str, reset_every: int) -> None:
    """Answer requests on standard input until it closes."""
    import logging
    import resource

    from trafilatura.meta import reset_caches

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints must not get between the answers
    pages = 0
    while header := requests.read(5):
        length, kind = struct.unpack("<IB", header)
        page = requests.read(length).decode("utf-8")
        # Its default action ends the process, whatever C code is running. The wall-clock alarm is for an orphan.
        signal.setitimer(signal.ITIMER_VIRTUAL, deadline_s)
        signal.setitimer(signal.ITIMER_REAL, WALL_CLOCK_FACTOR * deadline_s + 60)
        try:
            text = wikitext.clean(page) if kind == WIKITEXT else main_text(page, favour)
            status = TEXT if text else NOTHING
        except Exception as error:  # any of lxml's and trafilatura's errors: this page is dropped with the reason counted
            status, text = FAILED, f"{type(error).__name__}: {error}"[:300]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, status, text or "")
        pages += 1
        if pages % reset_every == 0:
            reset_caches()


if __name__ == "__main__":
    try:
        _serve(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except BrokenPipeError:
        os._exit(1)  # who asked is gone, and Python would complain again when it flushes

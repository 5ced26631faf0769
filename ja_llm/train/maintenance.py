"""Maintenance notices: a thread that asks the machine's provider, and asks the run to save and end as SIGTERM does.

Compute Engine's metadata server answers MIGRATE_ON_HOST_MAINTENANCE or TERMINATE_ON_HOST_MAINTENANCE up to an hour before a host with
accelerators is taken away, and NONE otherwise (cloud.google.com/compute/docs/metadata, maintenance-event); TRUE where a spot machine is being
preempted (instance/preempted). SIGTERM comes only seconds before the end, too late for a large checkpoint.
"""

import contextlib
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence

_GCE = "http://metadata.google.internal/computeMetadata/v1/instance/"
SOURCES = {"gce": (f"{_GCE}maintenance-event", f"{_GCE}preempted")}
_NOTHING = ("NONE", "FALSE", "")


@contextlib.contextmanager
def watched(source: str | None, ask: Callable[[], object], period: float = 10.0) -> Iterator[None]:
    """Within the block look for a notice every `period` seconds, and call `ask` at the first.

    Args:
      source: "gce", the URL of something that answers alike, or None for nothing.
      ask: called once, in the thread.
      period: seconds between two questions.
    """
    if source is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if notice := _notice(SOURCES.get(source, (source,))):
                print(f"train: maintenance notice {notice}; the run saves and ends.", file=sys.stderr, flush=True)
                ask()
                return
            ended.wait(period)

    threading.Thread(target=look, name="maintenance", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _notice(urls: Sequence[str]) -> str | None:
    for url in urls:
        with contextlib.suppress(OSError):  # elsewhere there is no such server, and one that is busy is asked again
            request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                text = answer.read(200).decode("utf-8", "replace").strip()
            if text.upper() not in _NOTHING:
                return text
    return None

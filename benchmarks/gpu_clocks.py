"""A GPU's clocks while something runs on it: what a table of speeds is worth depends on them."""

import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

_FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "utilization.gpu")
_NAMES = ("sm_mhz", "memory_mhz", "watts")


@contextlib.contextmanager
def sampled(wanted: bool = True, milliseconds: int = 200) -> Iterator[dict[str, Any]]:
    """Within the block nvidia-smi samples the first GPU; at its end the yielded dict gets what it saw (`summary`).

    Args:
      wanted: False: nothing is sampled, and the dict stays empty.
      milliseconds: between samples.
    """
    found: dict[str, Any] = {}
    if not wanted:
        yield found
        return
    command = [
        "nvidia-smi",
        "--id=0",
        f"--query-gpu={','.join(_FIELDS)}",
        "--format=csv,noheader,nounits",
        f"--loop-ms={milliseconds}",
    ]
    with tempfile.TemporaryFile("w+") as lines:
        try:
            process = subprocess.Popen(command, stdout=lines, stderr=subprocess.DEVNULL)
        except OSError:
            found["nvidia_smi"] = "not there"
            yield found
            return
        try:
            yield found
        finally:
            process.terminate()
            process.wait()
            lines.seek(0)
            found |= summary(lines.read())


def summary(text: str) -> dict[str, Any]:
    """{"samples": n, "sm_mhz": {"least", "median", "most"}, "memory_mhz": ..., "watts": ...} of the samples in which the GPU was busy."""
    rows = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a line cut short at the end, or a field that this GPU does not tell
            rows.append([float(x) for x in line.split(",")])
    busy = [row for row in rows if len(row) == len(_FIELDS) and row[-1] > 0]
    columns = zip(_NAMES, zip(*busy, strict=True), strict=False)
    return {"samples": len(busy)} | {
        name: {"least": min(values), "median": statistics.median(values), "most": max(values)} for name, values in columns
    }

"""What a run directory says about a run from outside: its newest step, and where its time went."""

import json
from pathlib import Path

from ja_llm.errors import JaLlmError
from ja_llm.files import read_json


def newest_step(run: Path | None) -> int | None:
    """The newest step in metrics.jsonl, -1 before the first; None where there is no local run directory to look into."""
    if run is None:
        return None
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 65536, 0))
            lines = file.read().splitlines()
    except OSError:
        return -1
    for text in reversed(lines):
        try:
            return int(json.loads(text)["step"])
        except (ValueError, KeyError, TypeError):  # being written, or cut by a kill
            continue
    return -1


def goodput(run: Path | None, begun: float, wall: float, restarts: int) -> str:
    """One line on the whole launch: the share of its wall time that was steps, and the rest by kind.

    Args:
      run: the run directory.
      begun: time.time() of the launch; what earlier launches did is not counted.
      wall: seconds since.
      restarts: how often all processes were started again.
    """
    again = f"{restarts} restart{'' if restarts == 1 else 's'}"
    try:
        calls = [call for call in read_json(run / "goodput.json")["calls"] if call["until"] >= begun] if run else []
        seconds: dict[str, float] = {}
        for call in calls:
            for kind, value in call["seconds"].items():
                if kind != "down":
                    seconds[kind] = seconds.get(kind, 0.0) + value
    except (JaLlmError, OSError, KeyError, TypeError, AttributeError):
        seconds = {}
    if not seconds:
        return f"{wall:.0f} s, {again}; goodput is not known ({'the run left no goodput.json' if run else 'no local MODEL_DIR'})"
    seconds.pop("lost", None)  # what was done twice, and what a killed process no longer noted
    seconds["down and lost"] = max(wall - sum(seconds.values()), 0.0)
    share = seconds.get("step", 0.0) / max(wall, 1e-9)
    parts = ", ".join(f"{kind} {value:.0f} s" for kind, value in seconds.items() if value >= 0.5 or kind == "step")
    return f"goodput {100 * share:.1f} % of {wall:.0f} s ({parts}), {again}"

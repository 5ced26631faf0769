"""Tables of docs/generation.md (`decode_speed.py`), docs/evaluation.md (`eval_speed.py`) and docs/interchange.md (`interchange_speed.py`)."""

import statistics
from typing import Any


def decode_speed(value: dict[str, Any]) -> str:
    """Tokens per second beside transformers."""
    lines = ["| greedy, float32 | ours | transformers | ratio | same tokens |", "|---|---|---|---|---|"]
    for name, found in value["results"].items():
        ours, theirs = (f"{found['tokens_per_second'][who]:,.0f} tokens/s" for who in ("ours", "transformers"))
        lines.append(f"| {name} | {ours} | {theirs} | {found['ratio']:.2f}x | {'yes' if found['same_tokens'] else 'no'} |")
    return "\n".join(lines)


def eval_speed(value: dict[str, Any]) -> str:
    """Likelihood tasks beside the harness's own backend."""
    lines = ["| requests | tokens shared | transformers | ours | ratio | largest difference |", "|---|---|---|---|---|---|"]
    for name, found in rows_of(value["loads"]):
        seconds = " | ".join(f"{statistics.median(found['seconds'][who]):.2f} s" for who in ("peer", "ours"))
        shared, worst = f"{found['share_saved']:.0%}", f"{found['largest_difference_nats']:.1e} nats"
        ratio = statistics.median(found["seconds"]["peer"]) / statistics.median(found["seconds"]["ours"])
        lines.append(f"| {found['requests']}, {name} | {shared} | {seconds} | {ratio:.2f}x | {worst} |")
    if "documents_a_task" in value:
        lines += ["", f"{value['documents_a_task']} generated documents a task; medians of {value['repeats']} whole evaluations."]
    return "\n".join(lines)


def rows_of(loads: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each load, then its tasks where it has several."""
    found = []
    for name, load in loads.items():
        tasks = load.get("tasks", {})
        found += [(name, load), *((f"{task}, {of['shots']} shots", of) for task, of in tasks.items() if len(tasks) > 1)]
    return found


def interchange_speed(value: dict[str, Any]) -> str:
    """Time and memory of an import and an export beside safetensors."""
    cold = value.get("cold", {})
    columns = [
        "median seconds",
        "times `read`",
        *(["cold seconds", "times cold `read`"] if cold else []),
        "memory beyond the parameters",
    ]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in value["median_seconds"]:
        cells = [name]
        for found in (value, *([cold] if cold else [])):
            median = found["median_seconds"]
            cells += [f"{median[name]:.1f}", f"{median[name] / median['read']:.1f}"] if name in median else ["", ""]
        lines.append(f"| {' | '.join(cells)} | {value['memory_beyond_arrays_bytes'][name] / 2**20:,.0f} MiB |")
    verdicts = [
        f"{where} {task} {found['over_read'][task]:.1f} ({'met' if goal['met'] else 'missed'})"
        for where, found in (("warm", value), ("cold", cold))
        for task, goal in found.get("goal", {}).items()
    ]
    return "\n".join([*lines, *(["", f"Goal, at most twice the time of `read`: {', '.join(verdicts)}."] if verdicts else [])])

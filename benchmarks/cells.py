"""How a figure stands in a cell of the tables."""

from typing import Any


def interval(task: Any, key: str) -> str:
    """`value [low, high]`."""
    low, high = task["interval"]
    return f"{task[key]:.3f} [{low:.3f}, {high:.3f}]"


def percent(task: dict[str, Any]) -> str:
    """Accuracy with its standard error."""
    return f"{100 * task['accuracy']:.1f} ± {100 * task['accuracy_standard_error']:.1f} %"


def difference(found: dict[str, Any]) -> str:
    """`value [low, high]` with its sign."""
    low, high = found["interval"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"

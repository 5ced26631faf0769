"""What a finished document set says about itself: yields and speeds."""

import os
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.files import read_json

_WIDTH = 80


def format_yields(value: dict[str, Any]) -> str:
    """The table of stages and reasons, at most 80 columns wide: of each stage what came in, "-" what was dropped and why, "~" what stayed
    with another text and by which change (with its length before; one document may have several), "+" what was kept, by language.

    Args:
      value: a document set's manifest.
    """
    wide = max([10, *(len(table["stage"]) for table in value.get("yields", []))])
    rows = [f"{'stage':<{wide}} {'reason':<{48 - wide}} {'documents':>9} {'characters':>13} {'share':>6}", "-" * _WIDTH]
    for table in value.get("yields", []):
        came_in = table["in"]["documents"]
        rows.append(_row(wide, table["stage"], "in", table["in"], came_in))
        dropped = sorted(table["dropped"].items(), key=lambda item: (-item[1]["documents"], item[0]))
        rows += [_row(wide, "", f"- {reason}", count, came_in) for reason, count in dropped]
        changed = sorted(table.get("modified", {}).items(), key=lambda item: (-item[1]["documents"], item[0]))
        rows += [_row(wide, "", f"~ {kind}", count, came_in) for kind, count in changed]
        rows += [_row(wide, "", f"+ {name}", count, came_in) for name, count in table["kept_by"].items()]
        rows.append(_row(wide, "", "kept", table["kept"], came_in))
    damaged = value.get("damaged", [])
    if damaged:
        rows += ["", f"{len(damaged)} damaged place{'s' if len(damaged) > 1 else ''} in the input:"]
        rows += _wrap([f"{d['input']} at {d['offset']}: {d['reason']}, {d['detail']}" for d in damaged[:20]])
        if len(damaged) > 20:
            rows.append(f"  and {len(damaged) - 20} more in {manifest.NAME}")
    return "\n".join(rows)


def _row(wide: int, stage: str, reason: str, count: dict[str, int], of: int) -> str:
    share = f"{100 * count['documents'] / of:5.1f}%" if of else ""
    return f"{stage:<{wide}} {reason[: 48 - wide]:<{48 - wide}} {count['documents']:>9} {count['characters']:>13} {share:>6}"


def _wrap(lines: list[str]) -> list[str]:
    import textwrap

    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")]


def format_timings(directory: str | os.PathLike) -> str:
    """The run's speeds as text: a line a stage.

    Raises:
      JaLlmError: the run left no timings.
    """
    value = read_json(Path(directory) / "timings.json", "file of timings")
    rows = [f"{'stage':<14} {'documents':>10} {'seconds':>10} {'a second':>10}", "-" * 47]
    for name, entry in value["stages"].items():
        rows.append(f"{name:<14} {entry['documents']:>10} {entry['seconds']:>10.1f} {entry['documents_per_second']:>10.1f}")
    return "\n".join([*rows, value["note"]])

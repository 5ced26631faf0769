"""Two runs on the same items: paired differences of every task that both measured and of the suites that both have whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation.registry import averaged_suites, suites
from ja_llm.evaluation.samples import finished_tasks
from ja_llm.evaluation.statistics import Statistic, paired, paired_suite

Results = Mapping[str, dict[str, Any]]


def statistic_of(result: dict[str, Any]) -> Statistic | None:
    """The headline metric of a stored task result as rows; None where the task keeps none."""
    items = result.get("items")
    return Statistic(items["rows"], items["aggregate"]) if items else None


def read_baseline(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The tasks that an earlier evaluation finished in a folder.

    Raises:
      UsageError: there is none.
    """
    found = finished_tasks(Path(folder)) if Path(folder).is_dir() else {}
    if not found:
        raise UsageError(f"{folder}: there are no results of an evaluation to compare with; give the folder that `eval` wrote.")
    return found


def compare(ours: Results, base: Results) -> dict[str, Any]:
    """Paired differences, ours minus base.

    Args:
      ours: task -> its stored result, with "items" and "request".
      base: the same of the other run.

    Returns:
      {"tasks": {name: as `statistics.paired`}, "suites": {name: as `statistics.paired_suite`}, "left_out": {name: why}}.
    """
    left_out = {name: why for name, result in ours.items() if (why := _why_not(result, base.get(name)))}
    pairs = {name: (_rows(ours[name]), _rows(base[name])) for name in ours if name not in left_out}
    whole = {suite: suites()[suite] for suite in sorted(averaged_suites()) if all(name in pairs for name in suites()[suite])}
    return {
        "tasks": {name: paired(a, b) for name, (a, b) in pairs.items()},
        "suites": {
            suite: paired_suite({n: pairs[n][0] for n in names}, {n: pairs[n][1] for n in names})
            for suite, names in whole.items()
        },
        "left_out": left_out,
    }


def _rows(result: dict[str, Any]) -> Statistic:
    found = statistic_of(result)
    assert found
    return found


def _why_not(ours: dict[str, Any], base: dict[str, Any] | None) -> str:
    """Why the two can't be compared item by item, "" if they can."""
    if base is None:
        return "the other run has not measured it"
    if "items" not in ours or "items" not in base:
        return "it keeps no numbers of single items"
    units = [_units(result) for result in (ours, base)]
    if units[0] != units[1]:
        return f"the two were measured in other units ({units[0]} and {units[1]})"
    same = all(ours["request"].get(key) == base["request"].get(key) for key in ("version", "data", "examples"))
    same &= len(ours["items"]["rows"]) == len(base["items"]["rows"])
    return "" if same else "the two were measured on other files or limits"


def _units(result: dict[str, Any]) -> str:
    """The headline metric's signature, "" for one without."""
    about = result.get("about", {})
    return str(about.get("signatures", {}).get(about.get("headline"), ""))


def format_comparison(value: Mapping[str, Any]) -> str:
    """One line a task or suite."""
    lines = ["  change against the baseline"]
    for name, found in {**value["tasks"], **value["suites"]}.items():
        low, high = found["interval"]
        lines.append(f"  {name:<24}{found['difference']:>+10.4f}  [{low:+.4f}, {high:+.4f}]  p = {found['p_value']:.3f}")
    lines += [f"  {name:<24}  not compared: {why}" for name, why in value["left_out"].items()]
    return "\n".join(lines)

"""The order of a run's gin files: a whole run or recipe first, then the files that change one."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ja_llm.errors import UsageError

# What makes a file a run (and a run's own config.gin, too): it says, itself or by what it includes, how many steps are trained, and on what.
_BOUND = [
    re.compile(rf"^[ \t]*(?:\w+\.)*train(?:\.{name}[ \t]*=|:[ \t]*\n(?:[ \t]+.*\n)*?[ \t]+{name}[ \t]*=)", re.MULTILINE)
    for name in ("total_steps", "cache_dir")
]
_INCLUDE = re.compile(r"""^[ \t]*include[ \t]+['"](.+?)['"]""", re.MULTILINE)
# Files that were whole runs before they could be laid on any; given alone each changes the run that it was.
WERE_RUNS = {
    "best_first.gin": "runs/continue.gin",
    "near_original.gin": "runs/continue.gin",
    "new_rows_first.gin": "runs/continue.gin",
    "subset_epochs.gin": "runs/continue.gin",
    "two_stages.gin": "runs/pretrain.gin",
}


def in_order(files: Sequence[str], found: Callable[[str], Path | None], packaged: Path) -> list[str]:
    """The files, with the run that a preset changes before it where none is given.

    Args:
      files: as they are given.
      found: name -> path of the file; None: there is none.
      packaged: the package's folder of runs, in which each file is a run or changes one.

    Raises:
      UsageError: a file that changes a run stands before the run, which would take it back.
    """
    runs = [number for number, file in enumerate(files) if _is_run(file, found)]
    changes = [number for number, file in enumerate(files) if number not in runs and _inside(found(file), packaged)]
    was = next((WERE_RUNS[name] for file in files for name in _presets(file, found, packaged)), None) if not runs else None
    if was is not None:  # before all that changes it
        first = min((*changes, *(number for number, file in enumerate(files) if _presets(file, found, packaged))))
        return [*files[:first], was, *files[first:]]
    if early := [number for number in changes if runs and number < runs[-1]]:
        overlay, run = files[early[0]], files[runs[-1]]
        raise UsageError(
            f"{overlay} changes a run, but stands before {run}, which would take that back; give it behind: --gin_file={run} --gin_file={overlay}."
        )
    return list(files)


def _inside(path: Path | None, folder: Path) -> bool:
    return path is not None and path.resolve().parent == folder.resolve()


def _presets(file: str, found: Callable[[str], Path | None], packaged: Path, above: tuple[str, ...] = ()) -> list[str]:
    """Names of the files that were runs and that this one is, or includes."""
    path = found(file)
    if path is None or file in above:
        return []
    names = [path.name] if path.name in WERE_RUNS and _inside(path, packaged) else []
    text = path.read_text(encoding="utf-8", errors="replace")
    return names + [name for inner in _INCLUDE.findall(text) for name in _presets(inner, found, packaged, (*above, file))]


def _is_run(file: str, found: Callable[[str], Path | None], above: tuple[str, ...] = ()) -> bool:
    """Whether a file says how many steps are trained and on what, itself or by what it includes."""
    path = found(file)
    if path is None or file in above:
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return all(name.search(text) for name in _BOUND) or any(
        _is_run(name, found, (*above, file)) for name in _INCLUDE.findall(text)
    )

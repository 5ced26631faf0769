"""The order of a run's gin files: a whole run or recipe first, then the files that change one."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ja_llm.errors import UsageError

# What makes a file a run (and a run's own config.gin, too): it says, itself or by what it includes, how many steps are trained.
_STEPS = re.compile(
    r"^[ \t]*(?:\w+\.)*train(?:\.total_steps[ \t]*=|:[ \t]*\n(?:[ \t]+.*\n)*?[ \t]+total_steps[ \t]*=)", re.MULTILINE
)
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
    if early := [number for number in changes if runs and number < runs[-1]]:
        overlay, run = files[early[0]], files[runs[-1]]
        raise UsageError(
            f"{overlay} changes a run, but stands before {run}, which would take that back; give it behind: --gin_file={run} --gin_file={overlay}."
        )
    alone = [number for number in changes if Path(files[number]).name in WERE_RUNS] if not runs else []
    if not alone:
        return list(files)
    first = alone[0]
    return [*files[:first], WERE_RUNS[Path(files[first]).name], *files[first:]]


def _inside(path: Path | None, folder: Path) -> bool:
    return path is not None and path.resolve().parent == folder.resolve()


def _is_run(file: str, found: Callable[[str], Path | None], above: tuple[str, ...] = ()) -> bool:
    """Whether a file says how many steps are trained, itself or by what it includes."""
    path = found(file)
    if path is None or file in above:
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return bool(_STEPS.search(text)) or any(_is_run(name, found, (*above, file)) for name in _INCLUDE.findall(text))

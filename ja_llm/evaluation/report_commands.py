"""The commands that a report suggests, complete: with the run's own paths, documents and scoring window."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.evaluation.report_data import Run
from ja_llm.files import shown

PROMPT = "日本の春は"


def generate_command(run: Run) -> str:
    """See what a run writes."""
    return f"ja-llm generate --checkpoint {shlex.quote(shown(run.path))} --prompt {PROMPT}"


def eval_command(run: Run, runs: Sequence[Run], corpus: str | Path | None, *, alike: bool = False) -> str:
    """Measure a run so that its figures compare with those beside it.

    Args:
      run: as it was measured before; never measured, as the first measured one of `runs` was; with none, in the window that it was
        trained in (the verb's own is another).
      runs: those of the page.
      corpus: document set of the page.
      alike: as the first of `runs` was measured, whatever the run's own settings.
    """
    settings = {} if alike else run.settings
    settings = settings or next((other.settings for other in runs if other.settings), {})
    chosen = {"limit": settings.get("limit"), "length": settings.get("length") or run.trained_window}
    documents = shlex.quote(shown(corpus)) if corpus else "DOCUMENTS"
    flags = "".join(f" --{name} {value}" for name, value in chosen.items() if value)
    if any("translate_ui_en_ja" in other.tasks for other in runs):
        flags += " --pairs PAIRS"
    return f"ja-llm eval --checkpoint {shlex.quote(shown(run.path))} --documents {documents}{flags}"


def report_command(runs: Sequence[Run], files: Mapping[str, Any]) -> str:
    """Make the page again, of the same runs and those of `files` (flag -> path) that are paths."""
    given = "".join(f" --{name} {shlex.quote(shown(path))}" for name, path in files.items() if isinstance(path, str | Path))
    return f"ja-llm report {' '.join(shlex.quote(shown(run.path)) for run in runs)}{given} --out report.html"

"""Every benchmark still imports and answers --help, and has the options that the pages and its own first lines call it with.

What it calls is held by its types (`make lint`); to run it takes minutes to hours.
"""

import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
PAGES = [ROOT / "Makefile", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Run by the Python of another environment, with the peers and without this project: arguments by position, no help.
PEERS = ("corpus_speed_peers", "minhash_peers")


def commands() -> list[Path]:
    return [p for p in FILES if p.stem not in PEERS and '__name__ == "__main__"' in p.read_text(encoding="utf-8")]


def imported(path: Path) -> ModuleType:
    """The module, by its own name, so that what it registers is registered once; skips where a package of an extra is not installed."""
    try:
        return importlib.import_module("benchmarks" if path.stem == "__init__" else f"benchmarks.{path.stem}")
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0].replace("_", "-")
        if f'"{package}' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8"):
            raise
        pytest.skip(f"{package} of an extra in pyproject.toml is not installed")


def called_with(name: str) -> set[str]:
    """Options in the commands that the file's first lines, Makefile, README and docs give."""
    own = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))) or ""
    texts = [own, *(page.read_text(encoding="utf-8") for page in PAGES)]
    calls = [rest for text in texts for rest in re.findall(rf"-m benchmarks\.{name}\b([^\n`;#]*)", text)]
    return {option for call in calls for option in re.findall(r"--\w+", call)}


@pytest.mark.parametrize("path", commands(), ids=lambda path: path.stem)
def test_a_benchmark_answers_help_and_has_the_options_that_are_written_of(path, monkeypatch, capsys):
    module = imported(path)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    usage = capsys.readouterr().out.partition("\n\n")[0]  # what follows is the first lines again
    assert usage.startswith(f"usage: {path.name}")
    assert not {option for option in called_with(path.stem) if not re.search(rf"{option}\b", usage)}


@pytest.mark.parametrize("path", [path for path in FILES if path not in commands()], ids=lambda path: path.stem)
def test_what_is_no_command_imports(path):
    assert imported(path).__doc__

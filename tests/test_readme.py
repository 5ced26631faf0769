"""The figures of README.md and docs/ are those of the result files."""

import pytest

from benchmarks.readme_tables import RESULTS, ROOT, replace, tables
from ja_llm.files import read_json


@pytest.mark.parametrize("name", [name for name in tables() if (RESULTS / f"{name}.json").exists()])
def test_the_tables_are_what_the_result_files_make(name):
    page, make = tables()[name]
    text = (ROOT / page).read_text(encoding="utf-8")
    made = replace(text, name, make(read_json(RESULTS / f"{name}.json")))
    assert made == text, "run python -m benchmarks.readme_tables"

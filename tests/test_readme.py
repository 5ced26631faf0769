"""The figures of README.md and docs/ are those of the result files."""

import pytest

from benchmarks.readme_tables import RESULTS, ROOT, replace, tables
from ja_llm.files import read_json


def test_what_the_pages_stand_on_is_there():
    assert {"debian_docs", "quickstart", "quickstart_rate"} <= set(tables())


@pytest.mark.parametrize("name", tables())
def test_the_tables_are_what_the_result_files_make(name):
    page, make = tables()[name]
    text = (ROOT / page).read_text(encoding="utf-8")
    made = replace(text, name, make(read_json(RESULTS / f"{name}.json")))
    assert made == text, "run python -m benchmarks.readme_tables"

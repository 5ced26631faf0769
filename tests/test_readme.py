"""The README's figures are those of the result files."""

from benchmarks.readme_tables import RESULTS, ROOT, debian_docs, replace
from ja_llm.files import read_json


def test_the_tables_are_what_the_result_files_make():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = replace(readme, "debian_docs", debian_docs(read_json(RESULTS / "debian_docs.json")))
    assert made == readme, "run python -m benchmarks.readme_tables"

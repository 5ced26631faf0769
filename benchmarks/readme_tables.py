"""Writes the tables of README.md and docs/ from the result files, each by the `*_tables.py` of its page: no figure there without its file.

python -m benchmarks.readme_tables
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    attention_tables,
    compile_tables,
    corpus_quality_table,
    corpus_tables,
    debian_docs_tables,
    evaluation_tables,
    launch_tables,
    training_tables,
    vocabulary_tables,
)
from ja_llm.commands.parsing import set_device
from ja_llm.files import atomic_write, read_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Write all tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    set_device("cpu")
    write()


def write() -> None:
    """Replace what stands between each table's markers."""
    for name, (page, make) in tables().items():
        path, document = RESULTS / f"{name}.json", ROOT / page
        if path.exists():
            text = replace(document.read_text(encoding="utf-8"), name, make(read_json(path)))
            with atomic_write(document) as file:
                file.write(text.encode())
    recipes()


def recipes() -> None:
    """docs/recipes.md: the recipes as their gin files resolve."""
    from ja_llm.recipes import catalogue, estimate
    from ja_llm.recipes.tables import markdown

    page = ROOT / "docs" / "recipes.md"
    text = replace(page.read_text(encoding="utf-8"), "recipes", markdown(catalogue.catalogue(), estimate.MFU))
    with atomic_write(page) as file:
        file.write(text.encode())


def tables() -> dict[str, tuple[str, Callable[[dict[str, Any]], str]]]:
    """Result file -> page, and what makes the table; of files that are there: what was not measured has no table."""
    known = {
        "debian_docs": ("README.md", debian_docs_tables.debian_docs),
        "quickstart": ("docs/quickstart.md", debian_docs_tables.quickstart),
        "quickstart_rate": ("docs/quickstart.md", debian_docs_tables.quickstart_rate),
        "vocab_expansion": ("docs/vocabulary.md", vocabulary_tables.vocab_expansion),
        "vocab_rows": ("docs/vocabulary.md", vocabulary_tables.vocab_rows),
        "vocab_speed": ("docs/vocabulary.md", vocabulary_tables.vocab_speed),
        "attention": ("docs/attention.md", attention_tables.attention),
        "attention_tiles": ("docs/attention.md", attention_tables.attention_tiles),
        "attention_aot": ("docs/attention.md", attention_tables.attention_aot),
        "linear_cross_entropy": ("docs/attention.md", attention_tables.linear_cross_entropy),
        "decode_speed": ("docs/generation.md", evaluation_tables.decode_speed),
        "eval_speed": ("docs/evaluation.md", evaluation_tables.eval_speed),
        "interchange_speed": ("docs/interchange.md", evaluation_tables.interchange_speed),
        "batches": ("docs/training.md", training_tables.batches),
        "checkpoint_overhead": ("docs/training.md", training_tables.checkpoint_overhead),
        "stability_gap": ("docs/forgetting.md", training_tables.stability_gap),
        "false_alarms": ("docs/forgetting.md", training_tables.false_alarms),
        "experts": ("docs/families.md", training_tables.experts),
        "t5x": ("docs/t5x.md", training_tables.t5x),
        "four_processes": ("docs/pod.md", launch_tables.four_processes),
        "corpus_speed": ("docs/corpus.md", corpus_tables.corpus_speed),
        "corpus_quality": ("docs/corpus.md", corpus_quality_table.table),
        "minhash": ("docs/deduplication.md", corpus_tables.minhash),
        "language": ("docs/deduplication.md", corpus_tables.language),
        "compile_table": ("docs/compile.md", compile_tables.compile_table),
        "scaling": ("docs/compile.md", compile_tables.scaling),
    }
    return {name: entry for name, entry in known.items() if (RESULTS / f"{name}.json").exists()}


def replace(text: str, name: str, table: str) -> str:
    """Put `table` between the markers of `name`."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"the page has no markers for {name}")
    return re.sub(pattern, lambda m: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    main()

"""Which learning rates the quickstart's run and its from-scratch twin want, measured on pages that the quickstart trains on.

    python -m benchmarks.quickstart_rate --out build/quickstart_rate

The quickstart's held-out pages are left out altogether; a fifth of the others is held out here instead. So its own figures
do not choose its rates. Writes benchmarks/results/quickstart_rate.json.
"""

import argparse
import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.debian_docs import cpu_name
from ja_llm import manifest
from ja_llm.commands.parsing import set_device
from ja_llm.documents import read_documents
from ja_llm.evaluation.run import evaluate
from ja_llm.files import write_json, write_text
from ja_llm.quickstart import pages
from ja_llm.quickstart.run import embedded_base, sizes
from ja_llm.quickstart.walk import Walk

RESULT = Path(__file__).parent / "results" / "quickstart_rate.json"
RATES = (2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)
TASKS = ["bits_per_byte_ja", "bits_per_byte_en"]
# A document is held out where its hash is below the share: those below .2 are the quickstart's own and not among these pages.
PRESET = "include 'corpus/quickstart.gin'\ncorpus.Split.heldout_share = 0.36\n"


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/quickstart_rate"))
    out = parser.parse_args().out.absolute()
    set_device("cpu")
    everything = out / "pages.warc.gz"
    pages.write_warc(everything)
    config = sizes((str(everything),), str(embedded_base()))
    corpus = Walk(out / "all", config).corpus()
    held = {d.url for s in corpus["shards"] if s["split"] == "heldout" for d in read_documents(out / "all/corpus" / s["name"])}
    others = out / "training.warc.gz"
    pages.write_warc(others, without=with_copies(held))
    write_text(out / "preset.gin", PRESET)
    walk = Walk(out / "walk", dataclasses.replace(config, inputs=(str(others),), preset=str(out / "preset.gin")))
    split = walk.corpus()
    assert not held & {d.url for s in split["shards"] for d in read_documents(walk.out / "corpus" / s["name"])}
    walk.base()
    walk.expand()
    walk.tokens()
    figures = {
        "base": bits(walk, walk.out / "models/base"),
        "continued": {f"{rate:g}": bits(walk, walk.continual(f"ja_{rate:g}", rate)) for rate in RATES},
        "twin": {f"{rate:g}": bits(walk, walk.scratch(f"scratch_{rate:g}", rate)) for rate in RATES},
    }
    value = {
        "what": "bits per byte by peak learning rate, quickstart's sizes, on pages that the quickstart trains on",
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "software": manifest.software("jax", "jaxlib", "flax", "optax", "sentencepiece"),
        "config": {**dataclasses.asdict(walk.config), "inputs": "training pages", "base": "embedded", "preset": PRESET},
        "documents": {f"{s['lang']}/{s['split']}": s["documents"] for s in split["shards"]},
        "bits_per_byte": figures,
    }
    write_json(RESULT, value)
    print(RESULT)


def with_copies(urls: set[str]) -> set[str]:
    """The pages of these addresses and those that nearly repeat one of them: deduplication keeps either."""
    everything = pages.load_pages()
    keys = {page.edit_of or page.key for page in everything if page.url in urls}
    return {page.url for page in everything if page.key in keys or page.edit_of in keys}


def bits(walk: Walk, model: Path) -> dict[str, Any]:
    """Bits per byte of one model on the held-out pages."""
    tasks = evaluate(model, TASKS, root=walk.out / "corpus", length=walk.config.length)["tasks"]
    return {task: tasks[task]["bits_per_byte"] for task in TASKS}


if __name__ == "__main__":
    main()

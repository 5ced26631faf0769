"""The speeds that `ja-llm corpus build --dry_run` multiplies with, taken from the result files of other benchmarks.

    python -m benchmarks.plan_speeds

Writes `beam_pipelines/speeds.json`: for each stage its parts in records a second of one core, a record being one that the stage is given.
No figure of it is written by hand; a test holds it to the result files.

debian_docs.json   the whole job on 12,449 pages: seconds of worker time of a stage and of the passes that stand beside it (those of `split`)
minhash.json       `dedup`: all it does at 100,000 documents, seconds by the clock times the workers, the start of their processes included.
                   The job's own timings leave out what Beam takes to start them.
corpus_speed.json  `rapid check`: what `extract` took for a page of the mix, less the extraction of the pages that passed. Reading and decoding
                   the page is part of it, so this is far slower than the check itself (language.json)
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ja_llm.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SPEEDS = ROOT / "beam_pipelines" / "speeds.json"
# Which lines of a job's timings are a stage's; "measure" is what `annotate` was called in the run of debian_docs.json.
_PARTS = {
    "extract": ("extract",),
    "language": ("language",),
    "minhash": ("minhash",),
    "annotate": ("annotate", "measure"),
    "select": ("select",),
    "split": ("heldout", "contained", "split"),
}
_DEDUP_SIZE = "100000"


def speeds(job: dict[str, Any], minhash: dict[str, Any], mix: dict[str, Any]) -> dict[str, Any]:
    """What speeds.json holds.

    Args:
      job: debian_docs.json.
      minhash: minhash.json.
      mix: corpus_speed.json.
    """
    timed = job["corpus_speed"]["stages"]
    parts = {
        stage: {name: timed[name]["documents_per_second"] for name in names if name in timed} for stage, names in _PARTS.items()
    }
    size = minhash["sizes"][_DEDUP_SIZE]
    parts["dedup"] = {"dedup": round(size["documents"] / (size["seconds"]["dedup"] * minhash["config"]["workers"]), 1)}
    parts["rapid check"] = {"rapid check": round(1 / _unextracted(mix), 1)}
    told = f"records a second of one core ({job['hardware']['cpu']}): Debian's documentation; dedup: {int(_DEDUP_SIZE):,} documents; rapid check: {mix['mix']['pages']:,} pages; benchmarks/plan_speeds.py"
    return {"measured": told, "parts": parts}


def _unextracted(value: dict[str, Any]) -> float:
    """Seconds that a page takes which the rapid check drops."""
    a_page = {part: 1 / value[part]["stages_per_second"]["extract"] for part in ("mix", "japanese")}
    passed = value["mix"]["kept_ours"]["extract"] / value["mix"]["pages"]
    return a_page["mix"] - passed * a_page["japanese"]


def main() -> None:
    """Read and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    value = speeds(*(read_json(RESULTS / f"{name}.json") for name in ("debian_docs", "minhash", "corpus_speed")))
    write_json(SPEEDS, value)
    print(json.dumps(value, indent=1))


if __name__ == "__main__":
    main()

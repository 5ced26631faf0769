"""What Llama 3.1 8B and 70B may reach at Swallow's batch on 8, 128 and 512 chips, compiled ahead of time; nothing was measured on a TPU.

    python -m benchmarks.scaling                         # all rows, one after the other
    python -m benchmarks.scaling --only 8b-v5p-128
    python -m benchmarks.scaling --closed_form           # compiles nothing: what is not compiled yet by closed form

Each row goes down its list of (remat policy, microbatches), the least recomputation first, until one fits, without
compiler flags. A row goes into benchmarks/results/scaling.json as soon as it is known, beside the published runs that the
expected time is checked against; the tables of docs/compile.md are written at the end. Needs the libtpu wheel.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks import readme_tables
from benchmarks.compile_table import SWALLOW
from ja_llm.compile import expected
from ja_llm.compile.child import compile_in_child
from ja_llm.compile.closed_form import expected_step
from ja_llm.compile.hardware import parse_topology
from ja_llm.compile.settings import settings
from ja_llm.compile.sweep import line
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
# name -> (topology of a slice, slices, candidates); rows of a slice's chips are its fsdp axis, slices its data axis. A policy that keeps more than a
# chip has is not tried: of 8B "minimal" keeps 19 GiB a row more than "attention", which leaves 4 on 8 chips of v6e.
CASES: dict[str, tuple[str, int, list[tuple[str, int]]]] = {
    "8b-v5e-8": ("v5e:2x4", 1, [("full", 128)]),
    "8b-v5e-128": ("v5e:8x16", 1, [("attention", 8)]),
    "8b-v5e-512": ("v5e:16x16", 2, [("attention", 2)]),
    "8b-v5p-8": ("v5p:2x2x2", 1, [("minimal", 64), ("attention", 64)]),
    "8b-v5p-128": ("v5p:4x4x8", 1, [("minimal", 4), ("attention", 4)]),
    "8b-v5p-512": ("v5p:8x8x8", 1, [("minimal", 1), ("attention", 1)]),
    "8b-v6e-8": ("v6e:2x4", 1, [("attention", 128), ("full", 128)]),
    "8b-v6e-128": ("v6e:8x16", 1, [("minimal", 8), ("attention", 4), ("attention", 8)]),
    "8b-v6e-512": ("v6e:16x16", 2, [("minimal", 2), ("attention", 1), ("attention", 2)]),
    "70b-v5e-128": ("v5e:8x16", 1, [("full", 8)]),
    "70b-v5e-512": ("v5e:16x16", 2, [("full", 2)]),
    "70b-v5p-8": ("v5p:2x2x2", 1, [("full", 128)]),
    "70b-v5p-128": ("v5p:4x4x8", 1, [("attention", 8), ("full", 8)]),
    "70b-v5p-512": ("v5p:8x8x8", 1, [("attention", 2), ("full", 2)]),
    "70b-v6e-8": ("v6e:2x4", 1, [("full", 128)]),
    "70b-v6e-128": ("v6e:8x16", 1, [("full", 8)]),
    "70b-v6e-512": ("v6e:16x16", 2, [("full", 2)]),
}
MODELS = {"8b": "llama31_8b", "70b": "llama31_70b"}


def compiled(name: str) -> list[dict[str, Any]]:
    """What was compiled for a row; the last one fits, or none does."""
    topology, slices, candidates = CASES[name]
    found = []
    for policy, microbatches in candidates:
        found.append(
            compile_in_child(
                [f"models/{MODELS[name.split('-')[0]]}.gin", "runs/pretrain.gin"],
                [*SWALLOW, *([f"DCN_MESH = {{'data': {slices}}}"] if slices > 1 else [])],
                topology,
                vocab_size=128256,
                candidate={"remat_policy": policy, "microbatches": microbatches, "mesh": {"fsdp": -1}},
            )
        )
        print(f"{name}: {line(found[-1])}, compiled in {found[-1]['compile_seconds']:.0f} s", flush=True)
        if found[-1]["fits"]:
            break
    return found


def by_closed_form(name: str) -> dict[str, Any]:
    """The expected step of a row's first candidate without a compiler."""
    topology, slices, candidates = CASES[name]
    policy, microbatches = candidates[0]
    chip, shape = parse_topology(topology)
    files = [f"models/{MODELS[name.split('-')[0]]}.gin", "runs/pretrain.gin"]
    with settings(files, SWALLOW, vocab_size=128256) as run:
        model = dataclasses.replace(run.model, remat_policy=policy)
        size = {"batch_size": run.batch_size, "length": run.length, "microbatches": microbatches}
        found = expected_step(model, chip.platform_name, shape, slices=slices, **size)
    what = {"topology": topology, "chips": slices * math.prod(shape), "remat_policy": policy, "microbatches": microbatches}
    return {**what, "usable_gib": chip.usable_gib, "expected": found}


def main() -> int:
    """Compile the rows; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="rows")
    parser.add_argument("--closed_form", action="store_true", help="compile nothing")
    args = parser.parse_args()
    for name in args.only:
        kept = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
        tried = kept.get(name, {}).get("tried", []) if args.closed_form else compiled(name)
        kept[name] = {"slices": CASES[name][1], "closed_form": by_closed_form(name), "tried": tried}
        ordered = {row: kept[row] for row in CASES if row in kept}
        write_json(RESULTS, {"software": software("jax", "jaxlib", "libtpu"), "published": expected.check(), "rows": ordered})
    readme_tables.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())

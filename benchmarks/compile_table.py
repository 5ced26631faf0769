"""Llama 3.1 8B and 70B at Swallow's batch, compiled ahead of time for TPU slices: what fits, what it executes, what it sends.

    python -m benchmarks.compile_table                        # all cases, one after the other
    python -m benchmarks.compile_table --only 8b-v5e-4

Each case goes down its list of (remat policy, microbatches, mesh), the least recomputation first, until one fits. A case's line goes into
benchmarks/results/compile_table.json as soon as it is known; the table of docs/compile.md is written at the end. Beside each stands its wall time ("seconds"), and
the sum of those that have one at the top. Needs the libtpu wheel.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import readme_tables
from ja_llm.compile.child import compile_in_child
from ja_llm.compile.sweep import line
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software
from ja_llm.sharding import DEFAULT_RULES

RESULTS = Path(__file__).resolve().parent / "results" / "compile_table.json"
SWALLOW = (
    "BATCH_SIZE = 1024",
    "TASK_FEATURE_LENGTHS = {'targets': 8192}",
    "Z_LOSS = 1e-4",
    "config.DecoderConfig.dtype = 'bfloat16'",
)
FSDP = {"fsdp": -1}
# name -> (model, topology, candidates). A policy that keeps more than a chip has is not tried: of one row, the least there is, "minimal" keeps
# 25.6 GiB of 8B's activations (of v5e's 15.75), "attention" 21.5 GiB of 70B's, beside 3 GiB of state and 8 of the head's gradient.
CASES: dict[str, tuple[str, str, list[tuple[str, int, dict[str, int]]]]] = {
    "8b-v5e-4": ("llama31_8b", "v5e:2x2", [("full", 256, FSDP)]),
    "8b-v5e-256": ("llama31_8b", "v5e:16x16", [("attention", 4, FSDP), ("full", 4, FSDP)]),
    "8b-v5p-128": ("llama31_8b", "v5p:4x4x4", [("minimal", 8, FSDP), ("minimal", 16, FSDP)]),
    "8b-v6e-256": ("llama31_8b", "v6e:16x16", [("minimal", 4, FSDP), ("attention", 2, FSDP), ("full", 2, FSDP)]),
    "70b-v5p-512": ("llama31_70b", "v5p:4x8x8", [("attention", 2, FSDP), ("full", 2, FSDP)]),
    "70b-v6e-256": ("llama31_70b", "v6e:16x16", [("full", 4, FSDP)]),
    "8b-v5p-128-wrong-rule": ("llama31_8b", "v5p:4x4x4", [("full", 16, FSDP)]),
}
# The rule that spreads parameters over fsdp is left out: each chip holds all of them.
_WRONG = [rule for rule in DEFAULT_RULES if rule[0] != "embed"]
BINDINGS = {"8b-v5p-128-wrong-rule": (f"LOGICAL_AXIS_RULES = {_WRONG!r}",)}
REFUSED = ("8b-v5e-4", "8b-v5p-128-wrong-rule")
RIGHT = {"8b-v5p-128-wrong-rule": "8b-v5p-128"}  # the case with the same model and slice under the right rules


def compiled(name: str) -> list[dict[str, Any]]:
    """What was compiled for a case; the last one fits, or none does."""
    model, topology, candidates = CASES[name]
    found = []
    for policy, microbatches, mesh in candidates:
        found.append(
            compile_in_child(
                [f"models/{model}.gin", "runs/pretrain.gin"],
                (*SWALLOW, *BINDINGS.get(name, ())),
                topology,
                vocab_size=128256,
                candidate={"remat_policy": policy, "microbatches": microbatches, "mesh": mesh},
            )
        )
        print(f"{name}: {line(found[-1])}, compiled in {found[-1]['compile_seconds']:.0f} s", flush=True)
        if found[-1]["fits"]:
            break
    return found


def bytes_jump(wrong: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether parameters and optimizer of a chip are as many times larger under a wrong rule as it has chips to spread them over.

    Args:
      wrong: result where each chip holds all of them; also of a program that does not fit.
      right: result where they are spread over all chips.
    """
    times = {kind: wrong["gib_per_chip"][kind] / right["gib_per_chip"][kind] for kind in ("parameters", "optimizer")}
    print(
        f"under the wrong rule a chip has {', '.join(f'{times[kind]:.1f} times the {kind}' for kind in times)}; {right['chips']} chips"
    )
    return all(abs(value / right["chips"] - 1) < 0.05 for value in times.values())  # a few small arrays are not spread


def passes(name: str, cases: dict[str, Any]) -> bool:
    """Whether a case of the results is as it must be: fits or not, FLOPs within 1 % of the closed form, bytes of a wrong rule."""
    last = cases[name]["tried"][-1]
    if last["fits"] != (name not in REFUSED):
        return False
    if (right := RIGHT.get(name)) is not None:
        if right not in cases:
            print(f"{name}: nothing to compare with; compile {right} first", file=sys.stderr)
            return False
        return bytes_jump(last, cases[right]["tried"][-1])
    return not last["fits"] or abs(last["flops"]["counted_over_closed_form"] - 1) < 0.01


def main() -> int:
    """Compile the cases; 0 if each is as it must be (`passes`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases")
    args = parser.parse_args()
    good = True
    for name in args.only:
        began = time.monotonic()
        found = compiled(name)
        kept = read_json(RESULTS)["cases"] if RESULTS.exists() else {}
        kept[name] = {"model": CASES[name][0], "seconds": round(time.monotonic() - began, 1), "tried": found}
        ordered = {case: kept[case] for case in CASES if case in kept}
        seconds = round(sum(case.get("seconds", 0.0) for case in ordered.values()), 1)
        write_json(RESULTS, {"software": software("jax", "jaxlib", "libtpu"), "seconds": seconds, "cases": ordered})
        good &= passes(name, ordered)
    print(f"{seconds:.0f} s in all")
    readme_tables.write()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""Every recipe's step, compiled ahead of time for the TPU slices that it names; `ja-llm recipes` reads the results.

    python -m benchmarks.compile_recipes                                  # all whose step has no result yet
    python -m benchmarks.compile_recipes --only swallow_llama31_8b_v02 --again

Each result goes into ja_llm/recipes/compiled.json as soon as it is known; results of steps that no recipe has any more are taken out at the
end. Needs the libtpu wheel.
"""

import argparse
import sys
from typing import Any

from ja_llm.commands.parsing import set_device
from ja_llm.compile.child import compile_in_child
from ja_llm.compile.sweep import line
from ja_llm.files import read_json, write_json
from ja_llm.manifest import software
from ja_llm.recipes import catalogue, compiled


def cases(names: list[str]) -> dict[str, tuple[str, str]]:
    """{key of a step: (the first recipe that has it, topology)}."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        recipe = catalogue.resolve(name)
        for topology in recipe.published.hardware:
            found.setdefault(compiled.key(compiled.on(recipe.step, recipe.published, topology), topology), (name, topology))
    return found


def compile_recipe(name: str, topology: str) -> dict[str, Any]:
    """The result for one recipe on one of its topologies."""
    candidate = catalogue.resolve(name).published.hardware[topology]
    return compile_in_child([catalogue.file_of(name)], (), topology, candidate=candidate)


def main() -> int:
    """Compile; 0 if all fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="recipes")
    parser.add_argument("--again", action="store_true", help="those that have a result, too")
    args = parser.parse_args()
    set_device("cpu")  # libtpu is for the compilation's process
    steps = read_json(compiled.RESULTS)["steps"] if compiled.RESULTS.exists() else {}
    wanted = cases(args.only or catalogue.names())
    for key, (name, topology) in wanted.items():
        if key not in steps or args.again:
            steps[key] = {"compiled_for": name, **compile_recipe(name, topology)}
            print(f"{name} on {topology}: {line(steps[key])}, compiled in {steps[key]['compile_seconds']:.0f} s", flush=True)
            write_json(compiled.RESULTS, {"software": software("jax", "jaxlib", "libtpu"), "steps": steps})
    kept = {key: steps[key] for key in cases(catalogue.names()) if key in steps}
    write_json(compiled.RESULTS, {"software": software("jax", "jaxlib", "libtpu"), "steps": kept})
    return 0 if all(kept[key]["fits"] for key in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())

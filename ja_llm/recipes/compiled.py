"""What the compiler said of the recipes' steps: compiled.json, written by `python -m benchmarks.compile_recipes`.

A result is found by what the step is made of, not by the recipe's name: recipes that share a step share its result, and a recipe
that is changed has none until it is compiled again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ja_llm.compile.settings import Candidate, Settings
from ja_llm.files import read_json, sha256_json
from ja_llm.recipes.published import Published
from ja_llm.train.settings import described

RESULTS = Path(__file__).with_name("compiled.json")


def on(step: Settings, published: Published, topology: str) -> Settings:
    """A recipe's step as it is run on one of the topologies that it names."""
    return step.changed(Candidate(**published.hardware[topology]))


def key(step: Settings, topology: str) -> str:
    """Digest of all that decides the compiled program but its schedule's numbers."""
    return sha256_json(
        {
            "topology": topology,
            "model": step.model.parts(),
            "options": {field.name: described(getattr(step.options, field.name)) for field in dataclasses.fields(step.options)},
            "optimizer": described(step.optimizer),
            "mesh": dict(step.mesh),
            "dcn_mesh": dict(step.dcn_mesh),
            "rules": [list(rule) for rule in step.rules],
            "batch": [step.batch_size, step.length],
        }
    )[:16]


def result(step: Settings, topology: str) -> dict[str, Any] | None:
    """What `ja_llm.compile.aot.compile_step` found for a step; None: it has not been compiled."""
    return read_json(RESULTS)["steps"].get(key(step, topology)) if RESULTS.exists() else None

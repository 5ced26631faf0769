"""Recipes through the TPU's compiler: each fits, and what is stored of it is what the compiler says. One of them with `make test-tpu`, all with `make test-recipes`."""

from typing import Any

import pytest

from benchmarks.compile_recipes import compile_recipe
from ja_llm.recipes import catalogue, compiled

SAMPLE = ("swallow_llama31_8b_v02", "v5p:4x4x4")
# Recipes share steps: each is compiled once.
_FOUND: dict[str, dict[str, Any]] = {}


def check(name, topology):
    pytest.importorskip("libtpu")
    recipe = catalogue.resolve(name)
    step = compiled.on(recipe.step, recipe.published, topology)
    stored, key = compiled.result(step, topology), compiled.key(step, topology)
    assert stored is not None, f"python -m benchmarks.compile_recipes --only {name}"
    if key not in _FOUND:
        _FOUND[key] = compile_recipe(name, topology)
    found = _FOUND[key]
    assert found["fits"], found["gib_per_chip"]
    for key in ("parameters", "mesh", "microbatches", "remat_policy", "batch_size", "length"):
        assert found[key] == stored[key], key
    # Another libtpu may place a program otherwise; a GiB is what would be noticed.
    assert found["gib_per_chip"]["total"] == pytest.approx(stored["gib_per_chip"]["total"], abs=1.0)
    assert found["flops"]["counted_full"] == pytest.approx(stored["flops"]["counted_full"])


@pytest.mark.tpu
@pytest.mark.timeout(900)
def test_the_sample_compiles_as_stored():
    check(*SAMPLE)


@pytest.mark.recipes
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", catalogue.names())
def test_each_recipe_compiles_as_stored(name):
    for topology in catalogue.resolve(name).published.hardware:
        check(name, topology)

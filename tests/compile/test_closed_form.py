"""The expected step by closed form: its products are the traced ones, its links can be reckoned by hand."""

import dataclasses
import json
from pathlib import Path

import pytest

from ja_llm.compile.closed_form import expected_step
from ja_llm.compile.counting import traced_flops
from ja_llm.compile.describe import described
from ja_llm.compile.expected import between_slices
from ja_llm.compile.hardware import CHIPS
from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"batch_size": 16, "length": 32, "microbatches": 2}


@pytest.fixture(scope="module")
def run():
    files, bindings = ["models/tiny_test.gin", "runs/pretrain.gin"], ["TASK_FEATURE_LENGTHS = {'targets': 32}", "BATCH_SIZE = 16"]
    with settings(files, bindings, vocab_size=96) as found:
        yield found


@pytest.mark.parametrize("policy, kept", [("none", 6), ("full", 8)])
def test_products_are_those_of_the_trace(run, policy, kept):
    model = dataclasses.replace(run.model, remat_policy=policy)
    attention = kept * 2 * model.num_layers * model.num_heads * model.head_dim * 32 * (16 * 32)  # the plain product of all pairs
    found = expected_step(model, "v5e", (2, 2), **SHARED)
    assert found["executed_products"] + attention == traced_flops(model, run)


def test_each_microbatch_waits_for_the_gradients_sum(run):
    class FourChips:
        size, shape = 4, {"fsdp": 4}

    parameters = described(run, FourChips, "v5e:2x2", "v5e")["parameters"]
    link, size = CHIPS["v5e"].link_bytes_per_second, {**SHARED, "batch_size": 1024}
    rings = expected_step(run.model, "v5e", (16, 16), **size)
    # Two microbatches, bfloat16, there and back, of 256 chips; both ways along both dimensions.
    assert rings["exposed_bytes"] == pytest.approx(2 * 4 * parameters * 255 / 256)
    assert rings["exposed_seconds"] == pytest.approx(rings["exposed_bytes"] / (4 * link))
    # The ends of 8 are not joined: one way along it, and each part of the sum stays with its chip.
    line = expected_step(run.model, "v5e", (8, 16), **size)
    assert line["exposed_bytes"] == pytest.approx(2 * 2 * parameters * 127 / 128)
    assert line["exposed_seconds"] == pytest.approx(line["exposed_bytes"] / (3 * link))
    two = expected_step(run.model, "v5e", (16, 16), slices=2, **size)
    assert two["exposed_seconds"] == pytest.approx(rings["exposed_seconds"] + 2 * between_slices(parameters / 256, 2, "v5e"))


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_it_is_what_the_compiled_8b_step_gives(chip):
    stored = json.loads((ROOT / "benchmarks/results/compile_table.json").read_text())["cases"][f"8b-{chip}-256"]["tried"][-1]
    with settings(
        ["models/llama31_8b.gin", "runs/pretrain.gin"], ["TASK_FEATURE_LENGTHS = {'targets': 8192}"], vocab_size=128256
    ) as big:
        model = dataclasses.replace(big.model, remat_policy=stored["remat_policy"])
    size = {name: stored[name] for name in ("batch_size", "length", "microbatches")}
    found, compiled = expected_step(model, chip, (16, 16), **size), stored["expected"]
    assert found["executed_products"] == pytest.approx(
        stored["flops"]["executed"] - stored["flops"]["executed_attention"], rel=1e-3
    )
    assert found["attention_seconds"] == pytest.approx(compiled["attention_seconds"], rel=1e-3)
    assert found["step_seconds"] == pytest.approx(compiled["step_seconds"], rel=0.02)


def test_rows_must_divide(run):
    with pytest.raises(UsageError, match="16 rows can't be split over 4 chips in 8"):
        expected_step(run.model, "v5e", (2, 2), batch_size=16, length=32, microbatches=8)


def test_the_committed_scaling_table_is_compiled_and_near_the_closed_form():
    rows = json.loads((ROOT / "benchmarks/results/scaling.json").read_text())["rows"]
    fitting = 0
    for name, row in rows.items():
        assert row["tried"], f"{name} is not compiled"
        found = row["tried"][-1]
        if not found["fits"]:
            continue
        fitting += 1
        assert found["flops"]["counted_over_closed_form"] == pytest.approx(1, abs=0.01)
        assert found["remat_policy"] == row["closed_form"]["remat_policy"]
        assert row["slices"] == 1 or any("data" in traffic["axes"] for traffic in found["collectives"]), (
            f"{name} sends nothing between slices"
        )
        if found["chips"] > 8:  # where gathers and products do not run in one loop
            assert row["closed_form"]["expected"]["step_seconds"] == pytest.approx(found["expected"]["step_seconds"], rel=0.03), (
                name
            )
    assert fitting == 12

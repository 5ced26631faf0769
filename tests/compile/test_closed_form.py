"""The expected step by closed form: its products are the traced ones, its links can be reckoned by hand."""

import dataclasses

import pytest

from ja_llm.compile.closed_form import expected_step
from ja_llm.compile.counting import traced_flops
from ja_llm.compile.describe import described
from ja_llm.compile.expected import between_slices
from ja_llm.compile.hardware import CHIPS
from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError

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


def test_links_carry_each_parameter_three_times_a_microbatch(run):
    class FourChips:
        size, shape = 4, {"fsdp": 4}

    parameters = described(run, FourChips, "v5e:2x2", "v5e")["parameters"]
    found = expected_step(run.model, "v5e", (2, 2), **SHARED)
    assert found["wire_bytes"] == 2 * 6 * parameters * 3 / 4
    assert found["exposed_seconds"] == pytest.approx(found["wire_bytes"] / (2 * CHIPS["v5e"].link_bytes_per_second))
    twice = expected_step(run.model, "v5e", (2, 2), passes=2.0, **SHARED)
    assert twice["wire_bytes"] == 2 * found["wire_bytes"]
    two = expected_step(run.model, "v5e", (2, 2), slices=2, **SHARED)
    assert two["exposed_seconds"] == pytest.approx(found["exposed_seconds"] + 2 * between_slices(parameters / 4, 2, "v5e"))


def test_rows_must_divide(run):
    with pytest.raises(UsageError, match="16 rows can't be split over 4 chips in 8"):
        expected_step(run.model, "v5e", (2, 2), batch_size=16, length=32, microbatches=8)

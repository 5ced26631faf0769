"""A run lowered for GPUs that are not here: its kernels, its state's bytes, and what it can't say."""

import dataclasses

import pytest

from ja_llm.compile import report
from ja_llm.compile.aot import compile_step
from ja_llm.compile.gpu import lower_step
from ja_llm.compile.hardware import GPUS, parse_gpus
from ja_llm.compile.run import run, with_flags
from ja_llm.compile.settings import settings
from ja_llm.errors import UsageError
from ja_llm.train.flops import flops_per_token

FILES = ["models/tiny_test.gin", "runs/pretrain.gin"]
BINDINGS = ["TASK_FEATURE_LENGTHS = {'targets': 32}", "BATCH_SIZE = 8", "config.DecoderConfig.remat_policy = 'attention'"]


@pytest.fixture(scope="module")
def lowered():
    with settings(FILES, [*BINDINGS, "MESH = {'fsdp': -1}", "DCN_MESH = {'data': 2}"], vocab_size=96) as run:
        return compile_step(run, "h100:2x2"), flops_per_token(run.model, 32) * 8 * 32


def test_kernels_of_each_pass_and_state_of_each_gpu(lowered):
    found, flops = lowered
    assert found["attention"] == "triton"
    assert found["kernels"] >= 3  # forward, two backward; one that XLA will find unused may stand there, too
    assert (found["chips"], found["mesh"]) == (4, {"data": 2, "fsdp": 2})
    assert found["gib_per_chip"]["parameters"] * 2**30 == 4 * found["parameters"] / 2  # float32, spread over the 2 of fsdp
    assert found["gib_per_chip"]["optimizer"] == pytest.approx(2 * found["gib_per_chip"]["parameters"], rel=1e-3)
    assert found["flops"]["model_causal"] == flops and found["flops"]["counted_over_closed_form"] == pytest.approx(1, abs=0.01)


def test_what_only_a_compiler_knows_is_not_said(lowered):
    found, _ = lowered
    assert found["fits"] is None and "time" not in found and "temporaries" not in found["gib_per_chip"]
    said = report.text(found)
    assert "not compiled: that needs a GPU" in said and "whether it fits is not known" in said
    (line,) = [line for line in said.splitlines() if "GiB a GPU, exactly" in line]
    known, _, unknown = line.partition(";")
    assert all(f"{kind} {found['gib_per_chip'][kind]:.2f}" in known for kind in ("parameters", "optimizer", "batch"))
    assert "activations" in unknown and "not known" in unknown and "activations" not in found["gib_per_chip"]


def test_a_state_that_is_too_large_does_not_fit():
    with settings(FILES, BINDINGS, vocab_size=96) as run:
        found = lower_step(run, dataclasses.replace(GPUS["h100"], gib=1e-6), 1, 1)
    assert found["fits"] is False and found["spare_gib"] < 0
    assert "does not fit" in report.text(found)


def test_gpus_are_machines_times_gpus():
    assert parse_gpus("a100-40:16x8") == (GPUS["a100-40"], 16, 8) and parse_gpus("v5p:4x4x4") is None
    with pytest.raises(UsageError, match="h100:16x8"):
        parse_gpus("h100:128")
    with pytest.raises(UsageError, match="leave out --sweep"):
        run(FILES, BINDINGS, "h100:1x2", microbatches=[1, 2])
    with pytest.raises(UsageError, match="--hlo"):
        run(FILES, BINDINGS, "h100:1x2", dump="step.hlo")


def test_flags_of_launch_come_when_asked_for():
    given = {"xla_tpu_scoped_vmem_limit_kib": "81920"}
    assert with_flags("v6e:16x16", given, recommended=True) == {**with_flags("v6e:16x16", {}, recommended=True), **given}
    assert with_flags("v6e:16x16", {}, recommended=True)["xla_enable_async_all_gather"] == "true"
    assert with_flags("v6e:16x16", given, recommended=False) == given
    with pytest.raises(UsageError, match="leave it out"):
        with_flags("h100:1x8", {}, recommended=True)

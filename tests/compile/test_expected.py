"""The published runs, and how far their prediction is off; the parts that an expected step is made of."""

import pytest

from ja_llm.compile import expected
from ja_llm.compile.hardware import CHIPS
from ja_llm.gin_utils import parsed
from ja_llm.train.flops import PEAK_TFLOPS, flops_per_token, matmul_weights

RUNS = {(run.name, run.chip, run.slices): run for run in expected.PUBLISHED}


def test_published_runs_count_flops_as_the_trainer_does():
    import gin

    with parsed(["models/llama31_8b.gin"], [], ""):
        model = gin.query_parameter("%MODEL").scoped_configurable_fn(vocab_size=128256)
    run = RUNS["Llama 3.1 8B", "v6e", 1]
    assert run.model_flops(causal=True) == flops_per_token(model, 8192)
    assert run.model_flops(causal=False) == flops_per_token(model, 8192, causal=False)
    assert run.parameters() == pytest.approx(8_030_261_248, rel=1e-4)  # but for the norms
    assert run.products() - 6 * matmul_weights(model) == 2 * 32 * 2 * 4096 * 14336  # gate and up once more
    assert run.attention() == 32 * 2 * 32 * 128 * 8192 * 4.5


def test_the_pace_of_a_generation_is_what_its_run_says_and_the_others_errors_are_known():
    assert {run.chip for run in expected.PUBLISHED if run.sets} == set(expected.ACHIEVED) == set(CHIPS)
    for run in expected.PUBLISHED:
        if run.sets:
            assert run.share() == pytest.approx(expected.ACHIEVED[run.chip].products, rel=2e-3)
            assert run.predicted(run.share()) == pytest.approx(run.tokens_per_second)
    errors = {(row["run"], row["chip"], row["slices"]): row["error"] for row in expected.check() if not row["sets"]}
    assert all(abs(error) < 0.1 for (name, *_), error in errors.items() if "405B" not in name)
    # One row a chip: its links do not hide, as is assumed of a published run's.
    assert 0.25 < errors["Llama 3.1 405B", "v6e", 1] < 0.4


def test_peaks_are_those_of_mfu():
    kinds = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6"}
    for name, speeds in expected.ACHIEVED.items():
        assert speeds.peak == dict(PEAK_TFLOPS)[kinds[name]] * 1e12
        assert 0 < speeds.attention_flops(8192) < speeds.peak


def test_attentions_speed_lies_between_its_records():
    speeds = expected.ACHIEVED["v5p"]
    assert speeds.attention_flops(4096) == 222e12
    assert 222e12 < speeds.attention_flops(6000) < 286e12
    assert speeds.attention_flops(512) == 163e12 and speeds.attention_flops(10**6) == 343e12


def test_a_gradient_between_slices_goes_over_the_data_center_network():
    # 16B over 256 chips: 62.5M parameters of 4 bytes, twice; two slices exchange half of that at 25 Gbps a chip.
    assert expected.between_slices(16e9 / 256, 2, "v5e") == pytest.approx(4 * 62.5e6 / 3.125e9)
    assert expected.between_slices(1.0, 1, "v5e") == 0


def test_a_step_is_products_attention_and_exposed_links():
    found = expected.step_seconds("v6e", 8192, 918e12 * expected.ACHIEVED["v6e"].products, 0.25, 0.5)
    assert found["products_seconds"] == pytest.approx(1) and found["step_seconds"] == pytest.approx(1.75)

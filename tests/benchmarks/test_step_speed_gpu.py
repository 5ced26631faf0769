"""The GPU step benchmark where there is no GPU: it refuses, its code path runs on a tiny shape, its figures follow from the times."""

import json

import pytest

from benchmarks import step_speed_gpu
from ja_llm.errors import JaLlmError
from ja_llm.models.decoder import abstract_params
from ja_llm.train import flops


def test_without_a_gpu_it_refuses_in_a_sentence(capsys):
    assert step_speed_gpu.main([]) == 2
    err = capsys.readouterr().err
    assert "this measures a GPU, and JAX sees only 'cpu' here" in err and len(err.strip().splitlines()) == 1
    assert step_speed_gpu.main(["--dry_run", "--only", "9b"]) == 2
    assert "--only 9b names no shape; there are 1b, 8b_layers" in capsys.readouterr().err


@pytest.mark.slow  # both sides compile
def test_both_sides_run_dry_with_the_same_parameters(capsys, monkeypatch):
    found = []
    measured = step_speed_gpu.measure
    monkeypatch.setattr(step_speed_gpu, "measure", lambda *arguments: found.append(measured(*arguments)) or found[-1])
    assert step_speed_gpu.main(["--dry_run", "--repeats", "2"], run=step_speed_gpu.work) == 0
    (row,) = found
    assert row["ours"]["parameters"] == row["peer"]["parameters"] > 0
    assert all(len(row[who]["wall_seconds"]) == 2 for who in ("ours", "peer"))
    assert "tiny       2 x    64  ours" in capsys.readouterr().out


def test_medians_of_all_rounds_and_mfu_of_the_stated_peak(monkeypatch):
    """8B's layers: 6 FLOPs a weight of 4 layers and the head, and causal attention (by hand from the published shape)."""
    times = iter([[4.0, 1.0], [3.0], [2.0, 9.0], [5.0]])
    case = {"model": "llama31_8b", "layers": 4, "vocab": 128_256, "remat": "none", "rows": 2, "length": 8192}
    row = step_speed_gpu.measure(case, 2, 1e15, lambda case: {"wall_seconds": next(times), "ready_seconds": 0.0})
    assert (row["ours"]["median_seconds"], row["peer"]["median_seconds"]) == (3.0, 4.0)
    layer = 4096 * 128 * (32 + 8 + 8 + 32) + 3 * 4096 * 14336
    by_hand = 6 * (4 * layer + 4096 * 128_256) + 4 * 6 * 4096 * 8192
    assert row["flops_per_token"] == by_hand
    assert row["ours"]["mfu"] == pytest.approx(by_hand * 16384 / 3 / 1e15) and step_speed_gpu.ratio(row) == pytest.approx(4 / 3)
    config = step_speed_gpu.decoder_config({**case, "layers": None})
    assert config.num_layers == 32 and config.dtype == "bfloat16" and flops.CONVENTION.startswith("causal")
    assert abstract_params(config)["layers"]["mlp"]["wo"]["kernel"].shape == (32, 14336, 4096)


def test_a_side_that_fails_is_named_and_the_other_measured(capsys, monkeypatch):
    def run(case):
        if case["who"] == "peer":
            raise JaLlmError("CUDA out of memory.")
        return {"wall_seconds": [1.0], "ready_seconds": 2.0}

    assert step_speed_gpu.main(["--dry_run"], run=run) == 1
    out = capsys.readouterr().out
    assert "peer: CUDA out of memory." in out and "128 tokens/s" in out
    monkeypatch.setattr(step_speed_gpu.sys, "executable", "/bin/false")
    with pytest.raises(JaLlmError, match="it ended with code 1"):
        step_speed_gpu.in_child(json.loads("{}"))

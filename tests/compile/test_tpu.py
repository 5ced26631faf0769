"""With libtpu: a small run for a slice of four chips, and one that is refused, through the command's own functions."""

import importlib.util
import json

import pytest

from ja_llm.compile.child import compile_in_child
from ja_llm.compile.run import run
from ja_llm.errors import UsageError
from ja_llm.train.flops import PEAK_TFLOPS

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the libtpu wheel: the extra tpu"),
]
FILES = ["models/tiny_test.gin", "runs/pretrain.gin"]
BINDINGS = [
    "TASK_FEATURE_LENGTHS = {'targets': 256}",
    "BATCH_SIZE = 8",
    "MESH = {'fsdp': -1}",
    "config.DecoderConfig.max_length = 256",
    "config.DecoderConfig.head_dim = 128",
    "config.DecoderConfig.dtype = 'bfloat16'",
]


def test_a_step_that_fits_is_told_in_full(tmp_path, capsys):
    out, program = tmp_path / "found.json", tmp_path / "step.hlo"
    assert run(FILES, BINDINGS, "v5e:2x2", vocab_size=96, microbatches=[1, 2], out=str(out), dump=str(program)) == 0
    (found,) = json.loads(out.read_text())["results"]  # one microbatch fits, so two are not tried
    memory = found["gib_per_chip"]
    kinds = [size for kind, size in memory.items() if kind not in ("total", "usable")]
    assert sum(kinds) == pytest.approx(memory["total"], rel=0.01) and memory["usable"] == 15.75
    assert found["flops"]["counted_over_closed_form"] == pytest.approx(1, abs=0.01)
    assert 0 < found["time"]["mfu_causal"] < 1  # small arrays, so memory's bandwidth bounds it, which "expected" leaves out
    exposed = sum(c["exposed_seconds"] for c in found["collectives"])
    assert found["expected"]["exposed_seconds"] == pytest.approx(exposed) and exposed > 0
    # Products by FLOPs alone can't be faster than the chip's peak.
    products = found["flops"]["executed"] - found["flops"]["executed_attention"]
    assert found["expected"]["products_seconds"] >= products / found["chips"] / (dict(PEAK_TFLOPS)["TPU v5 lite"] * 1e12)
    assert {c["axes"] for c in found["collectives"]} == {"fsdp"}
    assert program.read_text().startswith("HloModule") and "MICROBATCHES = 1" in capsys.readouterr().out


def test_two_slices_send_over_the_network_between_them():
    found = compile_in_child(FILES, [*BINDINGS, "DCN_MESH = {'data': 2}"], "v5e:2x2", vocab_size=96)
    assert found["chips"] == 8 and any("data" in c["axes"] for c in found["collectives"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"fsdp": 2, "expert": 2}, {"fsdp": 2, "tensor": 2}])
def test_experts_compute_the_tokens_that_chose_them(axes):
    """One of eight experts a token: all experts would execute more than four times the model's products, tiles that are not full add a few percent."""
    more = ["TASK_FEATURE_LENGTHS = {'targets': 16384}", f"MESH = {axes}", "LOSS = 'logits'"]
    model = ["max_length = 16384", "num_heads = 2", "num_kv_heads = 2", "num_experts = 8", "mlp_dim = 4096"]
    bindings = [*BINDINGS, *more, *(f"config.DecoderConfig.{value}" for value in model)]
    found = compile_in_child(FILES, bindings, "v5e:2x2", vocab_size=96)
    flops = found["flops"]
    assert flops["counted_over_closed_form"] == pytest.approx(1, abs=0.01)
    # The closed forms differ by half of attention. What is not spread over experts each device along their axis does by itself: a fifth.
    products = flops["model_full"] - 2 * (flops["model_full"] - flops["model_causal"])
    assert 1 < (flops["executed"] - flops["executed_attention"]) / products < (1.3 if "expert" in axes else 1.1)
    # A gather goes on beside the tiles' products and is counted once, not with each tile.
    gathered = sum(c["count"] for c in found["collectives"] if c["kind"] == "all-gather")
    assert 0 < gathered < 100


def test_a_shape_that_nobody_offers_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match="--topology v5e:3x5 can't be compiled for"):
        compile_in_child(FILES, BINDINGS, "v5e:3x5", vocab_size=96)

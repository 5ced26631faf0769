"""Memory that runs out: the message names the cheapest change that fits, and the other processes are told before it is looked for."""

import types

import pytest

from ja_llm.errors import JaLlmError
from ja_llm.models.config import REMAT_POLICIES, DecoderConfig
from ja_llm.train import failures, memory, session
from ja_llm.train.step import StepOptions

MODEL = DecoderConfig(
    vocab_size=512, embed_dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8, max_length=8, scan_layers=False
)


class Compiled:
    """A compiled step that needs `size` bytes."""

    def __init__(self, size):
        self._size = size

    def memory_analysis(self):
        fields = {
            "argument_size_in_bytes": 0,
            "output_size_in_bytes": 0,
            "alias_size_in_bytes": 0,
            "temp_size_in_bytes": self._size,
        }
        return type("Analysis", (), fields)()


def test_out_of_memory_names_the_cheapest_change_that_fits():
    tried = []

    def compile_step(model, options):
        tried.append((model.remat_policy, options.microbatches))
        return Compiled({"none": 800, "minimal": 400, "attention": 300, "full": 200}[model.remat_policy] // options.microbatches)

    def said(limit):
        return str(memory.explain(compile_step, MODEL, StepOptions(), 4, limit, 800))

    assert "remat_policy = 'minimal' would fit" in said(500)
    assert tried == [("minimal", 1)]
    assert "remat_policy = 'attention' would fit" in said(300)
    assert "remat_policy = 'full' would fit" in said(200)
    assert set(memory.LADDER) == set(REMAT_POLICIES)
    assert "remat_policy = 'full' and MICROBATCHES = 2 would fit" in said(100)
    assert "remat_policy = 'full' and MICROBATCHES = 4 would fit" in said(50)
    assert "at least 3 times as many devices" in said(20)
    assert "raise MICROBATCHES" in said(None)
    assert memory.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")) and not memory.is_out_of_memory(
        ValueError("x")
    )


def test_the_other_processes_are_told_before_what_would_fit_is_looked_for(monkeypatch):
    """It takes minutes of compiling, in which their watchdogs would ask for a restart that meets the same."""
    order = []

    def compile_step(model, options):
        order.append("compiles")
        return Compiled(50)

    monkeypatch.setattr(memory, "device_bytes", lambda: 100)
    monkeypatch.setattr(failures, "post", lambda error, stays=0.0: order.append((str(error), stays)))
    with (
        pytest.raises(JaLlmError, match="remat_policy = 'minimal' would fit"),
        session._in_sentences(types.SimpleNamespace(current="step"), compile_step, MODEL, StepOptions(), 4),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
    (general, stays), *rest = order
    assert "the step does not fit" in general and "raise MICROBATCHES" in general and stays >= 600
    assert rest[0] == "compiles" and "would fit" in rest[-1][0]

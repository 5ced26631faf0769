"""The kernels, forward and backward, compile ahead of time for TPUs that are not there.

What is stored was compiled by libtpu (pytest -m tpu compiles it again; needs the wheel). Without libtpu they are lowered to Mosaic: that
refuses layouts and operations that a TPU has not, which the interpreter computes.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import attention_aot
from benchmarks.attention_aot import LOSS, RESULTS
from ja_llm.attention import attention
from ja_llm.errors import UsageError

GENERATIONS = ("v5e", "v5p", "v6e", "tpu7x")


@pytest.mark.parametrize(
    ("width", "dtype"), [(64, "bfloat16"), (80, "bfloat16"), (96, "float32"), (128, "bfloat16"), (256, "bfloat16")]
)
def test_kernels_lower_for_a_tpu_without_one(width, dtype):
    from jax.sharding import AbstractDevice, AbstractMesh

    shape = lambda heads: jax.ShapeDtypeStruct((1, 4096, heads, width), dtype)  # noqa: E731
    device = AbstractDevice(device_kind="TPU v5p", num_cores=1, platform="tpu")
    loss = lambda q, k, v: attention(q, k, v, window=100, softcap=5.0).astype(jnp.float32).sum()  # noqa: E731
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(shape(4), shape(2), shape(2))
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3


def test_only_an_unknown_topology_is_left_out(monkeypatch):
    from jax.experimental import topologies

    def failing(message):
        def get(**options):
            raise RuntimeError(message)

        monkeypatch.setattr(topologies, "get_topology_desc", get)

    failing("INVALID_ARGUMENT: Invalid TPU external name: TPU v9z")
    assert attention_aot.devices("v9z:2x2") is None
    failing("ABORTED: Internal error when accessing libtpu multi-process lockfile.")
    with pytest.raises(UsageError, match="v5p:2x2x1 can't be compiled for: ABORTED.*lockfile.*no other process"):
        attention_aot.devices("v5p:2x2x1")


def test_a_line_takes_the_place_of_its_own_case_alone(tmp_path):
    line = {"tpu": "v5p", "what": "attention", "length": 4096, "width": 64}
    for row in (line | {"ok": False}, line | {"tpu": "v5e"}, {"tpu": "v5p", "what": "loss"}, line | {"ok": True}):
        attention_aot.merge(tmp_path / "aot.json", row, {})
    found = json.loads((tmp_path / "aot.json").read_text())["results"]
    assert [(r["tpu"], r["what"], r.get("ok")) for r in found] == [
        ("v5e", "attention", None),
        ("v5p", "attention", True),
        ("v5p", "loss", None),
    ]


@pytest.mark.tpu
@pytest.mark.timeout(1800)
def test_every_length_and_width_compiles_for_every_generation(tmp_path):
    pytest.importorskip("libtpu")
    output = tmp_path / "aot.json"
    command = [sys.executable, "-m", "benchmarks.attention_aot", "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    check(json.loads(output.read_text())["results"])


def test_what_is_stored_compiled():
    check(json.loads(RESULTS.read_text())["results"])


def check(rows):
    """Every generation, length and width, all three kernels, memory that grows with the length; for the loss less than 2.5 GB beside
    arguments and gradients, where logits in float32 alone are 17 GB. For TPU7x XLA lays both gradients out twice (1.34 GB more, at any slab)."""
    assert all(row["ok"] for row in rows), rows
    kernels = [row for row in rows if row["what"] == "attention"]
    assert {(r["tpu"], r["length"], r["width"]) for r in kernels} >= {
        (t, s, d) for t in GENERATIONS for s in (4096, 8192, 32768) for d in (64, 128)
    }
    assert all(r["kernels"] == 3 and r["group"] == 4 for r in kernels)
    assert all(r["temp_bytes"] <= 3 * r["argument_bytes"] for r in kernels)
    losses = [row for row in rows if row["what"] == "loss"]
    assert {r["tpu"] for r in losses} == set(GENERATIONS)
    assert all(LOSS.items() <= r.items() for r in losses)
    assert all(r["temp_bytes"] <= (2.5e9 + r["output_bytes"] if r["tpu"] == "tpu7x" else 2.5e9) for r in losses)

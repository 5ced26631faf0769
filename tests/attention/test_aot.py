"""The kernels, forward and backward, compile ahead of time for TPUs that are not there (pytest -m tpu; needs the libtpu wheel)."""

import json
import subprocess
import sys

import pytest

from benchmarks.attention_aot import RESULTS, TOPOLOGIES


@pytest.mark.tpu
@pytest.mark.timeout(1800)
def test_every_length_and_width_compiles_for_every_generation(tmp_path):
    pytest.importorskip("libtpu")
    output = tmp_path / "aot.json"
    command = [sys.executable, "-m", "benchmarks.attention_aot", "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(output.read_text())["results"]
    check(found)
    kernels = {(r["tpu"], r["length"], r["width"]) for r in found if r["what"] == "attention"}
    assert kernels >= {(t, s, d) for t in ("v5e", "v5p", "v6e") for s in (4096, 8192, 32768) for d in (64, 128)}
    assert {r["tpu"] for r in found if r["what"] == "loss"} >= {"v5p", "v6e"}


def test_what_is_stored_compiled():
    check(json.loads(RESULTS.read_text())["results"])


def check(rows):
    """All three kernels; for the loss less than 2.5 GB beside arguments and gradients, where logits in float32 alone are 17 GB."""
    assert rows
    for row in rows:
        assert row["ok"] and row["tpu"] in TOPOLOGIES, row
        if row["what"] == "attention":
            assert row["kernels"] == 3 and row["group"] == 4
        else:
            assert row["temp_bytes"] <= 2.5e9

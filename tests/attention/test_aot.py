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
    check(json.loads(output.read_text()))


def test_the_stored_result_names_what_has_to_compile():
    check(json.loads(RESULTS.read_text()))


def check(found):
    kernels = {
        (r["tpu"], r["length"], r["width"])
        for r in found["results"]
        if r["what"] == "attention" and r["ok"] and r["kernels"] == 3
    }
    assert kernels >= {(t, s, d) for t in ("v5e", "v5p", "v6e") for s in (4096, 8192, 32768) for d in (64, 128)}
    assert {t for t, *_ in kernels} <= set(TOPOLOGIES)
    # Beside arguments and gradients: no float32 logits of 17 GB, and less than 2.5 GB of anything.
    losses = {r["tpu"]: r["temp_bytes"] for r in found["results"] if r["what"] == "loss" and r["ok"]}
    assert losses.keys() >= {"v5p", "v6e"} and max(losses.values()) <= 2.5e9

"""The table of tile lengths, and the commands that measure with it."""

import json
import os
import subprocess
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import attention as bench
from benchmarks import attention_sweep as sweep
from benchmarks import gpu_clocks
from ja_llm.attention import block_sizes
from ja_llm.attention.flash import BlockSizes, Tiles, chunk, filled
from ja_llm.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_table():
    """Torn down last: what a test put in the table's place is not what later tests, of other files too, find in the cache."""
    yield
    block_sizes._table.cache_clear()


def test_a_measured_entry_serves_its_device_and_the_next_width(tmp_path, monkeypatch):
    measured = {w: BlockSizes(Tiles(w, w, w, 8, 3), Tiles(1, 2), Tiles(3, 4)) for w in (64, 128)}
    entry = {str(w): {"sizes": block_sizes.to_json(value)} for w, value in measured.items()}
    (tmp_path / "table.json").write_text(json.dumps({"triton": {"NVIDIA H200": entry}}))
    monkeypatch.setattr(block_sizes, "TABLE", tmp_path / "table.json")
    block_sizes._table.cache_clear()
    found = {w: block_sizes.sizes("triton", w, "NVIDIA H200") for w in (40, 64, 80, 256)}
    wider = block_sizes.sizes("triton", 40, "NVIDIA H200", dtype="float32")
    block_sizes._table.cache_clear()
    assert found == {40: measured[64], 64: measured[64], 80: measured[128]} | {256: found[256]} and wider == measured[128]
    assert found[256].forward == Tiles(64, 64, 128, 8, 3), "beyond what was measured: half a tile"
    assert block_sizes.sizes("triton", 64, "another") == block_sizes._UNMEASURED["triton"]
    assert block_sizes.sizes("tpu", 256, "another").forward.queries < block_sizes.sizes("tpu", 128, "another").forward.queries


def test_a_piece_divides_the_row():
    assert [chunk(4096, 512, s) for s in (0, 512, 2048, 3000, 9999)] == [512, 512, 2048, 2048, 4096]
    assert chunk(7 * 128, 128, 512) == 128 and chunk(6 * 128, 128, 512) == 384


def test_the_table_of_the_benchmark_has_a_line_for_each_implementation(capsys):
    shape = bench.Shape(1, 128, 2, 1, 16, 40, "float32")
    rows = {row["implementation"]: row for row in bench.measure(shape, 1, None)}
    assert {"xla", "reference", "tpu", "triton", "cudnn", "splash", "tokamax", *bench.PEERS} == set(rows)
    for name in ("xla", "reference", *bench.PEERS):
        assert max(rows[name]["error"], rows[name]["error_gradients"]) < 1e-5
        assert rows[name]["both"]["share_of_roofline"] > 0 and "of roofline" in bench.line_of(rows[name])
        assert rows[name]["backward_tflops"] > 0 and (rows[name]["temp_bytes"] is None) == (name == "torch sdpa")
    assert "runs on tpu, this platform is cpu" in bench.line_of(rows["tpu"])
    assert not bench.faults(list(rows.values()))
    ids = bench.segment_ids(shape)
    pairs = sum(n * (n + 1) / 2 for n in np.unique(ids, return_counts=True)[1])
    flops, _ = bench.roofline(shape, rows["xla"]["pairs_visible"] * 128 * 129 / 2, False)
    assert flops == pytest.approx(4 * 16 * 2 * pairs)


def test_tiles_visited_are_each_implementations_own():
    shape = bench.Shape(1, 2048, 2, 1, 64, 200, "float32")
    ids = bench.segment_ids(shape)
    found = {name: bench.visited_by(name, shape, ids) for name in ("xla", "triton", "tpu", "splash", "reference", "cudnn")}
    assert found["triton"]["forward"] < found["xla"]["forward"] < found["tpu"]["forward"] < 1
    assert found["splash"] == {"forward": 1.0, "backward": 1.0} and found["cudnn"] is None
    assert found["reference"]["forward"] == pytest.approx(2, rel=1e-3)
    assert 0 < found["triton"]["backward"] < 1


def test_a_wrong_output_or_gradient_is_a_fault_at_any_length(monkeypatch):
    """Some queries are compared; every key and value gets its gradient from these alone, the first and the last of the row too."""
    monkeypatch.setattr(bench, "_CHECKED", 16)
    shape = bench.Shape(2, 70, 2, 1, 16, 30, "float32")
    ids = bench.segment_ids(shape)
    both = bench.ours("xla", ids, False)[1]

    def faults(change):
        errors = bench.errors_of(lambda *arrays: change(list(both(*arrays))), shape, ids)
        row = {"shape": "", "implementation": "xla", "dtype": "float32", "error": errors[0], "error_gradients": errors[1]}
        return [f.split("'s ")[1] for f in bench.faults([row])]

    assert faults(lambda results: results) == []
    for part in range(4):
        found = faults(lambda results, part=part: [x * 1.02 if i == part else x for i, x in enumerate(results)])
        assert found == [f"{'gradients' if part else 'output'} is off by 2.0e-02, more than 1e-05"]
    assert faults(lambda results: [*results[:2], results[2].at[:, 0].multiply(1.5), results[3]])


def test_an_implementation_of_ours_that_fails_is_a_fault_and_a_foreign_one_is_not(monkeypatch):
    def fails():
        raise RuntimeError("no such binary")

    shape = bench.Shape(1, 64, 2, 1, 16, None, "float32")
    monkeypatch.setattr(bench, "candidates", lambda *a: {"xla": fails, "cudnn": fails})
    rows = bench.measure(shape, 1, None)
    assert [row["cannot"] for row in rows] == ["RuntimeError: no such binary"] * 2
    (sentence,) = bench.faults(rows)
    assert "xla does not run: RuntimeError: no such binary" in sentence
    monkeypatch.setattr(bench, "jax_platform", lambda: "gpu")
    refused = {"shape": "", "implementation": "triton", "cannot": "refused"}
    assert bench.faults([refused]) and not bench.faults([refused | {"implementation": "tpu"}])


def test_goals_compare_with_cudnn_on_the_same_rows():
    def row(name, length, mean, forward, both):
        case = {"width": 128, "dtype": "bfloat16", "length": length, "mean": mean, "implementation": name}
        times = {"forward": {"median_ms": forward, "tflops_visible": 1000 / forward}, "both": {"median_ms": both}}
        return case | times | {"backward_tflops": 2500 / (both - forward)}

    rows = [row("triton", 8192, None, 2.5, 10), row("triton", 8192, 1000, 1, 4), row("triton", 32768, 1000, 1, 5)]
    rows += [row("cudnn", 8192, None, 2, 9), row("cudnn", 8192, 1000, 1, 3.5), row("cudnn", 32768, None, 9, 40)]
    found = {g["goal"]: (g["value"], g["met"]) for g in bench.goals(rows)}
    assert list(found.values()) == [(400, True), (pytest.approx(2500 / 7.5), True), (2.25, True), (0.875, False), (8, True)]
    assert [g["met"] for g in bench.goals(rows[1:])][:2] == [False, False], "what was not measured is not met"


def test_an_accelerator_that_jax_does_not_see_is_refused(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(bench, "jax_platform", lambda: "cpu")
    for device, extra in (("/dev/nvidia0", "cuda"), ("/dev/accel0", "tpu")):
        monkeypatch.setattr(bench.Path, "exists", lambda self, device=device: str(self) == device)
        with pytest.raises(UsageError, match=f"this machine has {device}.*EXTRAS={extra}"):
            bench.check_device()
    monkeypatch.setattr(bench, "jax_platform", lambda: "gpu")
    bench.check_device()


def test_make_installs_the_devices_extra():
    made = subprocess.run(
        ["make", "-n", "bench-attention", "EXTRAS=cuda", "VENV=/nowhere"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "'.[dev,cuda]'" in made and "/nowhere/.dev-cuda" in made and "-m benchmarks.attention" in made


def test_the_sweep_goes_on_after_a_step_that_fails_and_names_it_at_the_end(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\necho "$@ $JAX_DISABLE_MOST_OPTIMIZATIONS" >> "$0.log"\ncase "$*" in *--quick*|*_sweep) exit 3;; esac\n'
    )
    python.chmod(0o755)
    (tmp_path / ".dev").touch()
    command = ["make", "sweep-attention", f"VENV={tmp_path}", "EXTRAS="]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    )
    steps = (tmp_path / "bin" / "python.log").read_text().splitlines()
    assert steps[0] == "-m pytest -m gpu tests/attention/test_native.py 0", "as users run it"
    assert [step.split()[1] for step in steps[1:]] == [
        "benchmarks.attention",
        "benchmarks.attention_sweep",
        "benchmarks.attention",
    ]
    assert result.returncode == 2 and "make: these steps failed: " in result.stderr
    assert "--quick" in result.stderr and "attention_sweep" in result.stderr and "-m pytest" not in result.stderr


def test_clocks_are_those_of_a_busy_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    rows = r"210, 1593, 80, 0\n1980, 2619, 500, 97\n1755, 2619, 690, 100\n1800, [N/A], 0, 1\n1830, 26"
    tool.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\nprintf '{rows}'\ntouch {tmp_path}/told\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with gpu_clocks.sampled() as found:
        while not (tmp_path / "told").exists():
            time.sleep(0.01)
    assert found == {
        "samples": 2,
        "sm_mhz": {"least": 1755, "median": 1867.5, "most": 1980},
        "memory_mhz": {"least": 2619, "median": 2619, "most": 2619},
        "watts": {"least": 500, "median": 595, "most": 690},
    }
    assert "clocks.sm,clocks.mem,power.draw,utilization.gpu" in (tmp_path / "asked").read_text()
    with gpu_clocks.sampled(False) as found:
        pass
    assert found == {} and gpu_clocks.summary("") == {"samples": 0}
    monkeypatch.setenv("PATH", "/nowhere")
    with gpu_clocks.sampled() as found:
        pass
    assert found == {"nvidia_smi": "not there"}


def test_the_sweeps_inputs_rotate(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "kernel_step", lambda *a: lambda *given: [np.ones(1)])
    monkeypatch.setattr(sweep, "arguments_of", lambda case, seed=1: [seed])
    monkeypatch.setattr(sweep, "seconds", lambda step, given: seen.extend(given) or 1.0)
    sweep.time_of("forward", None, bench.Shape(1, 16, 1, 1, 16, None, "float32"), [np.ones(1)], 4)
    assert seen == [1, 2, 3, 1]


def test_tiles_of_wider_elements_are_shorter(monkeypatch):
    """float32 takes twice the bytes: a Triton program's keys and values in all stages, with its queries, fit Hopper's 227 KiB."""
    for width in (64, 96, 128, 256):
        for dtype in ("bfloat16", "float32"):
            for tiles in block_sizes.sizes("triton", width, "another", dtype=dtype):
                row = max(16, 1 << (width - 1).bit_length()) * jnp.dtype(dtype).itemsize
                assert (tiles.stages * 2 * tiles.keys + 2 * tiles.queries) * row <= 227 * 1024
                assert min(tiles.queries, tiles.keys) >= 16
    assert block_sizes.sizes("triton", 64, "another", dtype="float32") == block_sizes.sizes("triton", 128, "another")


def test_rows_are_filled_up_so_that_a_stream_goes_in_long_pieces():
    streams = [(512, 4096), (512, 2048)]
    assert [filled(n, 512, streams) for n in (100, 4096, 8192, 32768)] == [512, 4096, 8192, 32768]
    assert filled(8193, 512, streams) == 9216 and [chunk(9216, 512, s) for _, s in streams] == [3072, 1536]
    assert filled(70, 16, [(16, 0)]) == 80


def test_the_sweep_takes_the_fastest_and_leaves_out_what_fails(monkeypatch):
    tried = [Tiles(512, 100), Tiles(128, 128), Tiles(256, 256)]
    times = {128: 2.0, 256: 1.0, 512: 0.1}
    # The last result of the fastest one is wrong: that it is the first candidate, or that another result is right, does not save it.
    made = lambda kernel, plan, ids: lambda *a: [np.ones(3), np.full(3, plan.sizes.forward.keys == 100) + 1.0]  # noqa: E731
    monkeypatch.setattr(sweep, "candidates", lambda *a: tried)
    monkeypatch.setattr(sweep, "kernel_step", made)
    monkeypatch.setattr(sweep, "exact", lambda *a: [np.ones(3), np.ones(3)])
    monkeypatch.setattr(sweep, "arguments_of", lambda *a: [0] * 6)
    current = iter([times[t.queries] for _ in sweep.KERNELS for t in tried[1:] for _ in range(2)])
    monkeypatch.setattr(sweep, "seconds", lambda *a: next(current))
    found = sweep.sweep("xla", 64, 1)
    assert block_sizes.from_json(found["sizes"]) == BlockSizes(*[Tiles(256, 256)] * 3)
    assert {f["left_out"] for f in found["figures"].values()} == {1}, "its numbers are others"

"""The table of tile lengths, and the commands that measure with it."""

import json

import numpy as np
import pytest

from benchmarks import attention as bench
from benchmarks import attention_sweep as sweep
from ja_llm.attention import block_sizes
from ja_llm.attention.flash import BlockSizes, Tiles, chunk


def test_a_measured_entry_serves_its_device_and_the_next_width(tmp_path, monkeypatch):
    measured = {w: BlockSizes(Tiles(w, w, w, 8, 3), Tiles(1, 2), Tiles(3, 4)) for w in (64, 128)}
    entry = {str(w): {"sizes": block_sizes.to_json(value)} for w, value in measured.items()}
    (tmp_path / "table.json").write_text(json.dumps({"triton": {"NVIDIA H200": entry}}))
    monkeypatch.setattr(block_sizes, "TABLE", tmp_path / "table.json")
    block_sizes._table.cache_clear()
    found = {w: block_sizes.sizes("triton", w, "NVIDIA H200") for w in (40, 64, 80, 256)}
    block_sizes._table.cache_clear()
    assert found == {40: measured[64], 64: measured[64], 80: measured[128], 256: measured[128]}
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
        assert (
            rows[name]["error"] < 1e-5
            and rows[name]["both"]["share_of_roofline"] > 0
            and "of roofline" in bench.line_of(rows[name])
        )
    assert "runs on tpu, this platform is cpu" in bench.line_of(rows["tpu"])
    ids = bench.segment_ids(shape)
    pairs = sum(n * (n + 1) / 2 for n in np.unique(ids, return_counts=True)[1])
    flops, _ = bench.roofline(shape, rows["xla"]["pairs_visible"] * 128 * 129 / 2, False)
    assert flops == pytest.approx(4 * 16 * 2 * pairs)


def test_the_sweep_takes_the_fastest_and_leaves_out_what_fails(monkeypatch):
    tried = [Tiles(128, 128), Tiles(256, 256), Tiles(512, 100)]
    times = {128: 2.0, 256: 1.0, 512: 0.1}
    made = lambda kernel, plan, ids: lambda *a: np.full(3, plan.sizes.forward.keys == 100, np.float32) + 1  # noqa: E731
    monkeypatch.setattr(sweep, "candidates", lambda *a: tried)
    monkeypatch.setattr(sweep, "kernel_step", made)
    monkeypatch.setattr(sweep, "inputs", lambda *a: [0] * 4)
    current = iter([times[t.queries] for _ in sweep.KERNELS for t in tried[:2] for _ in range(2)])
    monkeypatch.setattr(sweep, "seconds", lambda *a: next(current))
    found = sweep.sweep("xla", 64, 1)
    assert block_sizes.from_json(found["sizes"]) == BlockSizes(*[Tiles(256, 256)] * 3)
    assert {f["left_out"] for f in found["figures"].values()} == {1}, "its numbers are others"

"""What the process that starts the job holds, by document: docs/corpus.md, "Memory of the launching process"."""

import json
import tracemalloc

import numpy as np
import pytest

from beam_pipelines import buckets, dedup, yields
from beam_pipelines.buckets import EARLIER, LINK, RANK, Tables, tasks
from beam_pipelines.chain import Finished
from beam_pipelines.config import Corpus
from beam_pipelines.workspace import Stage, Unit

N, UNITS, BUCKETS = 200_000, 20, 21


@pytest.mark.parametrize("known, more", [(0, 0), (1, 16)], ids=["new", "all known to an earlier run"])
@pytest.mark.parametrize("rule, most", [("drop_rule", 64), ("union_find", 128)])
def test_the_rules_over_all_documents(tmp_path, monkeypatch, rule, most, known, more):
    """Buckets as MinHash's 20 bands make them, in each of which 30 % of the documents are linked and `known` of all met in an earlier run."""
    monkeypatch.setattr(buckets, "_BLOCK", 1 << 12)  # rows that are read at a time, however many documents there are
    rng = np.random.default_rng(1)
    signed, links = (Stage(name, "0", tmp_path / name) for name in ("minhash", "dedup_links"))
    signed.folder.mkdir()
    links.folder.mkdir()
    ranks = np.zeros(N, RANK)
    ranks["number"], ranks["high"] = np.arange(N) % (N // UNITS), rng.integers(0, 2**63, N)
    units = [f"{k:02d}" for k in range(UNITS)]
    for unit, part in zip(units, np.split(ranks, UNITS), strict=True):
        np.save(signed.folder / f"{unit}.ranks.npy", part)
    tables, wanted = Tables.open(signed, units), {task.key: task for task in tasks(BUCKETS, N)}
    for bucket, key in enumerate(sorted(wanted)):
        rows = np.zeros(3 * N // 10, LINK)
        pairs = np.sort(rng.integers(0, N, (2, len(rows))), axis=0)
        rows["better"], rows["document"] = pairs
        (links.folder / f"{key}.links").write_bytes(rows[pairs[0] < pairs[1]].tobytes())
        met = np.zeros(known * N, EARLIER)
        met["document"] = rng.permutation(N)[: len(met)]
        met["high"], met["low"] = met["document"] + 1, bucket
        (links.folder / f"{key}.earlier").write_bytes(met.tobytes())
    tracemalloc.start()
    decided = dedup.decide(tables, links, wanted, rule)
    dedup._write_verdict(Stage("verdict", "0", tmp_path / "verdict"), tables, decided)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (most + more) * N
    rows = np.concatenate([np.load(tmp_path / "verdict" / f"{unit}.npy") for unit in units])
    assert rows["dropped"].sum() == decided[0].dropped.sum() > 0 and (rows["number"] == ranks["number"]).all()
    better = np.arange(1, N + 1) if known else ranks["high"][decided[0].better]
    assert (rows["high"] == better).all() and not rows["low"].any(), "of an earlier run's documents that of the smallest bucket"


def test_counts_are_held_without_what_belongs_to_documents(tmp_path):
    this = Stage("extract", "0", tmp_path)
    empty = {"samples": {}, "modified_samples": {}}
    this.finish(
        "u", {"kept": {"": [9, 9, 9]}, **empty, **{name: list(range(5000)) for name in ("offsets", "drops", "changed", "placed")}}
    )
    held = yields.read_results(Finished([], [this], {}), [Unit("u", "u", "")], Corpus())
    assert held["extract"][0]["kept"] == {"": [9, 9, 9]} and len(json.dumps(held)) < 200

"""The plan before a run, and the page that tells how to add a stage."""

import argparse
import gzip
import json
import random
import re
import shlex
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from beam_pipelines import chain, corpus, flags, plan, probe, stages
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import load
from beam_pipelines.settings.inputs import Inputs
from benchmarks import plan_speeds
from ja_llm.cli import main
from ja_llm.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def table(rows) -> dict[str, plan.Row]:
    return {row.stage: row for row in rows}


def test_records_flow_through_the_stages_by_published_shares():
    config = load("swallow_v2")
    rows = plan.rows(config, 1_000_000)
    assert [row.stage for row in rows] == [*config.stages, "sink"]
    for before, row in zip(rows, rows[1:], strict=False):
        assert row.records == pytest.approx(before.records * before.kept)
    found = table(rows)
    # 8.3e9 of 254.7e9 pages are Japanese, 1.9e9 of them no duplicates (Swallow v2); v1's filter keeps 24.1 %.
    assert found["language"].kept == pytest.approx(0.0326, abs=1e-4) and found["dedup"].kept == pytest.approx(0.229, abs=1e-3)
    assert found["select"].kept == pytest.approx(0.241, abs=1e-3)
    speeds = plan.speeds()["stages"]
    assert found["extract"].core_hours == pytest.approx(1_000_000 / speeds["extract"] / 3600)
    # 21 hashes of 12 bytes and a rank of 28 for each document that is signed.
    assert found["minhash"].written == pytest.approx(found["minhash"].records * (21 * 12 + 28))
    assert found["sink"].shuffled > 0 and found["sink"].core_hours is None


def test_an_earlier_run_tells_the_shares_and_the_order_is_the_presets():
    like = [{"stage": "select", "in": {"documents": 200}, "kept": {"documents": 50}}]
    rows = table(plan.rows(load("swallow_v1"), 100, like))
    assert (rows["select"].kept, rows["select"].source) == (0.25, "earlier run")
    names = [row.stage for row in plan.rows(load("swallow_v1"), 100)]
    assert names.index("select") < names.index("dedup")


def test_swallow_v2s_size_stands_beside_its_month():
    told = plan.of_swallow_v2(load("swallow_v2"))
    assert "254.7e9 pages" in told and "8.3e9 of them Japanese" in told and "about a month" in told
    signed = next(row for row in plan.rows(load("swallow_v2"), 254.7e9) if row.stage == "minhash")
    assert signed.records == pytest.approx(8.3e9) and f"{signed.core_hours:,.1f}" in told


def test_a_plan_by_hand(monkeypatch):
    """1e6 pages, speeds that make the arithmetic easy; shares of Swallow's tables."""
    easy = dict.fromkeys(("extract", "language", "minhash", "dedup", "annotate", "select", "split", "rapid check"), 100.0)
    monkeypatch.setattr(plan, "speeds", lambda: {"stages": easy, "measured": "by hand"})
    v2, v1 = table(plan.rows(load("swallow_v2"), 1e6)), table(plan.rows(load("swallow_v1"), 1e6))
    # 8.3 of 254.7 pages are Japanese, 1.9 of 8.3 stay, 646,238,066 of 2,686,080,919 pass v1's filter.
    hand = {
        "extract": 1e6,
        "language": 1e6,
        "minhash": 32587.4,
        "dedup": 32587.4,
        "annotate": 7459.76,
        "select": 7459.76,
        "split": 1794.72,
    }
    for name, records in hand.items():
        assert v2[name].records == pytest.approx(records, rel=1e-5)
        assert v2[name].core_hours == pytest.approx(records / 360_000, rel=1e-5)
    # 21 buckets: an index of 24 bytes a document and bucket, a verdict of 28, at most a link of 24 for each dropped document and bucket.
    assert v2["dedup"].written == pytest.approx(32587.4 * (24 * 21 + 28) + (32587.4 - 7459.76) * 24 * 21, rel=1e-5)
    assert v2["extract"].written == pytest.approx(1e6 * (1450 * 2.8 + 200))
    # v1: 185,766,463 of 646,238,066 documents that the filter left are no duplicates, 173,350,375 of them are of good hosts.
    assert v1["dedup"].kept == pytest.approx(0.287458, abs=1e-6) and v1["dedup"].source == "Swallow v1"
    assert v1["minhash"].records == pytest.approx(32587.4 * 0.240588, rel=1e-5)
    assert v1["host_filter"].kept == pytest.approx(0.933163, abs=1e-6)
    # The rapid check passes .967 / .888 pages for a Japanese one, and the language stage brings them back to it.
    assert v1["extract"].records == pytest.approx(32587.4 * 0.967 / 0.888, rel=1e-5)
    assert v1["rapid check"].core_hours == pytest.approx(1e6 / 360_000)
    assert v1["annotate"].records == pytest.approx(32587.4, rel=1e-5)
    bare = plan.rows(load("swallow_v2", ["corpus.Dedup.index = False"]), 1e6)
    assert v2["dedup"].written - table(bare)["dedup"].written == pytest.approx(32587.4 * 24 * 21, rel=1e-5)


def test_a_language_that_is_kept_is_counted():
    """English is 41.70 % of CC-MAIN-2026-04; a look at the raw bytes lets Japanese alone through."""
    both = ["corpus.Corpus.languages = ('ja', 'en')"]
    rows = table(plan.rows(load("swallow_v2", both), 1e6))
    assert rows["minhash"].records == pytest.approx(1e6 * (8.3 / 254.7 + 0.417)) and rows["language"].source == "Common Crawl"
    rows = table(plan.rows(load("swallow_v2", ["corpus.Corpus.languages = ('en',)"]), 1e6))
    assert rows["minhash"].records == pytest.approx(417_000)
    rows = table(plan.rows(load("swallow_v2_rapid", both), 1e6))
    assert rows["minhash"].records == pytest.approx(1e6 * 8.3 / 254.7)
    told = {line.split()[0]: line for line in plan.of_swallow_v2(load("swallow_v2", both)).splitlines() if line[:1].isalpha()}
    assert "44.96% (given)" in told["language"]


def test_v1s_order_at_v2s_size_keeps_v1s_share():
    told = {line.split()[0]: line for line in plan.of_swallow_v2(load("swallow_v1")).splitlines() if line[:1].isalpha()}
    assert "28.75% (Swallow v1)" in told["dedup"]
    told = {line.split()[0]: line for line in plan.of_swallow_v2(load("swallow_v2")).splitlines() if line[:1].isalpha()}
    assert "22.89% (given)" in told["dedup"]


def test_speeds_are_those_of_the_result_files():
    """Every figure follows from a named line of a result file; a stage of several passes counts all of them."""
    results = [
        json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("debian_docs", "minhash", "corpus_speed")
    ]
    job, minhash, mix = results
    held = json.loads((ROOT / "beam_pipelines" / "speeds.json").read_text())
    assert held == plan_speeds.speeds(*results), "python -m benchmarks.plan_speeds"
    seconds = {name: entry["seconds"] for name, entry in job["corpus_speed"]["stages"].items()}
    documents = job["corpus_speed"]["stages"]["split"]["documents"]
    speeds = plan.speeds()["stages"]
    assert speeds["split"] == pytest.approx(documents / (seconds["heldout"] + seconds["contained"] + seconds["split"]), rel=1e-3)
    assert speeds["extract"] == pytest.approx(
        job["corpus_speed"]["stages"]["extract"]["documents"] / seconds["extract"], rel=2e-3
    )
    size = minhash["sizes"]["100000"]
    assert speeds["dedup"] == pytest.approx(100_000 / size["seconds"]["dedup"] / minhash["config"]["workers"], rel=1e-3)
    # What a page that is dropped takes, and a page that passes, make up the mix.
    passed, pages = mix["mix"]["kept_ours"]["extract"], mix["mix"]["pages"]
    a_page = {part: 1 / mix[part]["stages_per_second"]["extract"] for part in ("japanese", "mix")}
    assert pages / speeds["rapid check"] + passed * a_page["japanese"] == pytest.approx(pages * a_page["mix"], rel=1e-3)


def test_pages_are_estimated_from_the_input_itself(web, tmp_path):
    pages = [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i))} for i in range(60)]
    paths = [web.write_warc(tmp_path / f"{n}.warc.gz", pages[n::3]) for n in range(3)]
    found = probe.estimate(paths, Inputs(), probe=10)
    assert found.records == pytest.approx(60, rel=0.1) and "first 30 responses" in found.how and found.crawl and found.html
    (tmp_path / "bad.warc.gz").write_bytes(b"x" * 61_140)
    found = probe.estimate([tmp_path / "bad.warc.gz"], Inputs())
    assert found.records == pytest.approx(2, rel=0.01) and found.how == "at 30.6 kB a page, as in Common Crawl"


def test_records_of_every_format_are_counted(web, tmp_path):
    """By the format's own records: 32 lines of JSON are 32, whatever their size; a large file is counted by its beginning."""
    row = {"text": web.ja_text(1), "url": "http://a.example/"}
    lines = [json.dumps({**row, "n": i}) for i in range(32)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    bulk = [line for i, text in enumerate(lines) for line in (json.dumps({"index": {"_id": i}}), text)]
    (tmp_path / "jawiki-20240101-cirrussearch-content.json.gz").write_bytes(gzip.compress("\n".join(bulk).encode()))
    (tmp_path / "a.xml").write_text("<mediawiki>" + "<page><title>x</title></page>" * 32 + "</mediawiki>")
    (tmp_path / "a.tmx").write_text("<tmx><body>" + '<tu tuid="1"><tuv/></tu>' * 16 + "</body></tmx>")
    (tmp_path / "a.tsv").write_text("one\t一\n" * 16)
    parquet.write_table(pyarrow.Table.from_pylist([row] * 32), tmp_path / "a.parquet")
    (tmp_path / "code").mkdir()
    for i in range(32):
        (tmp_path / "code" / f"{i}.py").write_text("x = 1")
    for name in (
        "a.jsonl",
        "a.jsonl.gz",
        "jawiki-20240101-cirrussearch-content.json.gz",
        "a.xml",
        "a.tmx",
        "a.tsv",
        "a.parquet",
        "code",
    ):
        found = probe.estimate([tmp_path / name], Inputs())
        assert found.records == pytest.approx(32) and not found.crawl and not found.html, name
    both = probe.estimate([tmp_path / "a.jsonl", tmp_path / "a.parquet"], Inputs())
    assert both.records == pytest.approx(64) and "; " in both.how
    noise = random.Random(1)
    (tmp_path / "large.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"text": noise.randbytes(1000).hex()}) + "\n" for _ in range(3000)).encode())
    )
    assert probe.estimate([tmp_path / "large.jsonl.gz"], Inputs()).records == pytest.approx(3000, rel=0.02)
    (tmp_path / "bad.parquet").write_bytes(b"x" * 8000)
    assert "could not be looked at" in probe.estimate([tmp_path / "bad.parquet"], Inputs()).how


def test_shares_of_crawls_are_for_crawls(web, tmp_path):
    rows = table(plan.rows(load("wikipedia"), 1000, crawl=False, html=False))
    assert {row.kept for row in rows.values()} == {1.0} and rows["sink"].records == 1000
    assert rows["extract"].core_hours is None, "the speed is of extracting HTML"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": web.ja_text(i)}) + "\n" for i in range(32)))
    told = corpus.plan([str(tmp_path / "a.jsonl")], tmp_path / "out")
    assert "some 32 records" in told and "Swallow v2" not in told and "about a month" not in told


def test_the_top_share_is_the_one_that_is_bound():
    models = "corpus.Classify.models = {'a': 'a.bin', 'b': 'b.bin'}"
    rows = table(plan.rows(load("swallow_v2_education"), 1e6))
    assert (rows["top_share"].kept, rows["split"].records) == (0.1, pytest.approx(0.1 * rows["top_share"].records))
    rows = table(plan.rows(load("swallow_v2_education", [models, "corpus.TopShare.share = 0.2"]), 1e6, crawl=False))
    assert rows["top_share"].kept == pytest.approx(0.4), "the union of two models' shares is twice as much at most"


def test_dry_run_writes_nothing_and_says_what_a_run_would_take(web, tmp_path):
    path = web.write_warc(tmp_path / "a.warc.gz", [{"url": "http://a.example/", "body": web.html(web.ja_text(1))}])
    told = corpus.plan([str(path)], tmp_path / "out")
    for wanted in ("would read 1 files", "core-hours", "minhash", "min_letters", "about a month"):
        assert wanted in told
    assert not (tmp_path / "out").exists()


def test_v2_with_a_look_at_the_raw_bytes_is_no_longer_extraction_alone():
    plain, rapid = (table(plan.rows(load(name), 254.7e9)) for name in ("swallow_v2", "swallow_v2_rapid"))

    def hours(rows):
        return sum(row.core_hours or 0 for row in rows.values())

    assert plain["extract"].core_hours / hours(plain) > 0.95 and "rapid check" not in plain, "the default extracts every page"
    assert hours(rapid) < hours(plain) / 8 and list(rapid)[1:] == list(plain)


def test_what_a_configuration_leaves_out_is_said():
    told = chain.notices(load("swallow_v1"))
    for name in ("HostFilter.blocklist", "Expressions.lists", "HostFilter.max_named_page_share"):
        assert sum(name in notice for notice in told) == 1
    given = [
        "corpus.Expressions.lists = ('ng.txt',)", "corpus.HostFilter.blocklist = '/lists'", "corpus.HostFilter.max_ng_character_share = .005",
    ]  # fmt: skip
    assert chain.notices(load("swallow_v1", given)) == [] == chain.notices(load("swallow_v2"))
    rapid = chain.notices(
        load("swallow_v2", ["corpus.Extraction.rapid_check = 'kana'", "corpus.Corpus.languages = ('ja', 'en')"])
    )
    assert len(rapid) == 1 and "en in corpus.Corpus.languages" in rapid[0] and chain.notices(load("swallow_v2_rapid")) == []


def test_the_documented_filter_of_ten_lines_works(web, tmp_path, monkeypatch, capsys):
    """The page's own file and its own command, in a folder of a user's; with swallow_v1's host filter to hear a notice."""
    text = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n# filler.py\n(.*?)```", text, re.DOTALL)[1]
    body = code[code.index("def run") : code.index("register(")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10
    (tmp_path / "filler.py").write_text(code, encoding="utf-8")
    block = re.search(r"PYTHONPATH=\. ja-llm (corpus build --module (?:.*\n)+?.*'split'\]\")\n", text)[1]
    command = shlex.split(block.replace("\\\n", " "))
    pages = [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i))} for i in range(5)]
    pages.append({"url": "http://a.example/filler", "body": web.html(web.ja_text(9) + "\nLorem ipsum dolor")})
    web.write_warc(tmp_path / "data" / "warc" / "a.warc.gz", pages)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))
    more = ["--gin_bindings", "corpus.Split.heldout_share = 0.0"]
    assert main([*command, *more]) == 2
    assert "it can't import filler; is its folder in PYTHONPATH" in capsys.readouterr().err
    monkeypatch.syspath_prepend(str(tmp_path))
    place = command.index("--gin_bindings") + 1
    command[place] = command[place].replace("'split'", "'host_filter', 'split'")
    assert main([*command, *more]) == 0
    del sys.modules["filler"]
    assert "note: no block list of hosts is given" in capsys.readouterr().err
    output = tmp_path / "data" / "corpus"
    value = json.loads((output / "manifest.json").read_text())
    row = next(t for t in value["yields"] if t["stage"] == "filler")
    assert {reason: n["documents"] for reason, n in row["dropped"].items()} == {"filler_text": 1}
    assert json.loads((output / "dropped/filler_text.jsonl").read_text())["url"] == "http://a.example/filler"
    assert len(value["notices"]) == 3
    for name in ("card.html", "card.md"):
        assert "No block list of hosts is given" in (output / name).read_text(encoding="utf-8")


def test_a_stage_of_ones_own_takes_no_name_that_there_is(monkeypatch):
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))
    with pytest.raises(UsageError, match="'select' is there already"):
        stages.register(StageSpec("select", version=1, values=lambda config: None, run=lambda *a: {}))
    stages.register(stages.STAGES["select"])
    with pytest.raises(UsageError, match="--module my-stages: give the name of a module"):
        flags.bindings(argparse.Namespace(module=["my-stages"], against=[], bindings=[]))

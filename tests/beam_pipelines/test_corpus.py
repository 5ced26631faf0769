"""The whole job on small WARC files: accounting, determinism, resumption after Ctrl-C, bad input, sentences. SIGKILL: test_crash.py."""

import collections
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_pipelines import corpus, samples, stats, trace
from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.documents import read_documents
from ja_llm.errors import JaLlmError, UsageError

BINDINGS = [
    "corpus.Corpus.languages = ('ja', 'en')",
    "corpus.Extraction.max_bytes = 200000",
    "corpus.Split.heldout_share = 0.3",
    "corpus.Split.split_by = 'document'",
    "corpus.Corpus.shard_bytes = 12000",
]


def build(inputs, output, **more):
    return corpus.build_corpus([str(inputs)], output, gin_bindings=more.pop("bindings", BINDINGS), **more)


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file of the set; timings are no content."""
    files = [p for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts and p.name != "timings.json"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def stage_files(output: Path) -> dict[str, int]:
    return {
        p.relative_to(output).as_posix(): p.stat().st_mtime_ns
        for p in (output / ".work").rglob("*.*")
        if ".progress" not in p.name
    }


@pytest.fixture(scope="module")
def inputs(web, tmp_path_factory):
    """Three WARC files with every kind of page and damage."""
    folder = tmp_path_factory.mktemp("warcs")

    def page(i, text, **more):
        return {"url": f"http://site{i % 3}.example/{i}", "body": web.html(text), **more}

    fields = {"source": "manuals", "licence": "GFDL-1.3", "package": "guide-ja", "version": "2.0"}
    first = [page(i, web.ja_text(i), fields=fields) for i in range(14)]
    first += [page(100 + i, web.en_text(i)) for i in range(8)]
    first += [page(50, "\n".join(web.ja_text(i) for i in range(6, 13)))]  # a one-page edition of the small pages
    second = [page(200 + i, web.ja_text(i), date="2023-01-01T00:00:00Z") for i in range(4)]  # older exact copies
    near = web.ja_text(5).replace("は", "も", 1)
    second += [page(210, near, date="2025-01-01T00:00:00Z")]  # a newer near copy: the older one goes
    second += [page(220, "Diese Anleitung erklärt, wie man das Programm einrichtet und danach benutzt. " * 8)]
    second += [page(221, web.ja_text(30, 2)), page(222, "\n".join(web.ja_text(31).split("\n") * 3))]  # too short; repeats itself
    second += [page(230, "", status="404 Not Found"), page(231, "x", type="application/pdf")]
    second += [
        {"url": "http://b.example/empty", "body": ""},
        {"url": "http://b.example/big", "body": web.html("長い話。" * 100_000)},
    ]
    second += [
        {"url": "http://b.example/sjis", "body": web.html(web.ja_text(40)).encode("cp932"), "type": "text/html; charset=utf-8"}
    ]
    web.write_warc(folder / "a.warc.gz", first)
    web.write_warc(folder / "b.warc.gz", second)
    third = b"".join(web.warc_bytes([page(300 + i, web.ja_text(60 + i)) for i in range(4)]))
    (folder / "c.warc.gz").write_bytes(third[:-100])
    return folder / "*.warc.gz"


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "corpus"
    return output, build(inputs, output)


def test_every_document_is_accounted_for(built, inputs):
    output, value = built
    tables = {t["stage"]: t for t in value["yields"]}
    assert list(tables) == ["extract", "language", "dedup", "select", "split"]
    before = None
    for table in value["yields"]:
        assert table["in"]["documents"] == table["kept"]["documents"] + sum(c["documents"] for c in table["dropped"].values())
        assert before is None or table["in"] == before
        before = table["kept"]
    assert (
        value["totals"]["documents"]
        == before["documents"]
        == sum(len(list(read_documents(output / s["name"]))) for s in value["shards"])
    )
    assert {r: c["documents"] for r, c in tables["extract"]["dropped"].items()} == {
        "content_type": 1, "empty_body": 1, "http_status_404": 1, "too_large": 1, "warc_truncated": 1,
    }  # fmt: skip
    assert tables["extract"]["in"]["documents"] == 23 + 13 + 4
    assert {r: c["documents"] for r, c in tables["language"]["dropped"].items()} == {"language_de": 1}
    assert {r: c["documents"] for r, c in tables["dedup"]["dropped"].items()} == {"duplicate_exact": 4, "duplicate_near": 1}
    assert {r: c["documents"] for r, c in tables["select"]["dropped"].items()} == {
        "ja_letters_low": 1,
        "ja_duplicate_line_share_high": 1,
    }
    assert [(d["input"], d["reason"]) for d in value["damaged"]] == [("c.warc.gz", "warc_truncated")]
    assert value["other_records"] == {"metadata": 14}
    reasons = {r for t in value["yields"] for r in t["dropped"]}
    assert {p.stem for p in (output / "dropped").glob("*.jsonl")} == reasons


def test_documents_and_manifest_keep_the_contract(built, web):
    output, value = built
    assert manifest.read(output, manifest.DOCUMENTS, verify=True) == value
    documents = {}
    for shard in value["shards"]:
        found = list(read_documents(output / shard["name"]))
        assert [d.id for d in found] == sorted(d.id for d in found) and {d.lang for d in found} <= {shard["lang"]}
        assert shard["documents"] == len(found) and shard["characters"] == sum(len(d.text) for d in found)
        assert shard["name"].startswith(f"{shard['lang']}/{shard['split']}-")
        documents |= {d.url: d for d in found}
    assert sum(s["lang"] == "ja" and s["split"] == "train" for s in value["shards"]) > 1
    assert documents["http://site0.example/0"].text == web.ja_text(0), "the newer of two exact copies stays"
    assert "http://site2.example/5" not in documents and "http://site0.example/210" in documents
    assert documents["http://b.example/sjis"].text == web.ja_text(40)
    licences = collections.Counter(d.licence for d in documents.values())
    assert value["licences"] == licences and set(licences) == {"", "GFDL-1.3"}
    assert manifest.fingerprint(value) == manifest.fingerprint({**value, "licences": {}})
    guide = documents["http://site0.example/0"]
    assert (guide.source, guide.licence, json.loads(guide.meta)["package"]) == ("manuals", "GFDL-1.3", "guide-ja")


def test_heldout_text_is_not_in_training_by_brute_force(built):
    output, value = built
    texts = {"train": [], "heldout": []}
    for shard in value["shards"]:
        texts[shard["split"]] += [(d.lang, "".join(d.text.split())) for d in read_documents(output / shard["name"])]
    lengths = {"ja": 13, "en": 40}
    train = {n: {t[i : i + n] for _, t in texts["train"] for i in range(len(t) - n + 1)} for n in lengths.values()}

    def containment(lang, text):
        grams = {text[i : i + lengths[lang]] for i in range(len(text) - lengths[lang] + 1)}
        return len(grams & train[lengths[lang]]) / len(grams)

    assert len(texts["heldout"]) > 2 and all(containment(*item) <= 0.5 for item in texts["heldout"])
    samples = [json.loads(line) for line in (output / "dropped/heldout_contained.jsonl").read_text().splitlines()]
    assert samples and all(s["containment"] > 0.5 for s in samples), "MinHash does not see a small page in a long one; this must"


def test_a_page_past_the_deadline_is_counted_and_sampled(web, tmp_path):
    """A page that takes the extractor longer than the limit; the other one does not."""
    slow = "".join(
        f"<div class='c{i}'><span>短い文{i}です。</span><div><p>別の文{i}でした。</p></div></div>" for i in range(20000)
    )
    pages = [{"url": "http://a.example/slow", "body": f"<html><body>{slow}</body></html>"}]
    pages += [{"url": "http://a.example/text", "body": web.ja_text(1), "type": "text/plain; charset=utf-8"}]
    web.write_warc(tmp_path / "a.warc.gz", pages)
    value = build(
        tmp_path / "a.warc.gz",
        tmp_path / "out",
        bindings=["corpus.Extraction.deadline_s = 0.3", "corpus.Split.heldout_share = 0"],
    )
    extracted = value["yields"][0]
    assert extracted["kept"]["documents"] == 1
    assert {reason: c["documents"] for reason, c in extracted["dropped"].items()} == {"extract_deadline": 1}
    sample = json.loads((tmp_path / "out/dropped/extract_deadline.jsonl").read_text())
    assert sample["url"] == "http://a.example/slow" and sample["stage"] == "extract"


def test_same_bytes_with_two_workers(built, inputs, tmp_path, monkeypatch):
    """Extraction and the GroupByKeys in two processes."""
    monkeypatch.setattr("beam_pipelines.workspace.SHUFFLED_PER_WORKER", 1)
    build(inputs, tmp_path / "two", workers=2)
    assert digest(tmp_path / "two") == digest(built[0])


@pytest.mark.slow
def test_same_bytes_with_two_workers_in_every_stage(built, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("beam_pipelines.workspace.SHUFFLED_PER_WORKER", 1)
    monkeypatch.setattr("beam_pipelines.workspace.DOCUMENTS_PER_WORKER", 1)
    build(inputs, tmp_path / "two", workers=2)
    assert digest(tmp_path / "two") == digest(built[0])


@pytest.mark.slow
def test_same_bytes_with_two_workers_and_stages_over_the_whole_corpus(inputs, tmp_path, monkeypatch):
    """Scores, the share that stays by them, caps, and what documents carry of it."""
    import fasttext

    monkeypatch.setattr("beam_pipelines.workspace.SHUFFLED_PER_WORKER", 1)
    monkeypatch.setattr("beam_pipelines.workspace.DOCUMENTS_PER_WORKER", 1)
    (tmp_path / "text").write_text("__label__pos 春 の\n__label__neg 秋 の\n" * 50)
    fasttext.train_supervised(str(tmp_path / "text"), dim=4, thread=1, verbose=0).save_model(str(tmp_path / "m.bin"))
    order = [
        "extract",
        "language",
        "minhash",
        "dedup",
        "annotate",
        "classify",
        "select",
        "top_share",
        "host_cap",
        "carry",
        "split",
    ]
    more = [*BINDINGS, f"corpus.Corpus.stages = {order}", f"corpus.Classify.models = {{'m': '{tmp_path / 'm.bin'}'}}"]
    more += ["corpus.TopShare.share = 0.7", "corpus.HostCap.max_documents = 6", "corpus.Corpus.carried = ['classify.m']"]
    one = build(inputs, tmp_path / "one", bindings=more)
    build(inputs, tmp_path / "two", bindings=more, workers=2)
    assert digest(tmp_path / "two") == digest(tmp_path / "one")
    reasons = {reason for table in one["yields"] for reason in table["dropped"]}
    assert {"below_top_share", "host_cap"} <= reasons and one["capped_hosts"]
    japanese = [d for s in one["shards"] if s["lang"] == "ja" for d in read_documents(tmp_path / "one" / s["name"])]
    assert len(japanese) > 3 and all(0 <= json.loads(d.meta)["classify.m"] <= 1 for d in japanese)


def test_finished_set_is_verified_and_left_alone(built, inputs, capsys):
    output, value = built
    before, files = digest(output), stage_files(output)
    assert build(inputs, output) == value
    assert "finished before" in capsys.readouterr().err
    assert digest(output) == before and stage_files(output) == files


def test_changed_threshold_repeats_the_selection_only_and_damage_is_mended(built, inputs, capsys):
    output, value = built
    before = stage_files(output)
    capsys.readouterr()
    other = build(inputs, output, bindings=[*BINDINGS, "corpus.JapaneseFilter.min_letters = 20"])
    # No WARC is read and nothing deduplicated: every stage before the selection processed no record.
    processed = json.loads((output / "timings.json").read_text())["processed_in_this_run"]
    assert {name for name, count in processed.items() if count} == {"select", "split"}
    assert {"extract", "language", "minhash", "dedup", "annotate"} == {name for name, count in processed.items() if count == 0}
    assert "records processed in this run: extract 0, language 0, minhash 0, dedup 0" in capsys.readouterr().err
    assert other["totals"]["documents"] > value["totals"]["documents"] and other["config_hash"] != value["config_hash"]
    kept = {name for name, stamp in stage_files(output).items() if before.get(name) == stamp}
    stages = {name.split("/")[1].rsplit("-", 1)[0] for name in kept if name.count("/") > 1}
    assert stages == {
        "extract",
        "language",
        "minhash",
        "dedup",
        "dedup_links",
        "dedup_verdict",
        "dedup_indexing",
        "dedup_index",
        "annotate",
    }
    # Back again, over a shard that somebody cut: the same bytes as at first.
    assert build(inputs, output) == value
    shard = output / value["shards"][0]["name"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert build(inputs, output) == value and shard.read_bytes() == whole


def test_how_many_samples_are_kept_is_no_part_of_the_identity(built, inputs, tmp_path):
    output, value = built
    shutil.copytree(output, tmp_path / "fewer")
    fewer = build(inputs, tmp_path / "fewer", bindings=[*BINDINGS, "corpus.Corpus.samples = 1"])
    assert manifest.fingerprint(fewer) == manifest.fingerprint(value) and fewer["config"] == value["config"]
    assert (value["sampling"]["samples"], fewer["sampling"]["samples"]) == (20, 1)
    counts = [len((folder / "dropped/duplicate_exact.jsonl").read_text().splitlines()) for folder in (output, tmp_path / "fewer")]
    assert counts == [4, 1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_in_one_sentence_and_the_same_command_goes_on(built, inputs, tmp_path, workers):
    """A terminal sends SIGINT to the whole group, so to Beam's workers and the extractors too."""
    output = tmp_path / "stopped"
    command = [
        sys.executable,
        "-m",
        "beam_pipelines.corpus",
        "--input",
        str(inputs),
        "--output",
        str(output),
        "--workers",
        workers,
    ]
    command += [f"--gin_bindings={b}" for b in BINDINGS]
    # A shell without job control starts what is in its background with SIGINT ignored, and so would this child be.
    heard = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **heard)
    end = time.monotonic() + 60
    while not list(output.glob(".work/extract-*/*")) and time.monotonic() < end and child.poll() is None:
        time.sleep(0.002)
    os.killpg(child.pid, signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 1 and "Traceback" not in told, told
    assert "stopped; what was finished is kept, the same command goes on from there" in told
    assert not (output / "manifest.json").exists()
    build(inputs, output)
    assert digest(output) == digest(built[0])


def test_stats_samples_and_trace(built):
    output, value = built
    table = stats.format_yields(value)
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "duplicate_exact" in table and "warc_truncated" in table and "c.warc.gz at " in table
    assert "duplicate_of" in samples.sample(output, ["duplicate_near"])
    with pytest.raises(UsageError, match="duplicate_exact, duplicate_near"):
        samples.sample(output, ["duplicate"])
    told = {line.split()[0]: line.split() for line in stats.format_timings(output).splitlines()[2:-1]}
    timed = json.loads((output / "timings.json").read_text())["stages"]
    signed = next(t["kept"]["documents"] for t in value["yields"] if t["stage"] == "language")
    buckets = value["config"]["minhash"]["bands"] + 1
    # Each pass is there with what it was given: the links of every bucket, the verdict, the index, the shards.
    members = {"dedup_links": buckets * signed, "dedup_verdict": signed, "dedup_indexing": signed, "dedup": signed}
    members["sink"] = value["totals"]["documents"]
    assert {name: timed[name]["documents"] for name in members} == members
    assert all(entry["seconds"] > 0 or entry["documents"] == 0 for entry in timed.values()) and set(members) <= set(told)


def test_samples_of_a_reason_come_without_the_table(built, capsys):
    assert main(["corpus", "stats", str(built[0]), "--dropped", "duplicate_near"]) == 0
    assert capsys.readouterr().out.startswith("dropped: duplicate_near (")
    assert main(["corpus", "stats", str(built[0])]) == 0
    assert "duplicate_near" in capsys.readouterr().out


def test_a_reason_that_does_not_exist_is_one_sentence_with_those_that_do(built, capsys):
    assert main(["corpus", "stats", str(built[0]), "--dropped", "nosuch"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.strip().splitlines()) == 1
    assert "'nosuch'" in told.err and "duplicate_near" in told.err and "warc_truncated" in told.err


def test_trace_tells_every_stage_of_what_was_kept_and_of_what_was_dropped(built, tmp_path):
    output, value = built
    document = next(iter(read_documents(output / value["shards"][0]["name"])))
    told = trace.trace(output, document.id)
    assert document.url in told and json.loads(document.meta)["warc"] in told and document.text[:20] in told
    assert re.findall(r"^(\w+): kept", told, re.MULTILINE) == ["language", "minhash", "dedup", "annotate", "select", "split"]
    assert f"in the set: {value['shards'][0]['name']}, document 0" in told and "words" in told
    sample = json.loads((output / "dropped/duplicate_near.jsonl").read_text().splitlines()[0])
    told = trace.trace(output, sample["url"])
    assert (
        f"dedup: dropped as duplicate_near ({sample['duplicate_of']})" in told and "select:" not in told and sample["id"] in told
    )
    assert re.search(
        r"extract: dropped as empty_body \(b.warc.gz at \d+\); it never became a document",
        trace.trace(output, "http://b.example/empty"),
    )
    with pytest.raises(JaLlmError, match="there is no document"):
        trace.trace(output, "0" * 32)
    with pytest.raises(UsageError, match="32 hex digits, or the URL"):
        trace.trace(output, "abc")
    shutil.copytree(output, tmp_path / "moved", ignore=shutil.ignore_patterns(".work"))
    assert "in the set:" in trace.trace(tmp_path / "moved", document.id)
    with pytest.raises(JaLlmError, match=r"b.example/empty was dropped as empty_body \(.*it never became a document"):
        trace.trace(tmp_path / "moved", "http://b.example/empty")


def test_trace_knows_every_page_that_extraction_dropped(web, tmp_path):
    """Also those that the samples do not show, addresses as they were captured, and records that have none."""
    good = {"url": "http://a.example/good", "body": web.html(web.ja_text(1))}
    pages = [{"url": f"http://a.example/{n}", "body": "", "status": "404 Not Found"} for n in range(40)]
    odd = ["http://me:secret@a.example/gone", "dns:a.example", "http://[a.example/"]
    pages += [{"url": url, "body": "", "status": "410 Gone"} for url in odd]
    again = {"url": "http://a.example/good", "body": "", "status": "500 Oops"}  # captured once more, in vain
    web.write_warc(tmp_path / "in/a.warc.gz", [good, *pages, again])
    output = tmp_path / "out"
    value = build(tmp_path / "in/a.warc.gz", output, bindings=[*BINDINGS, "corpus.Corpus.samples = 2"])
    dropped = value["yields"][0]["dropped"]
    assert {r: c["documents"] for r, c in dropped.items()} == {"http_status_404": 40, "http_status_410": 3, "http_status_500": 1}
    for page in pages:
        assert f"dropped as http_status_{page['status'][:3]} (a.warc.gz at " in trace.trace(output, page["url"])
    told = trace.trace(output, "http://me:secret@a.example/gone")
    assert "secret" not in told and told == trace.trace(output, "http://a.example/gone")
    told = trace.trace(output, "http://someone@a.example/good")
    assert "in the set: " in told and "extract: dropped as http_status_500" in told
    with pytest.raises(JaLlmError, match="no document or page http://a.example/41"):
        trace.trace(output, "http://a.example/41")
    (files,) = (output / ".work").glob("extract-*/*.lost.npy")
    assert files.stat().st_size <= 20 * 44 + 200

    lines = [json.dumps({"text": web.ja_text(2)}), "{", *[json.dumps({"text": ""})] * 5]
    (tmp_path / "in/b.jsonl").write_text("\n".join(lines))
    build(tmp_path / "in/b.jsonl", tmp_path / "lines", bindings=[*BINDINGS, "corpus.Corpus.samples = 2"])
    assert "dropped as bad_json_line (b.jsonl at 2)" in trace.trace(tmp_path / "lines", "b.jsonl:2")
    assert "dropped as empty_text (b.jsonl at 7)" in trace.trace(tmp_path / "lines", "b.jsonl:7")


def test_trace_takes_apart_only_files_that_hold_what_is_looked_for(built, monkeypatch):
    output, value = built
    read = []
    monkeypatch.setattr(trace, "read_documents", lambda path: read.append(path) or read_documents(path))
    shard = next(s for s in value["shards"] if s["documents"] and s["lang"] == "ja")
    document = next(iter(read_documents(output / shard["name"])))
    trace.trace(output, document.id)
    assert [path.parent.name.partition("-")[0] for path in read] == ["extract", "ja"] and read[1] == output / shard["name"]
    read.clear()
    assert document.url in trace.trace(output, document.url) and {path.suffix for path in read} == {".tfrecord"}
    assert 2 <= len(read) < len(value["inputs"]) + len(value["shards"])
    read.clear()
    with pytest.raises(JaLlmError, match="there is no document"):
        trace.trace(output, "0" * 32)
    assert not read


def test_a_run_leaves_a_card_with_histograms_of_what_was_measured(built):
    output, value = built
    counts = json.loads((output / "card.json").read_text())
    filtered = next(t for t in value["yields"] if t["stage"] == "select")
    assert (
        sum(counts["scores"]["ja"]["letters"].values()) + sum(counts["scores"]["en"]["words"].values())
        == filtered["in"]["documents"]
    )
    for lang in ("ja", "en"):
        assert sum(counts["summary"]["lengths"][lang]["characters"].values()) == sum(
            c["documents"] for c in value["totals"][lang].values()
        )
    page = (output / "card.html").read_text(encoding="utf-8")
    assert "min stands at 400" in page and "duplicate_near" in page and "site0.example" in page


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"inputs": []}, "there is no input"),
        ({"inputs": ["nowhere/*.warc.gz"]}, r"nowhere/\*\.warc\.gz: no file matches"),
        ({"inputs": ["nostore://bucket/a.warc.gz"]}, "nostore://bucket/a.warc.gz: Beam has no file system for it here"),
        ({"beam_args": ["--runner=DataflowRunner"]}, "Dataflow's workers do not see this machine's disk"),
        ({"preset": "swallow_v9"}, "there is no such preset; there are .*swallow_v2"),
        ({"gin_bindings": ["corpus.MinHash.bandz = 3"]}, "bandz"),
        ({"gin_bindings": ["corpus.Split.split_by = 'weight'"]}, "'document' or 'group'"),
        (
            {"gin_bindings": ["corpus.JapaneseFilter.min_letters = '400'"]},
            "corpus.JapaneseFilter.min_letters = '400': it must be a number or None; change this binding",
        ),
        ({"gin_bindings": ["corpus.EnglishFilter.max_words = True"]}, "max_words = True: it must be a number or None"),
        ({"gin_bindings": ["corpus.LanguageId.min_han_share = None"]}, "min_han_share = None: it must be a number"),
        ({"gin_bindings": ["corpus.MinHash.bands = 2.5"]}, "bands = 2.5: it must be a whole number"),
        ({"gin_bindings": ["corpus.LanguageId.candidates = 'de'"]}, "candidates = 'de': it must be a list of strings"),
        (
            {"gin_bindings": ["corpus.LanguageId.candidates = ('de', 'xx')"]},
            "'xx': it must be among the languages that py3langid",
        ),
        ({"gin_bindings": ["corpus.LanguageId.candidates = ('ja',)"]}, "at least one language beside 'ja'"),
        ({"beam_args": ["--no_such_option=1"]}, "--no_such_option=1: neither"),
        ({"workers": -1}, "--workers -1"),
    ],
)
def test_wrong_calls_are_refused_in_a_sentence(call, sentence, inputs, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        corpus.build_corpus(call.pop("inputs", [str(inputs)]), tmp_path / "out", **call)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_dry_run_checks_values_too(inputs, tmp_path, capsys):
    from ja_llm.cli import main

    flags = ["--input", str(inputs), "--output", str(tmp_path / "set"), "--dry_run"]
    assert main(["corpus", "build", *flags, "--gin_bindings", "corpus.JapaneseFilter.min_letters = '400'"]) == 2
    assert "corpus.JapaneseFilter.min_letters = '400': it must be a number or None" in capsys.readouterr().err


def test_an_unknown_name_in_a_preset_file_is_one_sentence(inputs, tmp_path, capsys):
    from ja_llm.cli import main

    preset = tmp_path / "mine.gin"
    preset.write_text("corpus.MinHash.bands = 14\ncorpus.JapaneseFilter.min_lettres = 100\n")
    argv = ["corpus", "build", "--input", str(inputs), "--output", str(tmp_path / "set"), "--preset", str(preset)]
    assert main(argv) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and str(preset) in err and "min_lettres" in err
    assert not (tmp_path / "set").exists()


def test_folder_with_something_else_is_left_alone(inputs, tmp_path):
    (tmp_path / "thesis.txt").write_text("draft")
    with pytest.raises(UsageError, match="holds something that the corpus job did not write"):
        build(inputs, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_left_is_no_finished_set(web, tmp_path):
    web.write_warc(tmp_path / "a.warc.gz", [{"url": "http://a.example/", "body": web.html(web.ja_text(1, 2))}])
    with pytest.raises(JaLlmError, match=r"no document is left of 1; most were dropped for ja_letters_low \(1\)"):
        build(tmp_path / "a.warc.gz", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists() and (tmp_path / "out/dropped/ja_letters_low.jsonl").exists()
    (tmp_path / "b.warc.gz").write_bytes(b"")
    with pytest.raises(
        JaLlmError, match=r"the input holds no page and no text \(no record at all\); check that it is what its names say"
    ):
        build(tmp_path / "b.warc.gz", tmp_path / "out2")


@pytest.mark.parametrize("nth", [8, 60])
def test_full_disk_is_a_sentence_and_the_job_goes_on(built, inputs, tmp_path, monkeypatch, nth):
    """The disk fills up at the n-th file, inside a stage and at the end."""
    output, renamed, real = tmp_path / "full", [], os.replace

    def replace(source, target):
        renamed.append(target)
        if len(renamed) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(JaLlmError, match="the disk is full") as error:
        build(inputs, output)
    assert "<<" not in str(error.value) and "\n" not in str(error.value)
    assert not (output / "manifest.json").exists() and not list(output.rglob("*.tmp"))
    monkeypatch.undo()
    build(inputs, output)
    assert digest(output) == digest(built[0])


def test_lost_contents_of_a_stage_are_made_again(built, inputs, tmp_path):
    """As after a power failure: names are there, bytes are not."""
    output = tmp_path / "power"
    build(inputs, output)
    (output / "manifest.json").unlink()
    for stage, ending in (("extract", ".tfrecord"), ("minhash", ".npy"), ("select", ".json")):
        sorted(output.glob(f".work/{stage}-*/*{ending}"))[0].write_bytes(b"")
    build(inputs, output)
    assert digest(output) == digest(built[0])


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(inputs, tmp_path, capsys):
    from ja_llm.cli import main

    flags = ["--input", str(inputs), "--output", str(tmp_path / "set"), "--dry_run"]
    for run in (lambda: main(["corpus", "build", *flags]), lambda: corpus.main(flags)):
        assert run() == 0
        printed = capsys.readouterr().out
        assert "would read 3 files" in printed and "min_hiragana_share" in printed
        assert not list(tmp_path.iterdir())


def test_importing_the_job_loads_no_framework():
    code = "import sys, beam_pipelines.corpus; print([m for m in ('jax', 'tensorflow', 'apache_beam', 'trafilatura') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

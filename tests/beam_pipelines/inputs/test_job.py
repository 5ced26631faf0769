"""Every input gives documents through the same job: presets, accounting, what must not land in a corpus, inputs that change."""

import gzip
import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import corpus, trace
from beam_pipelines.config import load
from beam_pipelines.extract import close_extractor
from beam_pipelines.inputs.files import find_inputs, require_unchanged, units_of
from beam_pipelines.settings.inputs import Inputs
from ja_llm.documents import document_id, read_documents
from ja_llm.errors import JaLlmError, UsageError

NO_HELDOUT = "corpus.Split.heldout_share = 0.0"
SHORT = "corpus.Corpus.stages = ['extract', 'language', 'split']"


def build(pattern, output, *bindings, **more):
    value = corpus.build_corpus([str(pattern)], output, gin_bindings=[NO_HELDOUT, *bindings], **more)
    return value, {s["name"]: list(read_documents(output / s["name"])) for s in value["shards"]}


def extracted(value):
    table = value["yields"][0]
    return {reason: count["documents"] for reason, count in table["dropped"].items()}


def everything(folder):
    """All bytes of a set, work folder and all."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_newest_copy_stays_whatever_its_date_looks_like(web, tmp_path):
    dates = ["2024-1-5", "2024-12-01T00:30:00+09:00", "2024-11-30T23:00:00Z", 1709251200, "soon", None]
    rows = [{"text": web.ja_text(1), "url": f"http://a.example/{i}", "date": date} for i, date in enumerate(dates)]
    rows.append({"text": web.ja_text(2), "url": "http://b.example/", "date": "last week"})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    value, shards = build(
        tmp_path / "a.jsonl", tmp_path / "out", "corpus.Corpus.stages = ['extract', 'language', 'exact_dedup', 'split']"
    )
    documents = {d.url: d for found in shards.values() for d in found}
    assert set(documents) == {"http://a.example/2", "http://b.example/"} and value["unknown_dates"] == {"a.jsonl": 2}
    assert documents["http://b.example/"].date == "" and '"date_stated":"last week"' in documents["http://b.example/"].meta


def test_records_of_all_kinds_of_oddness(web, tmp_path):
    """JSONL, its gz and Parquet twins: the same text is one document; each oddity is counted; nothing secret stays."""
    good = [{"text": web.ja_text(i), "url": f"http://site{i}.example/", "date": "2024-01-01", "id": f"r{i}"} for i in range(4)]
    odd = [
        good[0],  # a duplicate, all fields equal
        {"text": web.ja_text(7), "url": "https://me:hunter2@a.example/7", "id": "r1"},  # another text with an id that is taken
        {"text": "\x00\u200b\n\n \n", "url": "http://empty.example/"},
        {"text": "", "url": "http://empty.example/"},
        {"text": web.ja_text(8) + "\ud800\x00終わり。", "url": "//no-scheme/\ud800", "source": "x\udfffy"},
        {"text": web.ja_text(9), "url": "http://[broken"},
        {"text": "長" * 30_000, "url": "http://u:hunter2@big.example/"},
        {"txt": 1},
    ]
    lines = [json.dumps(r) for r in good + odd] + ["{"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    pq.write_table(
        pa.Table.from_pylist([{"text": web.en_text(i), "url": f"http://en{i}.example/"} for i in range(3)]),
        tmp_path / "in/b.parquet",
    )
    both = "corpus.Corpus.languages = ('ja', 'en')"
    value, shards = build(tmp_path / "in/*", tmp_path / "out", SHORT, both, "corpus.Extraction.max_bytes = 50000")
    documents = {d.url: d for found in shards.values() for d in found}
    assert extracted(value) == {"bad_json_line": 1, "duplicate_id": 1, "empty_text": 2, "text_missing": 1, "too_large": 1}
    assert len(documents) == value["totals"]["documents"] == 4 + 3 + 3
    assert {"https://a.example/7", "//no-scheme/", ""} <= set(documents)
    assert documents["//no-scheme/"].text == web.ja_text(8) + "終わり。" and documents["//no-scheme/"].source == "xy"
    first = documents["http://site0.example/"]
    assert first.id == document_id("web", first.url, "2024-01-01", web.ja_text(0)) and first.lang == "ja"
    assert json.loads(first.meta) == {"id": "r0", "input": "a.jsonl.gz", "place": "line 1"}
    assert b"hunter2" not in everything(tmp_path / "out")
    sample = json.loads((tmp_path / "out/dropped/bad_json_line.jsonl").read_text())
    assert (sample["input"], sample["place"], sample["excerpt"]) == ("a.jsonl.gz", "line 13", "{")


def test_wikipedia_preset(web, tmp_path):
    def page(title, text, ns=0):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        return f"<page><title>{title}</title><ns>{ns}</ns><id>1</id><revision><timestamp>2024-01-01T00:00:00Z</timestamp><text>{escaped}</text></revision></page>"

    body = "<mediawiki xml:lang='ja'><siteinfo><base>https://ja.wikipedia.org/wiki/x</base></siteinfo>"
    articles = [f"'''題{i}'''は[[項目]]。<ref>注</ref>\n{web.ja_text(i)}\n== 脚注 ==\n<references />" for i in range(3)]
    body += (
        "".join(page(f"題{i}", text) for i, text in enumerate(articles))
        + page("ノート", "x", 1)
        + page("図だけ", "[[ファイル:a.jpg]]")
    )
    (tmp_path / "jawiki-pages-articles.xml").write_text(body + page("短", "短い文です。") + "</mediawiki>", encoding="utf-8")
    value, shards = build(tmp_path / "*.xml", tmp_path / "out", preset="wikipedia")
    (documents,) = shards.values()
    assert {d.text for d in documents} == {f"題{i}は項目。\n{web.ja_text(i)}" for i in range(3)}
    assert {(d.source, d.licence, d.lang) for d in documents} == {("wikipedia", "CC-BY-SA-4.0", "ja")}
    assert json.loads(documents[0].meta)["title"].startswith("題")
    assert extracted(value) == {"wiki_namespace": 1, "empty_text": 1}
    close_extractor(load("wikipedia").extraction)


def test_wikitext_that_takes_too_long_is_dropped_alone(web, tmp_path):
    nested = "{{a|" * 40_000
    (tmp_path / "a.xml").write_text(
        f"<mediawiki><page><title>a</title><ns>0</ns><revision><text>{nested}</text></revision></page>"
        f"<page><title>b</title><ns>0</ns><revision><text>{web.ja_text(1)}</text></revision></page></mediawiki>",
        encoding="utf-8",
    )
    value, shards = build(tmp_path / "a.xml", tmp_path / "out", SHORT, "corpus.Extraction.deadline_s = 0.3", preset="wikipedia")
    assert [d.text for found in shards.values() for d in found] == [web.ja_text(1)]
    assert extracted(value) == {"extract_deadline": 1}


def test_code_preset_reads_folders(tmp_path):
    for i in range(3):
        (tmp_path / f"src/repo{i}").mkdir(parents=True)
        (tmp_path / f"src/repo{i}/m.py").write_text(f'def f{i}(x):\r\n    """か\u3099{i}"""\n\n\n\n    return x + {i}   \n')
        (tmp_path / f"src/repo{i}/n.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="needs pylint"):
        build(tmp_path / "src/*", tmp_path / "out", preset="code")
    value, shards = build(tmp_path / "src/*", tmp_path / "out", "corpus.Code.min_pylint_score = None", preset="code")
    (documents,) = shards.values()
    assert [s["name"].partition("/")[0] for s in value["shards"]] == ["code"]
    assert {d.text for d in documents} >= {
        f'def f{i}(x):\n    """か\u3099{i}"""\n\n\n\n    return x + {i}   \n' for i in range(3)
    }, "white space and forms stay"
    assert sum(d.text == "x = 1\n" for d in documents) == 1, "copies in other repositories go"
    again = corpus.build_corpus(
        [str(tmp_path / "src/*")],
        tmp_path / "out",
        preset="code",
        gin_bindings=[NO_HELDOUT, "corpus.Code.min_pylint_score = None"],
    )
    assert again == value
    (tmp_path / "src/repo0/o.py").write_text("y = 2\n")
    value, _ = build(tmp_path / "src/*", tmp_path / "out", "corpus.Code.min_pylint_score = None", preset="code")
    assert value["totals"]["documents"] == 5, "a folder that changed is another input"


def test_more_downloaded_blobs_are_another_input(tmp_path):
    texts = [f"x = {i}\n".encode() for i in range(3)]
    ids = [hashlib.sha1(text).hexdigest() for text in texts]
    rows = [
        {"blob_id": i, "language": "Python", "path": "a.py", "repo_name": f"me/{i}", "detected_licenses": ["MIT"]} for i in ids
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    contents = tmp_path / "blobs"
    bindings = [
        f"corpus.Code.contents = '{contents}'",
        "corpus.Code.min_pylint_score = None",
        "corpus.Corpus.stages = ['extract', 'split']",
    ]
    with pytest.raises(UsageError, match="there is no such folder; name the one that the blobs were downloaded to"):
        build(tmp_path / "a.parquet", tmp_path / "out", *bindings, preset="code")
    contents.mkdir()
    for count in (1, 3):
        for name, text in list(zip(ids, texts, strict=True))[:count]:
            (contents / name).write_bytes(text)
        value, _ = build(tmp_path / "a.parquet", tmp_path / "out", *bindings, preset="code")
        assert value["totals"]["documents"] == count and extracted(value).get("blob_missing", 0) == 3 - count


def test_parallel_preset_keeps_a_pair_on_one_side(web, tmp_path):
    rows = [f"{web.en_text(i, 1)}\t{web.ja_text(i, 1)}" for i in range(40)]
    (tmp_path / "a.tsv").write_text("\n".join([*rows, rows[0], "same\tsame"]), encoding="utf-8")
    value, shards = build(
        tmp_path / "a.tsv",
        tmp_path / "out",
        "corpus.Split.heldout_share = 0.3",
        "corpus.Split.max_containment = None",
        preset="parallel",
    )
    assert extracted(value) == {"duplicate_id": 2, "parallel_identical": 1}
    other = ["corpus.Parallel.languages = ('de', 'ja')", "corpus.Parallel.directions = ('de-ja', 'ja-de')"]
    with pytest.raises(JaLlmError, match=r"most were dropped for language_de-ja \(82\)"):
        build(tmp_path / "a.tsv", tmp_path / "de", *other, preset="parallel")
    sides = {
        split: {json.loads(d.meta)["package"] for name, found in shards.items() for d in found if f"/{split}-" in name}
        for split in ("train", "heldout")
    }
    assert sides["train"] and sides["heldout"] and not sides["train"] & sides["heldout"]
    assert sum(map(len, sides.values())) == 40 and value["totals"]["documents"] == 80


def test_records_without_addresses_stand_on_both_sides(web, tmp_path, capsys):
    """Source mine72 hashes below the share that is held out: as a group it was all of the set."""
    lines = [json.dumps({"text": web.ja_text(i), "source": "mine72", "package": i}) for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(line.replace('"package"', '"other"') for line in lines[:-1]) + f"\n{lines[-1]}")
    share = "corpus.Split.heldout_share = 0.3"
    value, _ = build(tmp_path / "a.jsonl", tmp_path / "out", SHORT, share, "corpus.Fields.keep = ('package',)")
    assert set(value["totals"]["ja"]) == {"train", "heldout"} and "notices" not in value
    assert value["totals"]["ja"]["heldout"]["documents"] < 16
    value, _ = build(tmp_path / "a.jsonl", tmp_path / "few", SHORT, "corpus.Split.heldout_share = 1e-9")
    (notice,) = value["notices"]
    assert "no document of language ja is held out (30 on the other side)" in notice and notice in capsys.readouterr().err


def test_another_input_renames_no_unit_but_its_namesakes(tmp_path):
    """What a unit has done is found by its name: an input more, wherever it lies, must not make all of it anew."""
    paths = [tmp_path / "a" / "2023" / "x.jsonl", tmp_path / "a" / "2023" / "y.jsonl", tmp_path / "b" / "z.jsonl"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    few, entries = units_of(paths[:2])
    more, _ = units_of(paths[::-1])
    assert [entry["name"] for entry in entries] == ["x.jsonl", "y.jsonl"]
    assert {unit.key for unit in few} < {unit.key for unit in more} and more[2].name == "z.jsonl"
    namesake = tmp_path / "a" / "2024" / "x.jsonl"
    namesake.parent.mkdir()
    namesake.write_text("x.jsonl")  # the same content
    units, _ = units_of([namesake, *paths])
    assert [unit.name for unit in units] == ["2023/x.jsonl", "2024/x.jsonl", "y.jsonl", "z.jsonl"]
    assert len({unit.key for unit in units}) == 4 and {unit.key for unit in more[1:]} < {unit.key for unit in units}


def test_one_document_in_two_inputs_stands_in_the_set_once(web, tmp_path):
    """A WARC file given twice, in a chain that deduplicates nothing; with another file whose work is not repeated."""
    pages = [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i))} for i in range(3)]
    first = web.write_warc(tmp_path / "in" / "a.warc.gz", pages)
    out = tmp_path / "out"
    build(first, out, SHORT)
    extract = next((out / ".work").glob("extract-*"))
    done = {path.name: path.stat().st_mtime_ns for path in extract.glob("*.json")}
    (tmp_path / "in" / "copies").mkdir()
    (tmp_path / "in" / "copies" / "b.warc.gz").write_bytes(first.read_bytes())
    value, shards = build(tmp_path / "in/**/*.warc.gz", out, SHORT)
    now = {path.name: path.stat().st_mtime_ns for path in extract.glob("*.json")}
    assert len(now) == 2 and done.items() <= now.items(), "what was extracted before is not extracted again"
    documents = [d for found in shards.values() for d in found]
    assert len(documents) == len({d.id for d in documents}) == 3 == value["totals"]["documents"]
    assert [table["stage"] for table in value["yields"]][-2:] == ["split", "sink"]
    last = value["yields"][-1]
    assert last["in"] == value["yields"][-2]["kept"] and last["kept"]["documents"] == 3
    assert {reason: count["documents"] for reason, count in last["dropped"].items()} == {"duplicate_document": 3}
    samples = [json.loads(line) for line in (out / "dropped/duplicate_document.jsonl").read_text().splitlines()]
    assert {sample["id"] for sample in samples} == {d.id for d in documents}
    assert all({sample["warc"], sample["same_as"]["warc"]} == {"a.warc.gz", "b.warc.gz"} for sample in samples)
    told = trace.trace(out, documents[0].id)
    assert (
        told.count("split: kept") == 2
        and told.count("sink: dropped as duplicate_document") == 1
        and told.count("in the set:") == 1
    )
    assert "duplicate_document" in (out / "card.md").read_text().replace("\\", "")


def test_an_input_that_changes_stops_the_job(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n')
    (unit,), _ = units_of(find_inputs([str(path)], Inputs()))
    require_unchanged(unit)
    os.utime(path, ns=(1, 1))
    require_unchanged(unit)  # another time, the same bytes
    path.write_text('{"text": "y"}\n')
    with pytest.raises(JaLlmError, match="this input changed or went while it was read; wait until nothing writes to it"):
        require_unchanged(unit)
    path.unlink()
    with pytest.raises(JaLlmError, match="changed or went"):
        require_unchanged(unit)


def test_job_meets_the_change(web, tmp_path, monkeypatch):
    """The file grows while it is read: the job ends with the sentence, and the next run reads the new file."""
    from beam_pipelines import extract

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": web.ja_text(1)}) + "\n")
    real = extract.read

    def growing(*args):
        yield from real(*args)
        with open(path, "a") as file:
            file.write(json.dumps({"text": web.ja_text(2)}) + "\n")

    monkeypatch.setattr(extract, "read", growing)
    with pytest.raises(JaLlmError, match="this input changed"):
        build(path, tmp_path / "out", SHORT)
    monkeypatch.undo()
    assert build(path, tmp_path / "out", SHORT)[0]["totals"]["documents"] == 2


def test_inputs_that_cannot_be_meant_are_sentences(tmp_path):
    (tmp_path / "a.dat").write_text("x")
    for pattern, preset, sentence in [
        (tmp_path / "a.dat", "swallow_v2", "its ending says no format that is read"),
        (tmp_path, "swallow_v2", r"this is a folder; name the files in it"),
        (tmp_path / "none*", "wikipedia", "no file matches"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            build(pattern, tmp_path / "out", preset=preset)
    for binding in ("corpus.Inputs.kind = 'wiki'", "corpus.Parallel.directions = ['ja-de']", "corpus.Parallel.columns = (0, 1)", "corpus.Code.languages = 'Python'", "corpus.Fields.text = ''"):  # fmt: skip
        name = binding.split(" =")[0]
        with pytest.raises(UsageError, match=rf"{name} = .*: it must be .*; change this binding"):
            load("swallow_v2", [binding])
    assert not (tmp_path / "out").exists()

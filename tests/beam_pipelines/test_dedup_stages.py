"""The stages url_dedup, exact_dedup, dedup and lines in the chain: who goes and why, cluster sizes, an earlier run's index."""

import json
import re

import pytest

from beam_pipelines.config import load
from beam_pipelines.corpus import build_corpus
from beam_pipelines.lines import line_hash, pieces, without
from beam_pipelines.settings.dedup import LineDedup
from ja_llm.documents import read_documents
from ja_llm.errors import UsageError

SHARED = "この段落はすべての頁の終わりに置かれている案内の文章です。"
LOOSE = [
    "corpus.Split.heldout_share = 0.0",
    "corpus.Dedup.clusters = 'union_find'",
    "corpus.LineDedup.min_characters = 20",
]


def stages(*names):
    return f"corpus.Corpus.stages = {['extract', 'language', *names, 'split']!r}"


@pytest.fixture(scope="module")
def archive(web, tmp_path_factory):
    """Ten pages: 0 to 4 differ, 5 is 0 at another spelling of its URL, 6 is 1's text elsewhere, 7 nearly 2, 8 nearly 7, 9 is one shared line."""
    texts = [web.ja_text(i, 40) + "\n" + SHARED for i in range(5)]
    near = texts[2].replace("ました。", "ませんでした。", 3)
    nearer = near.replace("から", "より", 2)
    short = web.ja_text(99, 2).replace("\n", "") + "\n" + SHARED
    pages = [(f"http://site{i}.example/page", text, "2024-01-01") for i, text in enumerate(texts)]
    pages += [
        ("https://SITE0.example:443/page?utm_source=feed#top", web.ja_text(50, 40), "2024-02-01"),
        ("http://copy.example/1", texts[1], "2024-02-01"),
        ("http://near.example/2", near, "2024-02-01"),
        ("http://nearer.example/2", nearer, "2024-03-01"),
        ("http://short.example/", short, "2023-01-01"),
    ]
    folder = tmp_path_factory.mktemp("archive")
    records = [
        {"url": url, "body": f"<html><title>頁</title><body>{web.html(text)}</body></html>", "date": f"{date}T00:00:00Z"}
        for url, text, date in pages
    ]
    web.write_warc(folder / "a.warc.gz", records[:6])
    web.write_warc(folder / "b.warc.gz", records[6:])
    return folder


def build(archive, output, *names, bindings=(), files="*.warc.gz"):
    value = build_corpus([str(archive / files)], output, gin_bindings=[*LOOSE, stages(*names), *bindings])
    urls = {d.url for s in value["shards"] for d in read_documents(output / s["name"])}
    return urls, {t["stage"]: {k: v["documents"] for k, v in t["dropped"].items()} for t in value["yields"]}


def test_urls_texts_and_near_duplicates_go_for_the_newest(archive, tmp_path):
    names, carried = ("url_dedup", "exact_dedup", "minhash", "dedup", "carry"), "corpus.Corpus.carried = ['dedup.cluster_size']"
    urls, dropped = build(archive, tmp_path / "out", *names, bindings=[carried])
    assert dropped["url_dedup"] == {"duplicate_url": 1} and dropped["exact_dedup"] == {"duplicate_exact": 1}
    assert dropped["dedup"] == {"duplicate_near": 2}
    gone = {"http://site0.example/page", "http://site1.example/page", "http://site2.example/page", "http://near.example/2"}
    assert not urls & gone and "http://nearer.example/2" in urls and "http://copy.example/1" in urls
    sizes = [re.findall(r'"cluster_size": (\d+)', p.read_text()) for p in (tmp_path / "out/.work").glob("dedup-*/*.jsonl")]
    assert sorted(int(n) for unit in sizes for n in unit) == [1] * 5 + [3]
    documents = [d for path in (tmp_path / "out").glob("*/*.tfrecord") for d in read_documents(path)]
    assert {d.url: json.loads(d.meta)["dedup.cluster_size"] for d in documents} == {
        url: 3 if url == "http://nearer.example/2" else 1 for url in urls
    }


def test_an_earlier_run_drops_what_it_knows(archive, tmp_path):
    first, _ = build(archive, tmp_path / "first", "minhash", "dedup", files="a.warc.gz")
    against = f"corpus.Dedup.against = [{str(tmp_path / 'first')!r}]"
    second, dropped = build(archive, tmp_path / "second", "minhash", "dedup", files="b.warc.gz", bindings=[against])
    assert len(first) == 6 and second == {"http://short.example/"}, "newer, but known"
    assert dropped["dedup"] == {"duplicate_earlier_run": 3}
    other = [against, "corpus.MinHash.rows = 9"]
    with pytest.raises(UsageError, match="index was made with minhash .*'rows': 10.*give both runs the same"):
        build(archive, tmp_path / "third", "minhash", "dedup", bindings=other)
    with pytest.raises(UsageError, match="no deduplication index"):
        build(archive, tmp_path / "fourth", "minhash", "dedup", bindings=[f"corpus.Dedup.against = [{str(archive)!r}]"])


def test_a_stage_between_signing_and_deduplication_is_refused(archive, tmp_path):
    with pytest.raises(UsageError, match="'exact_dedup' between 'minhash' and 'dedup'"):
        build(archive, tmp_path / "out", "minhash", "exact_dedup", "dedup")


@pytest.mark.parametrize("keep", ["hash", "newest"])
def test_a_shared_line_stays_in_one_document(archive, tmp_path, keep):
    output = tmp_path / "out"
    value = build_corpus(
        [str(archive / "*.warc.gz")],
        output,
        gin_bindings=[*LOOSE, stages("lines"), f"corpus.LineDedup.keep = {keep!r}", "corpus.LineDedup.min_remaining = 60"],
    )
    documents = {d.url: d.text for s in value["shards"] for d in read_documents(output / s["name"])}
    holders = {url for url, text in documents.items() if SHARED in text}
    assert len(holders) == 1 and (keep == "hash" or holders == {"http://nearer.example/2"})
    # What 7 and 8 share with 2 goes too, and the paragraphs of 1 are all those of the newer 6.
    line = [paragraph for text in documents.values() for paragraph in text.split("\n") if len(paragraph) >= 20]
    assert len(line) == len(set(line))
    table = next(t for t in value["yields"] if t["stage"] == "lines")
    assert table["in"]["documents"] == 10
    if keep == "newest":
        assert table["dropped"]["only_duplicate_lines"]["documents"] == 1 and "http://site1.example/page" not in documents
    else:
        assert sum("\n" in documents[f"http://{name}.example/{end}"] for name, end in (("site1", "page"), ("copy", "1"))) == 2


def test_lines_at_the_least_length():
    settings = LineDedup(min_characters=5)
    assert line_hash("一 二三四", settings) is None and line_hash("一 二三四五", settings) is not None
    assert line_hash("  ABCDE ", settings) == line_hash("abcde", settings) != line_hash("abcdf", settings)
    assert line_hash("", LineDedup(min_characters=0)) is None


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_only_the_named_lines_go(unit):
    text = "一行目の文章です。\n二行目の文章です。\n\n三行目の文章です。\n四行目の文章です。"
    settings = LineDedup(unit=unit, min_characters=3)
    assert "".join(pieces(text, unit)) == text and without(text, set(), settings) == text
    gone = {line_hash(pieces(text, unit)[0], settings)}
    rest = (
        "二行目の文章です。\n\n三行目の文章です。\n四行目の文章です。"
        if unit == "line"
        else "三行目の文章です。\n四行目の文章です。"
    )
    assert without(text, gone, settings) == rest


def test_presets_know_the_settings():
    assert load("swallow_v1").extraction.rapid_check == "swallow_v1" and load("swallow_v2").extraction.rapid_check == ""

"""Caps per site: which part of a host name is one, and that the smallest hashes stay whatever the order."""

import collections
import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import host_cap
from beam_pipelines.config import Corpus, HostCap
from beam_pipelines.host_cap import Smallest, rank, site
from beam_pipelines.stage_files import remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Execution, Stage, Unit, stage, write_file
from ja_llm.documents import Document, document_id, to_example, write_record


@pytest.mark.parametrize(
    ("url", "domain", "host"),
    [
        ("https://www.example.co.jp/a", "example.co.jp", "www.example.co.jp"),
        ("http://library.city.chiyoda.tokyo.jp/", "city.chiyoda.tokyo.jp", "library.city.chiyoda.tokyo.jp"),
        ("http://user:secret@Sub.Example.JP:8080/x", "example.jp", "sub.example.jp"),
        ("http://example.com./x", "example.com", "example.com"),
        ("http://me.github.io/x", "me.github.io", "me.github.io"),
        ("http://例え.jp/", "例え.jp", "例え.jp"),
        ("http://192.168.0.1/x", "192.168.0.1", "192.168.0.1"),
        ("http://localhost/x", "localhost", "localhost"),
        ("http://co.jp/", "co.jp", "co.jp"),
        ("http://[::1/x", "", ""),
        ("urn:isbn:1", "", ""),
        ("", "", ""),
    ],
)
def test_the_site_of_a_url(url, domain, host):
    assert (site(url, "domain"), site(url, "host")) == (domain, host)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 6), st.data())
def test_smallest_is_that_of_sorting_whatever_the_order(values, most, data):
    parts = [Smallest(most) for _ in range(3)]
    for value in data.draw(st.permutations(values)):
        parts[data.draw(st.integers(0, 2))].add(value)
    merged = Smallest.merge(parts)
    assert (merged.count, merged.ranks) == (len(values), sorted(values)[:most])


def extracted(work, units: dict[Unit, list[Document]]) -> Stage:
    this = stage(work, "extract", 1, None)
    this.folder.mkdir(parents=True)
    for unit, documents in units.items():
        offsets = []
        with write_file(this.file(unit, ".tfrecord")) as file:
            for document in documents:
                offsets.append(file.tell())
                write_record(file, to_example(document))
        this.finish(unit, {**Tally(0, 0, 1).to_json(), "offsets": offsets, "damaged": []})
    return this


def kept_ids(work, groups: list[list[Document]], config: Corpus) -> tuple[set[str], list[dict]]:
    units = {Unit(f"u{i}", f"u{i}", ""): documents for i, documents in enumerate(groups)}
    before = [extracted(work, units)]
    this = stage(work, "host_cap", 1, None, before)
    this.folder.mkdir()
    host_cap.run_all(this, list(units), before, config, Execution())
    kept = {document.id for unit in units for _, document, _ in remaining(unit, [*before, this])}
    return kept, [this.result(unit) for unit in units]


def test_a_site_keeps_its_smallest_hashes_in_any_order_and_division(tmp_path):
    config = Corpus(host_cap=HostCap(max_documents=3, seed=5))
    hosts = ["a.large.co.jp"] * 6 + ["b.large.co.jp"] * 5 + ["small.jp"] * 3 + [""] * 5
    documents = [
        Document(document_id("s", f"{h}/{i}", "", "x"), "本文", url=f"http://{h}/{i}" if h else "") for i, h in enumerate(hosts)
    ]
    expected = {d.id for d in documents[11:]} | set(
        sorted((d.id for d in documents[:11]), key=lambda i: rank(Document(i, ""), 5))[:3]
    )
    for trial, count in enumerate((1, 3)):
        shuffled = random.Random(trial).sample(documents, len(documents))
        kept, results = kept_ids(tmp_path / str(trial), [shuffled[i::count] for i in range(count)], config)
        assert kept == expected
        lost = collections.Counter()
        for result in results:
            lost.update(result["tables"].get("capped_hosts", {}))
        assert lost == {"large.co.jp": 8}
        assert {reason for result in results for _, reason, *_ in result["drops"]} == {"host_cap"}
    by_host = dataclasses.replace(config, host_cap=HostCap(max_documents=5, by="host"))
    kept, _ = kept_ids(tmp_path / "host", [documents], by_host)
    assert len(kept) == len(documents) - 1, "a.large.co.jp has one more than the cap, b.large.co.jp stands on it"

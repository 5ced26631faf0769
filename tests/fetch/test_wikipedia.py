"""`fetch wikipedia` against a loopback server with the dumps' own pages: status, checksums, ranges, newer and unfinished dumps."""

import bz2
import hashlib
import json

import pytest
from range_server import RangeServer

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch.wikipedia import fetch_wikipedia


def status(day, files, job="articlesmultistreamdump", state="done"):
    entries = {
        name: {"size": len(data), "url": f"/jawiki/{day}/{name}", "sha1": hashlib.sha1(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
        for name, data in files.items()
    }  # fmt: skip
    return json.dumps(
        {"version": "0.8", "jobs": {job: {"status": state, "files": entries}, "metahistory7zdump": {"status": "waiting"}}}
    ).encode()


def names(day):
    return [f"jawiki-{day}-pages-articles-multistream{i}.xml-p{i}p{i}9.bz2" for i in (1, 2)]


@pytest.fixture
def server():
    """Dumps of three days: the newest is still in progress, the one before it is done."""
    with RangeServer() as running:
        old, new = "20240101", "20240120"
        listing = "".join(f'<a href="{day}/">{day}/</a>' for day in ("latest", old, new, "20240201"))
        files = {name: bz2.compress(f"{name} ".encode() * 5000) for name in names(new)}
        index = {f"jawiki-{new}-pages-articles-multistream-index1.txt-p1p19.bz2": b"x"}
        running.files = {
            "/jawiki/": listing.encode(),
            "/jawiki/20240201/dumpstatus.json": status("20240201", {}, state="in-progress"),
            f"/jawiki/{new}/dumpstatus.json": status(new, files | index),
            f"/jawiki/{old}/dumpstatus.json": status(old, {f"jawiki-{old}-pages-articles.xml.bz2": b"old"}, job="articlesdump"),
            f"/jawiki/{old}/jawiki-{old}-pages-articles.xml.bz2": b"old",
            **{f"/jawiki/{new}/{name}": data for name, data in files.items()},
        }
        yield running


def fetch(server, out, **more):
    return fetch_wikipedia(out, base=server.url, pause=0.01, **more)


def test_newest_dump_that_is_done(server, tmp_path):
    totals = fetch(server, tmp_path / "out")
    assert (totals["date"], totals["files"]) == ("20240120", 2)
    for name in names("20240120"):
        assert (tmp_path / "out" / name).read_bytes() == server.files[f"/jawiki/20240120/{name}"]
    server.log.clear()
    assert fetch(server, tmp_path / "out") == totals and server.log == []
    (tmp_path / "out" / names("20240120")[0]).write_bytes(b"damaged")
    assert fetch(server, tmp_path / "out") == totals, "a changed file is fetched again"
    assert [path for path, _, _ in server.log] == [f"/jawiki/20240120/{names('20240120')[0]}"], "and no other"
    assert fetch(server, tmp_path / "old", date="20240101")["files"] == 1
    with pytest.raises(JaLlmError, match="no article dump is done .20240201: in-progress."):
        fetch(server, tmp_path / "now", date="20240201")
    assert fetch(server, tmp_path / "few", limit_files=1)["files"] == 1


def test_broken_off_files_are_gone_on_with_and_wrong_ones_fetched_once_more(server, tmp_path):
    first = f"/jawiki/20240120/{names('20240120')[0]}"
    server.faults = {first: [("cut", 100), (503, {"Retry-After": "0"})], "/jawiki/": [(503, {})]}
    fetch(server, tmp_path / "out")
    assert [span for path, _, span in server.log if path == first] == ["", "bytes=100-", "bytes=100-"]
    good = server.files[first]
    server.files[first] = bytes([good[0] ^ 1]) + good[1:]
    with pytest.raises(JaLlmError, match="its SHA-1 differs from the dump's status file's, twice"):
        fetch(server, tmp_path / "wrong")
    server.files[first] = good
    server.files["/jawiki/"] += b'<a href="20240301/">'
    assert fetch(server, tmp_path / "wrong")["date"] == "20240120", "a newer dump does not change one that was begun"


def test_cirrussearch_in_both_layouts(server, tmp_path):
    old, new = "jawiki-20240101-cirrussearch-content.json.gz", "jawiki_content-20250803-00000.json.bz2"
    server.files |= {
        "/other/cirrussearch/": b'<a href="20240101/">x</a><a href="current/">y</a>',
        "/other/cirrussearch/20240101/": f'<a href="{old}">x</a><a href="enwiki-20240101-cirrussearch-content.json.gz">'.encode(),
        f"/other/cirrussearch/20240101/{old}": b"old",
    }
    assert fetch(server, tmp_path / "old", form="cirrus") == {"wiki": "jawiki", "date": "20240101", "files": 1, "bytes": 3}
    folder = "/other/cirrus_search_index/20250803/index_name=jawiki_content/"
    server.files |= {
        "/other/cirrus_search_index/": b'<a href="20250803/">',
        folder: f'<a href="{new}">'.encode(),
        f"{folder}{new}": b"newer",
    }
    fetch(server, tmp_path / "new", form="cirrus")
    assert (tmp_path / "new" / new).read_bytes() == b"newer"


def test_sentences(server, tmp_path):
    for arguments, sentence in [
        ({"wiki": "nowiki"}, "has no such wiki"),
        ({"wiki": "../x"}, "give a name like jawiki"),
        ({"date": "2024"}, "give a name like jawiki"),
        ({"form": "sql"}, "it is xml or cirrus"),
        ({"form": "cirrus"}, "has no CirrusSearch dump of it"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            fetch(server, tmp_path / str(len(sentence)), **arguments)
    fetch(server, tmp_path / "out")
    with pytest.raises(UsageError, match="was fetched with --format xml; use the same"):
        fetch(server, tmp_path / "out", form="cirrus")

"""A user's pages reach the corpus job byte by byte, or are refused with a sentence."""

import gzip
import os

import pytest
from warcio.archiveiterator import ArchiveIterator

from ja_llm.errors import UsageError
from ja_llm.quickstart.own_pages import own_pages


def test_html_files_become_responses_with_their_bytes_and_paths(tmp_path):
    site, warc = tmp_path / "site", tmp_path / "pages.warc.gz"
    files = {
        "index.html": b"<html><body><p>Hello.</p></body></html>",
        "ja/\u671d \u306e.htm": "<meta charset=shift_jis><p>朝の庭</p>".encode("shift_jis"),
        "empty.HTML": b"",
    }
    for name, body in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(body)
    (site / "style.css").write_text("p {}")
    pages = own_pages(site, warc)
    assert pages.inputs == (str(warc),) and not warc.exists()
    pages.write()
    with open(warc, "rb") as stream:
        found = {
            r.rec_headers["WARC-Target-URI"]: r.content_stream().read()
            for r in ArchiveIterator(stream)
            if r.rec_type == "response"
        }
    assert found == {
        "https://pages.example/index.html": files["index.html"],
        "https://pages.example/ja/%E6%9C%9D%20%E3%81%AE.htm": files["ja/\u671d \u306e.htm"],
        "https://pages.example/empty.HTML": b"",
    }
    first = warc.read_bytes()
    pages.write()
    assert warc.read_bytes() == first, "the same files give the same archive"
    assert own_pages(site, warc).digest == pages.digest
    (site / "empty.HTML").write_bytes(b"<p>now</p>")
    assert own_pages(site, warc).digest != pages.digest


def test_a_file_name_that_is_no_utf8_is_an_address_all_the_same(tmp_path):
    name = os.fsencode(tmp_path) + b"/" + "朝.html".encode("shift_jis")
    with open(name, "wb") as file:
        file.write(b"<p>a</p>")
    own_pages(tmp_path, tmp_path / "out.warc.gz").write()
    with open(tmp_path / "out.warc.gz", "rb") as stream:
        (url,) = (r.rec_headers["WARC-Target-URI"] for r in ArchiveIterator(stream) if r.rec_type == "response")
    assert url == "https://pages.example/%92%A9.html"


def test_warc_files_are_read_where_they_are(tmp_path, capsys):
    for name in ("a/one.warc.gz", "b/two.warc"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(gzip.compress(b""))
    (tmp_path / "page.html").write_text("<p>beside them</p>")
    (tmp_path / "quickstart/deep").mkdir(parents=True)
    (tmp_path / "quickstart/walk.json").write_text("{}")
    (tmp_path / "quickstart/deep/pages.warc.gz").write_bytes(b"")
    pages = own_pages(tmp_path, tmp_path / "out.warc.gz")
    assert pages.inputs == (str(tmp_path / "a/one.warc.gz"), str(tmp_path / "b/two.warc")), "an earlier walk is no page"
    assert "2 WARC files; 1 HTML files beside them are left out" in capsys.readouterr().err
    pages.write()
    assert not (tmp_path / "out.warc.gz").exists()
    assert own_pages(tmp_path / "b/two.warc", tmp_path / "out.warc.gz").inputs == (str(tmp_path / "b/two.warc"),)


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "does not exist"), ("empty", "neither a WARC nor an HTML file"), ("notes.txt", "no WARC file")]
)
def test_what_holds_no_pages_is_refused(tmp_path, name, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=why):
        own_pages(tmp_path / name, tmp_path / "out.warc.gz")

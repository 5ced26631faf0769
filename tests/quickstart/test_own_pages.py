"""A user's pages reach the corpus job byte by byte, or are refused with a sentence."""

import gzip

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
    inputs, write = own_pages(site, warc)
    assert inputs == (str(warc),) and not warc.exists()
    write()
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
    write()
    assert warc.read_bytes() == first, "the same files give the same archive"


def test_warc_files_are_read_where_they_are(tmp_path):
    for name in ("a/one.warc.gz", "b/two.warc"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(gzip.compress(b""))
    (tmp_path / "page.html").write_text("<p>beside them</p>")
    inputs, write = own_pages(tmp_path, tmp_path / "out.warc.gz")
    assert inputs == (str(tmp_path / "a/one.warc.gz"), str(tmp_path / "b/two.warc"))
    write()
    assert not (tmp_path / "out.warc.gz").exists()
    assert own_pages(tmp_path / "b/two.warc", tmp_path / "out.warc.gz")[0] == (str(tmp_path / "b/two.warc"),)


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "does not exist"), ("empty", "neither a WARC nor an HTML file"), ("notes.txt", "no WARC file")]
)
def test_what_holds_no_pages_is_refused(tmp_path, name, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=why):
        own_pages(tmp_path / name, tmp_path / "out.warc.gz")

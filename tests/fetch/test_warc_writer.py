"""WARC files as two independent readers see them."""

import gzip
import io

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from fastwarc.warc import WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.checker import Checker

from ja_llm.errors import UsageError
from ja_llm.fetch.warc_writer import WarcWriter

DATE = "2023-02-04T11:59:00Z"


def write(path, rows, **named):
    with WarcWriter(path, "test", DATE) as writer:
        for url, body, content_type in rows:
            writer.response(url, body, content_type, DATE, metadata={"source": "test", "licence": "CC0-1.0"}, **named)


def with_warcio(path):
    out = []
    with open(path, "rb") as file:
        for record in ArchiveIterator(file):
            headers = record.rec_headers
            kind = record.http_headers["Content-Type"] if record.http_headers else headers["Content-Type"]
            out.append(
                (record.rec_type, headers["WARC-Record-ID"], headers["WARC-Target-URI"], kind, record.content_stream().read())
            )
    return out


def with_fastwarc(path):
    out = []
    kinds = [(getattr(WarcRecordType, name), name) for name in ("warcinfo", "response", "metadata")]
    with open(path, "rb") as file:
        for record in FastIterator(file, parse_http=True):
            assert record.headers.get("WARC-Block-Digest")
            kind = record.http_headers["Content-Type"] if record.http_headers else record.headers["Content-Type"]
            identity, url = record.headers["WARC-Record-ID"], record.headers.get("WARC-Target-URI")
            out.append(
                (next(name for kind_, name in kinds if kind_ == record.record_type), identity, url, kind, record.reader.read())
            )
    return out


ROWS = [
    ("https://docs.debian.example/a/%E6%97%A5.html", b"another body at the same address", "text/html"),
    ("https://docs.debian.example/a/%E6%97%A5.html", "<p>日本語</p>".encode(), "text/html; charset=utf-8"),
    ("https://docs.debian.example/b", "漢字".encode("euc_jp"), "text/plain"),
    ("https://docs.debian.example/c", b"", "text/html"),
    ("https://docs.debian.example/d", b"WARC/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\x1f\x8b\x00", "application/octet-stream"),
]


def test_warcio_and_fastwarc_read_what_was_written(tmp_path):
    path = tmp_path / "x.warc.gz"
    write(path, ROWS)
    read = with_warcio(path)
    assert read == with_fastwarc(path)
    assert [r[0] for r in read] == ["warcinfo"] + ["response", "metadata"] * len(ROWS)
    assert [(r[2], r[4], r[3]) for r in read if r[0] == "response"] == ROWS
    assert read[4][4] == b"source: test\r\nlicence: CC0-1.0\r\n"
    assert len({r[1] for r in read}) == len(read)


def test_digests_hold_by_warcio_s_checker(tmp_path, capsys):
    """warcio's own `check` finds no fault, and finds the one that is put in."""
    path = tmp_path / "x.warc.gz"
    write(path, ROWS)

    class Options:
        inputs = [str(path)]
        verbose = False

    checker = Checker(Options())
    checker.process_all()
    assert checker.exit_value == 0
    plain = gzip.decompress(path.read_bytes()).replace("日本語".encode(), "日本誤".encode())
    path.write_bytes(gzip.compress(plain))
    Options.inputs = [str(tmp_path / "bad.warc")]
    (tmp_path / "bad.warc").write_bytes(plain)
    checker = Checker(Options())
    checker.process_all()
    assert checker.exit_value == 1


def test_one_gzip_member_a_record_and_no_clock(tmp_path):
    path = tmp_path / "x.warc.gz"
    write(path, ROWS)
    data = path.read_bytes()
    members = 0
    import zlib

    while data:
        unpacker = zlib.decompressobj(31)
        plain = unpacker.decompress(data)
        assert unpacker.eof and plain.startswith(b"WARC/1.1\r\n") and data[4:8] == b"\0\0\0\0"
        data, members = unpacker.unused_data, members + 1
    assert members == 1 + 2 * len(ROWS)
    (tmp_path / "again").mkdir()
    write(tmp_path / "again/x.warc.gz", ROWS)
    assert (tmp_path / "again/x.warc.gz").read_bytes() == path.read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_any_bytes_come_back(tmp_path_factory, bodies):
    path = tmp_path_factory.mktemp("warc") / "x.warc.gz"
    write(path, [(f"https://docs.debian.example/{n}", body, "text/html") for n, body in enumerate(bodies)])
    read = with_warcio(path)
    assert read == with_fastwarc(path)
    assert [r[4] for r in read if r[0] == "response"] == bodies


def test_status_and_headers(tmp_path):
    path = tmp_path / "x.warc.gz"
    with WarcWriter(path) as writer:
        writer.response("https://docs.debian.example/", b"gone", "text/html", DATE, status=404, headers={"Server": "x"})
    record = list(ArchiveIterator(io.BytesIO(path.read_bytes())))[-1]
    assert record.http_headers.statusline == "404 Not Found" and record.http_headers["Server"] == "x"
    assert record.http_headers["Date"] == "Sat, 04 Feb 2023 11:59:00 GMT"


def test_a_failed_block_leaves_no_file_and_bad_values_are_refused(tmp_path):
    for url, kind, date in (("https://a.example/", "text/html\r\nX: y", DATE), ("https://a.example/", "text/html", "yesterday")):
        with pytest.raises(UsageError), WarcWriter(tmp_path / "x.warc.gz") as writer:
            writer.response(url, b"", kind, date)
    assert not list(tmp_path.iterdir())

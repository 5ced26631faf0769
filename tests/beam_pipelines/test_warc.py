"""WARC reading: warcio as the oracle on whole files; damage costs only what is damaged and is named."""

import dataclasses
import gzip
import random
import re
import tempfile
import tracemalloc

import pytest
from warcio.archiveiterator import ArchiveIterator

from beam_pipelines.inputs import compression
from beam_pipelines.inputs import members as walked
from beam_pipelines.inputs.items import Capture, Damage, Other
from beam_pipelines.inputs.warc import read_captures

LIMIT = 1 << 20


def read(path, limit=LIMIT):
    items = list(read_captures(path, limit))
    return [i for i in items if isinstance(i, Capture)], [i for i in items if isinstance(i, Damage)]


@pytest.fixture(autouse=True, params=["in memory", "decompressed again"])
def large(request, monkeypatch):
    """Every test twice: as with small members, and as with members that are too large for memory."""
    if request.param != "in memory":
        monkeypatch.setattr(walked, "_IN_MEMORY", 0)
        monkeypatch.setattr(walked, "_BEHIND", 64)


@pytest.fixture(scope="module")
def pages(web):
    return [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i, 8))} for i in range(6)]


@pytest.mark.parametrize("compressed", [True, False])
def test_same_records_as_warcio(web, pages, tmp_path, compressed):
    path = web.write_warc(tmp_path / "a.warc", pages, gzip=compressed)
    with open(path, "rb") as file:
        oracle = [
            (r.rec_headers.get_header("WARC-Target-URI"), r.rec_headers.get_header("WARC-Record-ID"), r.raw_stream.read())
            for r in ArchiveIterator(file, no_record_parse=True)
            if r.rec_type == "response"
        ]
    captures, damage = read(path)
    assert [(c.url, c.record_id, c.block) for c in captures] == oracle
    assert damage == []


def test_metadata_record_belongs_to_its_response(web, pages, tmp_path):
    fields = {"source": "manuals", "licence": "GFDL-1.3", "package": "guide-ja", "version": "2.0-1", "other": "x"}
    path = web.write_warc(tmp_path / "a.warc.gz", [pages[0], {**pages[1], "fields": fields}, pages[2]])
    captures, _ = read(path)
    assert [c.fields for c in captures] == [{}, {k: fields[k] for k in ("source", "licence", "package", "version")}, {}]
    assert sum(isinstance(i, Other) and i.kind == "metadata" for i in read_captures(path, LIMIT)) == 1


@pytest.mark.parametrize("cut", [1, 9, 40, 200])
def test_cut_off_file(web, pages, tmp_path, cut):
    """Bytes missing at the end: everything before is read, the loss has a place. warcio reads on without an error here."""
    members = web.warc_bytes(pages)
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(b"".join(members)[:-cut])
    captures, damage = read(path)
    last = sum(map(len, members[:-1]))
    assert [c.url for c in captures][:5] == [p["url"] for p in pages[:5]]
    assert [(d.offset, d.reason) for d in damage] == [(last, "warc_truncated")]
    assert len(captures) + damage[0].lost_documents == 6
    assert all(c.block.endswith(p["body"].encode()) for c, p in zip(captures, pages, strict=False)), "a cut page is given out"
    if cut > 12:  # more than the gzip trailer and the record's closing empty lines
        assert len(captures) == 5


@pytest.mark.parametrize("where", [3, 12, 60, 300, -6])
def test_corrupt_member_costs_one_record(web, pages, tmp_path, where):
    members = web.warc_bytes(pages)
    broken = bytearray(members[2])
    broken[where] ^= 0xFF
    path = tmp_path / "corrupt.warc.gz"
    path.write_bytes(b"".join([*members[:2], bytes(broken), *members[3:]]))
    captures, damage = read(path)
    urls = [c.url for c in captures]
    assert [u for u in urls if u != pages[2]["url"]] == [p["url"] for i, p in enumerate(pages) if i != 2]
    if where == 3:  # the header's flags: whether the content survives is zlib's business, that nothing is silent is ours
        return
    assert damage and damage[0].offset == len(members[0]) + len(members[1]) and damage[0].reason.startswith("warc_")
    for capture in captures:  # whatever is given out is what was written
        assert capture.block.endswith(pages[int(capture.url[-1])]["body"].encode())


def test_flipped_bit_that_inflates_is_found_by_the_checksum(web, pages, tmp_path):
    """A stored block inflates whatever its bytes are; only the checksums know."""
    members = [gzip.compress(m, 0) for m in web.warc_bytes(pages, gzip=False)]
    broken = bytearray(members[1])
    broken[-200] ^= 0x01
    path = tmp_path / "flipped.warc.gz"
    path.write_bytes(b"".join([members[0], bytes(broken), *members[2:]]))
    captures, damage = read(path)
    assert [c.url for c in captures] == [p["url"] for i, p in enumerate(pages) if i != 1]
    assert [(d.reason, d.lost_documents) for d in damage] == [("warc_corrupt", 1)]


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "one gzip member"])
@pytest.mark.parametrize(
    ("damage", "offset_of", "lost"),
    [
        (lambda record: record.replace(b"WARC/1.", b"XARC/1."), 1, 1),
        (lambda record: b"\0" * len(record), 1, 0),
        (lambda record: record.replace(b"Content-Length: ", b"Content-Length: 9", 1), 1, 1),
        (lambda record: record.replace(b"Content-Length: ", b"Content-Length: 999999", 1), 1, 1),
        (lambda record: re.sub(rb"Content-Length: \d", b"Content-Length: ", record, count=1), 1, 1),
        (lambda record: record.replace(b"Content-Length: ", b"Content-Lengtx: ", 1), 1, 1),
        (lambda record: record + b"garbage" * 300_000, 2, 0),
    ],
    ids=["magic", "zeros", "length too large", "length past the end", "length too small", "no length", "garbage behind"],
)
def test_after_a_damaged_record_the_rest_is_read(web, pages, tmp_path, compressed, damage, offset_of, lost):
    """Records that no gzip member parts: the second of five is damaged."""
    records = web.warc_bytes(pages[:5], gzip=False)
    content = b"".join([records[0], damage(records[1]), *records[2:]])
    path = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    path.write_bytes(gzip.compress(content) if compressed else content)
    captures, damages = read(path)
    kept = [p for i, p in enumerate(pages[:5]) if i != 1 or offset_of == 2]
    assert [c.url for c in captures] == [p["url"] for p in kept]
    assert all(c.block.endswith(p["body"].encode()) for c, p in zip(captures, kept, strict=True))
    at = sum(map(len, records[:offset_of]))
    assert [(d.offset, d.reason, d.lost_documents) for d in damages] == [(0 if compressed else at, "warc_corrupt", lost)]
    assert f"reading went on at byte {content.index(records[2])}" in damages[0].detail
    assert not compressed or f"at byte {at} of what this gzip member holds" in damages[0].detail


def test_damaged_end_of_a_plain_file_says_that_nothing_follows(web, pages, tmp_path):
    records = web.warc_bytes(pages[:3], gzip=False)
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join([*records[:2], records[2].replace(b"WARC/1.", b"XARC/1.")]))
    captures, damages = read(path)
    assert len(captures) == 2 and len(damages) == 1 and damages[0].detail.endswith("nothing readable follows")
    assert (damages[0].offset, damages[0].lost_documents) == (sum(map(len, records[:2])), 1)


def test_garbage_between_members_and_zero_padding(web, pages, tmp_path):
    members = web.warc_bytes(pages)
    path = tmp_path / "garbage.warc.gz"
    path.write_bytes(b"".join(members[:3]) + b"\x1f\x8b\x08 no gzip" * 5 + b"".join(members[3:]) + b"\0" * 512)
    captures, damage = read(path)
    assert len(captures) == 6
    assert [d.reason for d in damage] == ["warc_corrupt"]


def test_empty_file_and_no_warc(tmp_path):
    for name, content, reason in [
        ("empty.warc.gz", b"", "warc_empty"),
        ("text.warc", b"just some text\n" * 50, "warc_unreadable"),
        ("text.warc.gz", gzip.compress(b"just some text\n" * 50), "warc_unreadable"),
    ]:
        (tmp_path / name).write_bytes(content)
        captures, damage = read(tmp_path / name)
        assert captures == [] and [d.reason for d in damage] == [reason], name


def test_damage_before_the_first_record_is_named(web, pages, tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(b"no record\n" * 20) + b"".join(web.warc_bytes(pages)))
    captures, damage = read(path)
    assert len(captures) == 6 and [(d.offset, d.reason) for d in damage] == [(0, "warc_corrupt")]


def test_block_over_the_limit_is_not_held(web, pages, tmp_path):
    big = {"url": "http://a.example/big", "body": b"x" * (3 << 20)}
    captures, damage = read(web.write_warc(tmp_path / "a.warc.gz", [pages[0], big, pages[1]]))
    assert [c.block is None for c in captures] == [False, True, False] and captures[1].size > 3 << 20 and damage == []


def test_whole_file_as_one_gzip_member(web, pages, tmp_path):
    path = tmp_path / "one.warc.gz"
    path.write_bytes(gzip.compress(b"".join(web.warc_bytes(pages, gzip=False))))
    captures, damage = read(path)
    assert len(captures) == 6 and damage == []
    path.write_bytes(path.read_bytes()[:-300])
    captures, damage = read(path)
    assert 1 <= len(captures) < 6 and damage


def test_a_member_that_inflates_to_a_thousand_times_its_size_is_one_page_that_is_too_large(web, tmp_path, monkeypatch):
    """No disk is needed for it, and no memory to speak of (limits of a MiB here); the pages around it are read."""
    pages = [{"url": f"http://a.example/{i}", "body": bytes(30 << 20) if i == 1 else f"page {i}"} for i in range(3)]
    path = web.write_warc(tmp_path / "a.warc.gz", pages)
    assert path.stat().st_size < 1 << 20
    for limit in ("_IN_MEMORY", "_BEHIND"):
        monkeypatch.setattr(walked, limit, 1 << 20)
    monkeypatch.setattr(walked, "GZIP", dataclasses.replace(compression.GZIP, step=256))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    tracemalloc.start()
    found = list(read_captures(path, 1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(item.block is None, item.size > 30 << 20) for item in found] == [(False, False), (True, True), (False, False)]
    assert peak < 8 << 20


def test_the_content_of_a_large_member_can_be_read_from_any_place(tmp_path):
    content = random.Random(1).randbytes(5000) + bytes(60_000)
    path = tmp_path / "a.gz"
    path.write_bytes(b"xx" + gzip.compress(content))
    with open(path, "rb") as file:
        stream = walked.Inflated(file, 2, compression.GZIP, None)
        for at, size in ((0, 10), (40_000, 300), (39_990, 20), (2, 64_000), (64_990, 100), (65_000, 5), (70_000, 5), (4_990, 20)):
            stream.seek(at)
            assert stream.read(size) == content[at : at + size] and stream.tell() == at + len(content[at : at + size])

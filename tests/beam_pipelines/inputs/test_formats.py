"""Every format gives its texts, and damage costs what is damaged: compression, JSONL, Parquet, zstd WARC, WET."""

import bz2
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from beam_pipelines.inputs import table
from beam_pipelines.inputs.compression import Broken, blocks, lines
from beam_pipelines.inputs.items import Capture, Damage, Record, Rejected, without_credentials
from beam_pipelines.inputs.warc import read_captures
from beam_pipelines.settings.inputs import Fields, Inputs
from ja_llm.errors import JaLlmError, UsageError

LIMIT = 1 << 20
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, ".bz2": bz2.compress}


def read(path, inputs=None, limit=LIMIT):
    return list(table.read(str(path), inputs or Inputs(), limit))


def kinds(items, kind):
    return [item for item in items if isinstance(item, kind)]


@pytest.mark.parametrize("ending", list(PACK))
def test_members_follow_each_other_and_a_cut_is_an_error(tmp_path, ending):
    data = "".join(f"行{i}\n" for i in range(40_000)).encode()
    path = tmp_path / f"a.txt{ending}"
    packed = [PACK[ending](data[:100_000]), PACK[ending](data[100_000:])]
    path.write_bytes(b"".join(packed))
    assert b"".join(blocks(path)) == data
    assert [line.decode() for _, line, _ in lines(path, 100)] == data.decode().splitlines()
    if not ending:
        return
    for cut in (1, 5, len(packed[1]) // 2):
        path.write_bytes(b"".join(packed)[:-cut])
        got = []
        with pytest.raises(Broken) as broken:
            got.extend(blocks(path))
        assert broken.value.reason == "truncated" and broken.value.offset == len(packed[0])
        assert data.startswith(b"".join(got)) and len(b"".join(got)) >= 100_000
    path.write_bytes(packed[0] + b"no member at all")
    with pytest.raises(Broken) as broken:
        list(blocks(path))
    assert (broken.value.reason, broken.value.offset) == ("corrupt", len(packed[0]))
    path.write_bytes(packed[0] + b"\0" * 512)
    assert b"".join(blocks(path)) == data[:100_000], "padding is no damage"


def test_zstd_without_a_checksum_and_skippable_frames(tmp_path):
    """zstandard's own reader ends quietly at a cut frame: ours must not."""
    frame = zstandard.ZstdCompressor(write_checksum=False, write_content_size=False).compress(b"x\n" * 300_000)
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"ignored"
    (tmp_path / "a").write_bytes(skippable + frame + skippable + frame)
    assert len(b"".join(blocks(tmp_path / "a"))) == 1_200_000
    (tmp_path / "a").write_bytes(skippable + frame[:-3])
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(frame[:-3])).read() is not None
    with pytest.raises(Broken, match="cut off"):
        list(blocks(tmp_path / "a"))


def test_zstd_frame_of_a_long_window(tmp_path):
    """Large dumps are packed with --long=31: a frame that declares 2 GiB, one raw block in it (RFC 8878, sections 3.1.1.1 and 3.1.1.2)."""
    window, content = (31 - 10) << 3, '{"text": "本文"}\n'.encode()
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([window]) + block)
    assert [r.text for r in read(tmp_path / "a.jsonl.zst")] == ["本文"]


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8"), max_size=40)), st.integers(1, 60))
def test_lines_are_what_splitting_gives(tmp_path_factory, texts, limit):
    path = tmp_path_factory.mktemp("lines") / "a"
    data = "\n".join(texts).encode()
    path.write_bytes(data)
    wanted = data.split(b"\n")
    wanted = wanted[:-1] if not wanted[-1] else wanted
    assert [line for _, line, _ in lines(path, limit)] == [line if len(line) <= limit else None for line in wanted]


@pytest.mark.parametrize("ending", list(PACK))
def test_jsonl_fields_and_bad_lines(tmp_path, ending):
    records = [
        json.dumps({"body": "一つ目", "meta": {"url": "http://a.example/1"}, "n": 1}).encode(),
        b"{broken",
        b"[1, 2]",
        b'{"body": "\xff\xfe"}',
        b"",
        json.dumps({"title": "no text"}).encode(),
        json.dumps({"body": 7}).encode(),
        b'{"body": "\\ud800\\u0000lone"}',
        json.dumps({"body": "x" * 4000}).encode(),
        b'{"n": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        json.dumps({"body": "終わり"}).encode(),
        b"[" * 60_000,
    ]
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(PACK[ending](b"\xef\xbb\xbf" + b"\n".join(records)))
    items = read(path, Inputs(fields=Fields(text="body", url="meta.url", keep=("n",))), limit=100)
    assert [(r.text, r.place, r.url) for r in kinds(items, Record)] == [
        ("一つ目", "line 1", "http://a.example/1"),
        ("\ud800\0lone", "line 8", ""),
        ("x" * 4000, "line 9", ""),
        ("終わり", "line 12", ""),
    ]
    assert kinds(items, Record)[0].meta == {"n": 1}
    assert [(r.reason, r.place) for r in kinds(items, Rejected)] == [
        ("bad_json_line", "line 2"), ("bad_json_line", "line 3"), ("bad_json_line", "line 4"), ("text_missing", "line 6"),
        ("text_not_string", "line 7"), ("bad_json_line", "line 10"), ("too_large", "line 11"), ("bad_json_line", "line 13"),
    ]  # fmt: skip


def test_jsonl_that_is_cut_loses_the_cut_line_and_says_so(tmp_path):
    data = gzip.compress("".join(json.dumps({"text": f"本文{i}" * 50}) + "\n" for i in range(500)).encode(), 0)
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    items = read(tmp_path / "a.jsonl.gz")
    (damage,) = kinds(items, Damage)
    assert (damage.reason, damage.lost_documents) == ("input_truncated", 1)
    assert f"line {len(kinds(items, Record)) + 1} is cut" in damage.detail
    flipped = bytearray(data)
    flipped[-6] ^= 1
    (tmp_path / "b.jsonl.gz").write_bytes(bytes(flipped))
    items = read(tmp_path / "b.jsonl.gz")
    assert [d.reason for d in kinds(items, Damage)] == ["input_corrupt"], "what the checksum does not vouch for is told"


@given(st.sampled_from([".gz", ".zst", ".bz2"]), st.floats(0, 1), st.booleans())
def test_no_cut_and_no_flip_is_silent(tmp_path_factory, ending, where, flip):
    """Whatever is cut or changed, a loss leaves a trace, and a cut file gives only what stood there (zstd: with its checksum)."""
    texts = [f"本文{i} {i * 7919 % 1000}" for i in range(60)]
    pack = zstandard.ZstdCompressor(write_checksum=True).compress if ending == ".zst" else PACK[ending]
    data = pack("".join(json.dumps({"text": t}) + "\n" for t in texts).encode())
    at = int(where * (len(data) - 1))
    changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :] if flip else data[:at]
    path = tmp_path_factory.mktemp("cut") / f"a.jsonl{ending}"
    path.write_bytes(changed)
    try:
        items = read(path)
    except JaLlmError:  # nothing with a text is left
        return
    got, lost = [r.text for r in kinds(items, Record)], kinds(items, Damage) + kinds(items, Rejected)
    assert got == texts or lost or not changed
    assert flip or got == texts[: len(got)]


def test_another_schema_is_a_sentence(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"content": "x", "id": 1}) + "\n")
    with pytest.raises(JaLlmError, match=r"none of its first 1 records has the field 'text' \(their fields: content, id\)"):
        read(tmp_path / "a.jsonl")
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(JaLlmError, match=r"no column 'text' \(it has content\)"):
        read(tmp_path / "a.parquet")


def parquet_file(path, texts, row_group_size=10):
    columns = {"body": texts, "link": [f"http://a.example/{i}" for i in range(len(texts))], "unused": ["x" * 100] * len(texts)}
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, write_page_checksum=True, compression="none")
    return path


def test_parquet_streams_row_groups_and_a_damaged_one_costs_itself(tmp_path):
    texts = [f"本文{i}" for i in range(35)]
    fields = Inputs(fields=Fields(text="body", url="link"))
    path = parquet_file(tmp_path / "a.parquet", texts)
    items = read(path, fields)
    assert [(r.text, r.url, r.place) for r in items] == [
        (t, f"http://a.example/{i}", f"row {i + 1}") for i, t in enumerate(texts)
    ]
    data = bytearray(path.read_bytes())
    at = data.index("本文15".encode())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    items = read(path, fields)
    assert [r.text for r in kinds(items, Record)] == texts[:10] + texts[20:]
    (damage,) = kinds(items, Damage)
    assert (damage.reason, damage.offset, damage.lost_documents) == ("parquet_corrupt", 11, 10)


def test_parquet_that_is_none_and_strings_that_are_no_utf8(tmp_path):
    path = parquet_file(tmp_path / "a.parquet", ["x"] * 5)
    path.write_bytes(path.read_bytes()[:-10])
    assert [(i.reason, i.lost_documents) for i in read(path)] == [("parquet_unreadable", 0)]
    (tmp_path / "b.parquet").write_text("this is no Parquet file")
    assert [i.reason for i in read(tmp_path / "b.parquet")] == ["parquet_unreadable"]
    bad = pa.array([b"good", b"\xff\xfe", b"also"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    items = read(tmp_path / "c.parquet")
    assert [getattr(i, "text", None) or i.reason for i in items] == ["good", "text_not_utf8", "also"]


def zstd_warc(members, **options):
    pack = zstandard.ZstdCompressor(write_checksum=True, **options)
    return [pack.compress(member) for member in members]


def test_zstd_warc_has_the_records_of_the_plain_one(web, tmp_path):
    pages = [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i, 8))} for i in range(6)]
    plain = web.warc_bytes(pages, gzip=False)
    oracle = [
        (r.rec_headers.get_header("WARC-Target-URI"), r.raw_stream.read())
        for r in ArchiveIterator(io.BytesIO(b"".join(plain)), no_record_parse=True)
    ]
    frames = zstd_warc(plain)
    path = tmp_path / "a.warc.zst"
    path.write_bytes(b"".join(frames))
    assert [(c.url, c.block) for c in read_captures(path, LIMIT)] == oracle
    broken = bytearray(frames[2])
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(b"".join([*frames[:2], bytes(broken), *frames[3:]]))
    items = list(read_captures(path, LIMIT))
    assert [c.url for c in kinds(items, Capture)] == [p["url"] for i, p in enumerate(pages) if i != 2]
    assert [(d.offset, d.reason) for d in kinds(items, Damage)] == [(len(frames[0]) + len(frames[1]), "warc_corrupt")]
    path.write_bytes(b"".join(frames)[:-30])
    items = list(read_captures(path, LIMIT))
    assert len(kinds(items, Capture)) == 5
    assert [(d.reason, d.offset) for d in kinds(items, Damage)] == [("warc_truncated", sum(map(len, frames[:5])))]


@pytest.mark.parametrize("packed", [False, True], ids=["plain dictionary", "compressed dictionary"])
def test_zstd_warc_with_the_dictionary_in_front(web, tmp_path, packed):
    """The Internet Archive's form: a skippable frame 0x184D2A5D holds the dictionary."""
    records = web.warc_bytes(
        [{"url": f"http://a.example/{i}", "body": web.html(web.ja_text(i, 8))} for i in range(60)], gzip=False
    )
    dictionary = zstandard.train_dictionary(4096, records)
    raw = dictionary.as_bytes()
    raw = zstandard.ZstdCompressor().compress(raw) if packed else raw
    frame = b"\x5d\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw
    path = tmp_path / "a.warc.zst"
    path.write_bytes(frame + b"".join(zstd_warc(records, dict_data=dictionary)))
    items = list(read_captures(path, LIMIT))
    assert [c.url for c in items] == [f"http://a.example/{i}" for i in range(60)]


def test_wet_conversions_are_documents(web, tmp_path):
    page = {"url": "http://a.example/x", "body": "x", "type": "text/plain"}
    record = web.warc_bytes([page], gzip=False)[0]
    text = web.ja_text(1)
    head = record[: record.index(b"\r\n\r\n")].replace(b"WARC-Type: response", b"WARC-Type: conversion")
    head = b"\r\n".join(
        line for line in head.split(b"\r\n") if not line.startswith((b"Content-Length", b"WARC-Block", b"WARC-Payload"))
    )
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(gzip.compress(head + f"\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}\r\n\r\n".encode()))
    (capture,) = read(path)
    assert (capture.kind, capture.url, capture.block.decode()) == ("conversion", "http://a.example/x", text)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://me:secret@a.example/x?mail=a@b", "https://a.example/x?mail=a@b"),
        ("http://user@a.example", "http://a.example"),
        ("//u:p@h/", "//h/"),
        ("ftp://a:b@c:d@host/p", "ftp://host/p"),
        ("http://a.example/@user", "http://a.example/@user"),
        ("mailto:a@b.example", "mailto:a@b.example"),
        ("", ""),
        ("no url at all", "no url at all"),
    ],
)
def test_credentials_leave_urls(url, clean):
    assert without_credentials(url) == clean


def test_a_file_says_its_format_or_a_sentence_asks(tmp_path):
    cases = {
        "a.warc": ("warc", "documents"), "CC-x.warc.wet.gz": ("warc", "documents"), "a.warc.zst": ("warc", "documents"), "A.JSONL.GZ": ("jsonl", "documents"),
        "jawiki-20240101-cirrussearch-content.json.gz": ("jsonl", "wikipedia"), "jawiki_content-20250803-00000.json.bz2": ("jsonl", "wikipedia"),
        "jawiki-20240101-pages-articles1.xml-p1p114794.bz2": ("xml", "wikipedia"), "a.tmx.gz": ("tmx", "parallel"), "a.tsv": ("tsv", "parallel"),
        "a.parquet": ("parquet", "documents"),
    }  # fmt: skip
    for name, wanted in cases.items():
        assert table.format_of(name, Inputs()) == wanted, name
    with pytest.raises(UsageError, match="its ending says no format"):
        table.format_of("a.dat", Inputs())
    assert table.format_of("a.dat", Inputs(format="jsonl", kind="code")) == ("jsonl", "code")
    with pytest.raises(UsageError, match="code is not read from a warc file, which may hold documents"):
        table.format_of("a.warc", Inputs(kind="code"))

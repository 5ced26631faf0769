"""`fetch common-crawl` against a loopback server that speaks the CDX API, serves the columnar index and byte ranges, and misbehaves."""

import gzip
import io
import json
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from range_server import RangeServer
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.fetch.common_crawl import Wish, check_member, fetch_common_crawl
from ja_llm.fetch.crawl_index import Entry
from ja_llm.fetch.download import retry_after

CRAWL = "CC-MAIN-2024-10"
WARCS = [f"crawl-data/{CRAWL}/segments/1.1/warc/CC-MAIN-{i:05d}.warc.gz" for i in range(2)]


def member(url, body):
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    record = writer.create_warc_record(url, "response", payload=io.BytesIO(body.encode()), http_headers=http, warc_headers_dict={"WARC-Date": "2024-02-20T00:00:00Z"})  # fmt: skip
    writer.write_record(record)
    return out.getvalue(), record.rec_headers.get_header("WARC-Payload-Digest").removeprefix("sha1:")


@pytest.fixture(scope="module")
def crawl():
    """Two WARC files of 12 records, every third Japanese; what the two indices say of them."""
    files, rows = {f"/{name}": b"" for name in WARCS}, []
    for i in range(24):
        url, filename = f"http://site{i % 4}.example.jp/{i}", WARCS[i % 2]
        data, digest = member(url, f"<html><body>ページ{i}" + "あ" * 500)
        languages = ["jpn,eng", "eng,jpn", "zho"][i % 3]
        status = "404" if i == 3 else "200"
        mime = "application/pdf" if i == 6 else "text/html"
        rows.append(
            {"url": url, "timestamp": "20240220000000", "status": status, "mime-detected": mime, "languages": languages, "digest": digest, "filename": filename, "offset": str(len(files[f"/{filename}"])), "length": str(len(data))}
        )  # fmt: skip
        files[f"/{filename}"] += data
    table = pa.table(
        {
            "url": [r["url"] for r in rows],
            "fetch_status": pa.array([int(r["status"]) for r in rows], pa.int16()),
            "content_mime_detected": [r["mime-detected"] for r in rows],
            "content_languages": [r["languages"] for r in rows],
            "content_digest": [r["digest"] for r in rows],
            "warc_filename": [r["filename"] for r in rows],
            "warc_record_offset": pa.array([int(r["offset"]) for r in rows], pa.int32()),
            "warc_record_length": pa.array([int(r["length"]) for r in rows], pa.int32()),
            "not_needed": ["x" * 100_000 + str(i) for i in range(24)],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=8, compression="none", use_dictionary=False)
    part = f"cc-index/table/cc-main/warc/crawl={CRAWL}/subset=warc/part-00000-x.c000.gz.parquet"
    files[f"/{part}"] = buffer.getvalue()
    listing = f"{part.replace('subset=warc', 'subset=robotstxt')}\n{part}\n"
    files[f"/crawl-data/{CRAWL}/cc-index-table.paths.gz"] = gzip.compress(listing.encode())
    files["/collinfo.json"] = json.dumps([{"id": CRAWL}]).encode()
    wanted = [r for r in rows if r["languages"].startswith("jpn") and r["status"] == "200" and r["mime-detected"] == "text/html"]
    return files, rows, wanted, f"/{part}"


@pytest.fixture
def server(crawl):
    with RangeServer() as running:
        running.files, running.captures = dict(crawl[0]), {CRAWL: crawl[1]}
        yield running


def fetch(server, out, wish, **more):
    return fetch_common_crawl(out, wish, data=server.url, index=server.url, rate=100, pause=0.01, **more)


def expected(crawl, wanted):
    ordered = sorted(wanted, key=lambda r: (r["filename"], int(r["offset"])))
    return [crawl[0][f"/{r['filename']}"][int(r["offset"]) : int(r["offset"]) + int(r["length"])] for r in ordered]


def written(out):
    return [path.read_bytes() for path in sorted((out / "warc").iterdir())]


def test_both_indices_give_the_japanese_records_unchanged(server, crawl, tmp_path):
    totals = fetch(server, tmp_path / "cdx", Wish(CRAWL, ("*.example.jp",), records_per_file=4))
    members = expected(crawl, crawl[2])
    assert totals["records"] == len(members) == 6 and totals["missing"] == {}
    assert written(tmp_path / "cdx") == [b"".join(members[:4]), b"".join(members[4:])]
    urls = {
        r.rec_headers.get_header("WARC-Target-URI")
        for data in written(tmp_path / "cdx")
        for r in ArchiveIterator(io.BytesIO(data))
    }
    assert urls == {r["url"] for r in crawl[2]}
    part = crawl[3]
    assert fetch(server, tmp_path / "table", Wish(CRAWL, index="columnar", records_per_file=4)) == totals
    assert written(tmp_path / "table") == written(tmp_path / "cdx")
    assert server.sent[part] < 0.2 * len(crawl[0][part]), "columns that are not needed are not fetched"
    selection = [json.loads(line) for line in gzip.decompress((tmp_path / "table/selection.jsonl.gz").read_bytes()).splitlines()]
    assert [s["url"] for s in selection] == [r["url"] for r in sorted(crawl[2], key=lambda r: (r["filename"], int(r["offset"])))]
    one = fetch(server, tmp_path / "one", Wish(CRAWL, ("site0.example.jp/*",), limit=1))
    assert one["records"] == 1
    server.log.clear()
    assert fetch(server, tmp_path / "cdx", Wish(CRAWL, ("*.example.jp",), records_per_file=4)) == totals and server.log == []


def test_server_that_is_busy_or_breaks_off_is_waited_for(server, crawl, tmp_path):
    waits = []
    warc = f"/{WARCS[0]}"
    server.faults = {
        f"/{CRAWL}-index": [(503, {"Retry-After": "1"}), (429, {})],
        warc: [("cut", 10), (503, {"Retry-After": formatdate(time.time() + 300, usegmt=True)}), (500, {})],
    }
    import ja_llm.fetch.ranges as ranges

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges.time, "sleep", waits.append)
        totals = fetch(server, tmp_path / "out", Wish(CRAWL, ("*.example.jp",)))
    assert totals["records"] == 6 and written(tmp_path / "out") == [b"".join(expected(crawl, crawl[2]))]
    assert 1.0 in waits and any(200 < wait <= 300 for wait in waits), "Retry-After in seconds and as a date"


def test_killed_run_goes_on_and_gives_the_same_bytes(server, crawl, tmp_path):
    """SIGKILL while records arrive; then the same command: nothing that was there is fetched again."""
    program = (
        "import sys\nfrom ja_llm.fetch.common_crawl import *\n"
        f"fetch_common_crawl(sys.argv[1], Wish({CRAWL!r}, ('*.example.jp',), records_per_file=4), data=sys.argv[2], index=sys.argv[2], rate=8)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out"), server.url], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while sum(path.endswith(".warc.gz") for path, _, _ in server.log) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    part = next((tmp_path / "out/warc").glob("*.part"))
    had = len((tmp_path / "out/.state" / f"{part.name.removesuffix('.part')}.jsonl").read_text().splitlines())
    part.write_bytes(part.read_bytes() + b"half a record")
    server.log.clear()
    totals = fetch(server, tmp_path / "out", Wish(CRAWL, ("*.example.jp",), records_per_file=4))
    members = expected(crawl, crawl[2])
    assert totals["records"] == 6 and written(tmp_path / "out") == [b"".join(members[:4]), b"".join(members[4:])]
    assert had >= 2 and sum(path.endswith(".warc.gz") for path, _, _ in server.log) == 6 - had


def test_records_that_are_not_what_the_index_names_are_counted(server, crawl, tmp_path):
    rows = [dict(row) for row in crawl[2]]
    rows[0]["filename"] = "crawl-data/gone.warc.gz"
    rows[1]["offset"] = str(int(rows[1]["offset"]) + 1)
    rows[2]["length"] = str(int(rows[2]["length"]) - 1)
    rows[3]["url"] = "http://site0.example.jp/other"
    rows[4]["digest"] = "A" * 32
    server.captures = {CRAWL: rows}
    totals = fetch(server, tmp_path / "out", Wish(CRAWL, ("*.example.jp",)))
    assert totals["records"] == 1
    assert totals["missing"] == {"corrupt": 1, "gone": 1, "other_content": 1, "other_url": 1, "truncated": 1}
    (data,) = written(tmp_path / "out")
    assert data == expected(crawl, [crawl[2][5]])[0]
    damaged = tmp_path / "out/warc" / f"{CRAWL}-00000.warc.gz"
    damaged.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert fetch(server, tmp_path / "out", Wish(CRAWL, ("*.example.jp",))) == totals and damaged.read_bytes() == data, (
        "a changed file is fetched again"
    )


def test_wishes_without_meaning_are_sentences(server, crawl, tmp_path):
    for wish, sentence in [
        (Wish(CRAWL), "--index cdx needs --url PATTERN"),
        (Wish(CRAWL, ("x",), index="columnar"), "--url goes with --index cdx only"),
        (Wish("CC-MAIN-1999-01", ("*.example.jp",)), "there is no such crawl; the newest are CC-MAIN-2024-10"),
        (Wish("CC-MAIN-1999-01", index="columnar"), "no columnar index of such a crawl"),
        (Wish(CRAWL, ("*.example.jp",), limit=-1), "must not be negative"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            fetch(server, tmp_path / wish.crawl / wish.index, wish)
    with pytest.raises(JaLlmError, match=r"the index has no page in jpn under \*\.none\.example"):
        fetch(server, tmp_path / "none", Wish(CRAWL, ("*.none.example",)))
    with pytest.raises(UsageError, match="must be an https:// address"):
        fetch_common_crawl(tmp_path / "x", Wish(CRAWL, ("x",)), data="http://data.example")
    fetch(server, tmp_path / "out", Wish(CRAWL, ("site0.example.jp",)))
    with pytest.raises(UsageError, match="was fetched with urls = "):
        fetch(server, tmp_path / "out", Wish(CRAWL, ("site1.example.jp",)))


def test_what_makes_a_member_whole():
    data, digest = member("http://a.example/", "x")
    entry = Entry("f", 0, len(data), "http://a.example/", digest)
    assert check_member(data, entry) == ""
    assert check_member(data + data, entry) == "corrupt" and check_member(data[:-1], entry) == "truncated"
    request = gzip.compress(gzip.decompress(data).replace(b"WARC-Type: response", b"WARC-Type: request"))
    assert check_member(request, entry) == "no_response"


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7), ("", 0), ("soon", 0), ("99999", 600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
)
def test_retry_after(value, seconds):
    assert retry_after({"Retry-After": value}) == seconds


def test_the_rate_is_kept(server, tmp_path):
    from ja_llm.fetch.ranges import Client

    client, start = Client(rate=20), time.monotonic()
    for _ in range(5):
        client.get(f"{server.url}/collinfo.json")
    assert time.monotonic() - start >= 4 / 20


def test_server_without_ranges_is_refused(server, crawl, tmp_path):
    """The whole of a WARC file would come, a gigabyte for one page."""
    original = server._answer

    def ignoring(request):
        del request.headers["Range"]
        original(request)

    server._answer = ignoring
    with pytest.raises(JaLlmError, match="the server ignores ranges; use another mirror"):
        fetch(server, tmp_path / "out", Wish(CRAWL, ("*.example.jp",)))
    assert not (Path(tmp_path) / "out/manifest.json").exists()

"""From a response's bytes to text: content codings, charsets that lie, and what is no page at all."""

import gzip
import sys
import zlib

import brotli
import pytest
import zstandard

from beam_pipelines import charset, http
from beam_pipelines.config import Extraction
from beam_pipelines.extract import Dropped, to_document
from beam_pipelines.extractor import ExtractionProblem, Extractor
from beam_pipelines.inputs.items import Capture

BODY = "日本語の本文です。".encode() * 40


def response(body, **headers):
    return http.Response(200, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def chunked(data, size=100):
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def raw_deflate(data):
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize(
    "sent",
    [
        response(BODY),
        response(gzip.compress(BODY), content_encoding="gzip"),
        response(zlib.compress(BODY), content_encoding="deflate"),
        response(chunked(BODY), transfer_encoding="chunked"),
        response(chunked(gzip.compress(BODY)), transfer_encoding="chunked", content_encoding="x-gzip"),
        response(BODY, transfer_encoding="chunked", content_encoding="gzip"),  # the crawler has undone both
        response(gzip.compress(BODY[:90]) + gzip.compress(BODY[90:]), content_encoding="gzip"),
        response(brotli.compress(BODY), content_encoding="br"),
        response(zstandard.compress(BODY), content_encoding="zstd"),
        response(zstandard.compress(BODY[:90]) + zstandard.compress(BODY[90:]), content_encoding="ZSTD"),
        response(zstandard.compress(BODY) + b"junk", content_encoding="zstd"),
        response(zstandard.compress(brotli.compress(BODY)), content_encoding="br, zstd"),
        response(BODY, content_encoding="br"),  # undone by the crawler, as all that follow
        response(BODY, content_encoding="zstd"),
        response(BODY, content_encoding="UTF8"),
        response(BODY, content_encoding="compress"),
    ],
)
def test_codings_are_undone(sent):
    assert http.decoded_body(sent, 10_000) == BODY


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (response(gzip.compress(BODY)[:-20], content_encoding="gzip"), "body_truncated"),
        (response(chunked(BODY)[:-50], transfer_encoding="chunked"), "body_truncated"),
        (response(BODY[:50], content_length=str(len(BODY))), "body_truncated"),
        (response(gzip.compress(b"\0" * 50_000_000), content_encoding="gzip"), "too_large"),
        (response(b"x" * 10_001), "too_large"),
        (response(chunked(b"x" * 10_001), transfer_encoding="chunked"), "too_large"),
        (response(brotli.compress(BODY)[:-9], content_encoding="br"), "body_truncated"),
        (response(brotli.compress(b"\0" * 50_000_000), content_encoding="br"), "too_large"),
        (response(zstandard.compress(BODY)[:-9], content_encoding="zstd"), "body_truncated"),
        (response(zstandard.compress(b"\0" * 50_000_000), content_encoding="zstd"), "too_large"),
        (response(zlib.compress(BODY), content_encoding="br"), "content_encoding"),
        (response(gzip.compress(BODY), content_encoding="compress"), "content_encoding"),
    ],
)
def test_bodies_that_cannot_be_had(sent, reason):
    with pytest.raises(http.BodyProblem) as problem:
        http.decoded_body(sent, 10_000)
    assert problem.value.reason == reason


PAGE = (
    "<html><head><title>文字の話</title>{meta}</head><body><p>漢字とカタカナとひらがな、そして記号「」の混ざった文章です。</p></body></html>"
    * 3
)
ENCODINGS = ["utf-8", "cp932", "euc_jp", "iso2022_jp", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"]
CLAIMS = ["", "utf-8", "Shift_JIS", "EUC-JP", "ISO-2022-JP", "iso-8859-1", "windows-1252", "no-such-charset"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("header", CLAIMS)
@pytest.mark.parametrize("meta", ["", "shift_jis", "euc-jp"])
def test_text_is_right_whatever_is_claimed(encoding, header, meta):
    page = PAGE.format(meta=f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else "")
    decoded = charset.decode(page.encode(encoding), f"text/html; charset={header}" if header else "text/html")
    assert decoded.text == page, (decoded.charset, decoded.decided_by)


def test_claims_decide_where_the_bytes_do_not():
    text = "La façade coûte très cher à Noël, déjà évoquée."
    assert charset.decode(text.encode("cp1252"), "text/html; charset=iso-8859-1").text == text
    chinese = "这个软件的说明书已经翻译成简体中文，请参考以下各章节。" * 3
    assert charset.decode(chinese.encode("gb18030"), "text/html; charset=gb2312").text == chinese
    korean = "이 문서는 프로그램을 설치하고 사용하는 방법을 설명합니다." * 3
    assert charset.decode(korean.encode("cp949"), "text/html; charset=euc-kr").text == korean


def test_a_few_bad_bytes_stay_few():
    page = PAGE.encode()
    decoded = charset.decode(page[:100] + b"\xff\xfe" + page[100:], "text/html")
    assert decoded.charset == "utf-8" and decoded.text.count("\ufffd") < 5


# --- pages ---


@pytest.fixture(scope="module")
def extractor():
    extractor = Extractor(20.0)
    yield extractor
    extractor.close()


def capture(body, content_type="text/html; charset=utf-8", status="200 OK", **fields):
    body = body if isinstance(body, bytes) else body.encode()
    head = f"HTTP/1.1 {status}\r\n" + (f"Content-Type: {content_type}\r\n" if content_type else "") + "\r\n"
    block = head.encode() + body
    return Capture("http://a.example/x", "2024-01-01T00:00:00Z", "<urn:uuid:1>", 7, block, len(block), fields=fields)


def test_document_of_a_page(web, extractor):
    text = web.ja_text(1)
    document = to_document(capture(web.html(text), licence="MIT", package="p"), "a.warc.gz", Extraction(source="web"), extractor)
    assert document.text == text
    assert (document.source, document.licence, document.lang) == ("web", "MIT", "")
    assert '"package":"p"' in document.meta and '"warc":"a.warc.gz"' in document.meta
    again = to_document(capture(web.html(text), source="manuals"), "a.warc.gz", Extraction(), extractor)
    assert again.source == "manuals" and again.id != document.id


def test_stray_bytes_do_not_cost_the_page(web, extractor):
    text = web.ja_text(2)
    page = web.html(text).encode()
    for stray in (b"\0", b"\x01\x1b", b"\xff\xfe\x81", "\x9d\ufffe".encode(), b"&#1;&#0;", b"&#xfffe;"):
        at = page.index("。".encode()) + 3
        document = to_document(capture(page[:at] + stray + page[at:]), "a", Extraction(), extractor)
        assert document.text.replace("\ufffd", "") == text


def test_plain_text_survives_as_it_is(extractor):
    text = "名前\n    ls - 一覧を表示する\n\n書式\n    ls [オプション]"
    document = to_document(capture(text.encode("euc_jp"), "text/plain"), "a", Extraction(), extractor)
    assert document.text == text


def test_rendered_manual_page_survives(extractor):
    """The shape of mandoc's HTML: head and foot tables, sections, definition lists, lines broken inside sentences."""
    body = (
        '<table class="head"><tr><td>LS(1)</td></tr></table><div class="manual-text"><section class="Sh"><h1 class="Sh">名前</h1>'
        '<p class="Pp">ls - ディレクトリの\n    内容を一覧表示する</p></section><section class="Sh"><h1 class="Sh">説明</h1>'
        '<p class="Pp">このコマンドは指定されたファイルについての\n    情報を表示します。何も指定しなければ今いる\nディレクトリを対象にします。</p>'
        '<dl class="Bl-tag"><dt><b>-a</b></dt><dd>ドットで始まる要素も\n      無視せずに表示します。</dd></dl></section></div>'
    )
    text = to_document(capture(f"<html><body>{body}</body></html>"), "a", Extraction(favour="recall"), extractor).text
    assert "内容を一覧表示する" in text and "無視せずに表示します。" in text
    # A line break of the source between Japanese characters is nothing, not a space.
    assert "ディレクトリの内容" in text and "についての情報" in text and "今いるディレクトリ" in text


def test_a_page_that_a_proxy_touched_is_a_page(extractor):
    page = PAGE.format(meta="")
    plain, touched = (
        to_document(capture(page, status=status), "a", Extraction(), extractor)
        for status in ("200 OK", "203 Non-Authoritative Information")
    )
    assert touched == plain and "漢字とカタカナ" in touched.text


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (capture("gone", status="404 Not Found"), "http_status_404"),
        (capture("", status="301 Moved Permanently"), "http_status_301"),
        (Capture("u", "d", "r", 0, b"\x00\x01\x02", 3), "not_http"),
        (Capture("u", "d", "r", 0, None, 52_000_000), "too_large"),
        (Capture("u", "d", "r", 0, b"HTTP/1.1 200 OK\r\n\r\nx", 3, truncated="length"), "body_truncated"),
        (capture(""), "empty_body"),
        (capture(" \n\t "), "empty_body"),
        (capture("{}", "application/json"), "content_type"),
        (capture(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20), "binary_payload"),
        (capture(bytes(range(256)) * 40, "text/plain"), "binary_payload"),
        (capture("<html><head><title>t</title></head><body></body></html>"), "no_main_text"),
        (capture("\u200b\ufeff \u200b", "text/plain"), "empty_text"),
    ],
)
def test_reasons(what, reason, extractor):
    with pytest.raises(Dropped) as drop:
        to_document(what, "a.warc.gz", Extraction(), extractor)
    assert drop.value.reason == reason


def test_extractor_is_killed_at_the_deadline_and_starts_again(web):
    """A page that takes trafilatura seconds, against a limit of a fraction of one."""
    slow = "".join(
        f"<div class='c{i}'><span>短い文{i}です。</span><div><p>別の文{i}でした。</p></div></div>" for i in range(20000)
    )
    extractor = Extractor(deadline_s=0.3)
    try:
        with pytest.raises(ExtractionProblem) as problem:
            extractor.extract(slow)
        assert problem.value.reason == "extract_deadline"
    finally:
        extractor.close()
    extractor = Extractor(deadline_s=20)
    try:
        child = extractor._start()
        child.kill()
        child.wait()
        with pytest.raises(ExtractionProblem) as problem:
            extractor.extract(web.html("x"))
        assert problem.value.reason == "extract_crashed"
        assert extractor.extract(web.html(web.ja_text(3))) == web.ja_text(3)
    finally:
        extractor.close()


def test_extractor_that_only_waits_is_ended_by_the_wall_clock(web, monkeypatch):
    """A child that spends no CPU: it never sees its limit, the client's clock does."""
    extractor = Extractor(deadline_s=20)
    command = extractor._command
    extractor._command = [sys.executable, "-c", "import time; time.sleep(600)"]
    now = iter([0.0])
    monkeypatch.setattr("beam_pipelines.extractor.time.monotonic", lambda: next(now, 1e6))
    try:
        with pytest.raises(ExtractionProblem) as problem:
            extractor.extract(web.html("x"))
        assert (problem.value.reason, problem.value.detail) == ("extract_deadline", "the extractor did not come back")
        assert extractor._child is None
        monkeypatch.undo()
        extractor._command = command
        assert extractor.extract(web.html(web.ja_text(3))) == web.ja_text(3)
    finally:
        extractor.close()

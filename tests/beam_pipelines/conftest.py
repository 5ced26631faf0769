"""Small web pages of our own writing, and WARC files of them written by warcio."""

import io
import random
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

_JA = {
    "who": ["管理者", "利用者", "古い友人", "図書館の司書", "隣の席の同僚", "旅の案内人", "市場の店主", "夜勤の技師", "若い画家", "小さな会社"],
    "when": ["今朝", "先週の終わりに", "雨が上がったあとで", "夕方になると", "会議の前に", "春が来るたびに", "久しぶりに", "夜遅くまで"],
    "what": ["設定の手順", "新しい辞書", "壊れた時計", "地図と記録", "短い手紙", "庭の手入れ", "古い写真", "パンの作り方", "計算の結果", "楽器の練習"],
    "did": ["を丁寧に確かめました", "について静かに話していました", "を最初から書き直しました", "を友人に見せることにしました", "のことをずっと考えています", "をゆっくりと片付けてから帰りました"],
    "end": ["それで十分でした", "結果はまだ分かりません", "誰も急いではいませんでした", "次の日も同じことが続きました", "窓の外では風が強く吹いていました"],
}  # fmt: skip
_EN = {
    "who": ["The librarian", "A quiet neighbour", "Our old teacher", "The night engineer", "A travelling painter", "The baker"],
    "when": ["this morning", "after the rain", "before the meeting", "late in the evening", "every spring", "last week"],
    "what": ["the broken clock", "a short letter", "the garden", "an old map", "the recipe for bread", "some forgotten photographs"],
    "did": ["carefully looked at", "talked with a friend about", "wrote a long note on", "decided to keep", "was thinking of"],
    "end": ["and that was enough for the day", "but nobody was in a hurry to finish", "and the wind was strong outside the window"],
}


def ja_text(seed: int, sentences: int = 24) -> str:
    """Japanese paragraphs; different seeds share words, not sentences."""
    rng = random.Random(f"ja{seed}")
    pick = {name: lambda words=words: rng.choice(words) for name, words in _JA.items()}
    parts = [
        f"{pick['when']()}、{pick['who']()}は{pick['who']()}と一緒に{pick['what']()}{pick['did']()}。{pick['what']()}がなくても、{pick['end']()}。"
        for _ in range(sentences)
    ]
    return "\n".join("".join(parts[i : i + 4]) for i in range(0, sentences, 4))


def en_text(seed: int, sentences: int = 16) -> str:
    """English paragraphs."""
    rng = random.Random(f"en{seed}")
    pick = {name: lambda words=words: rng.choice(words) for name, words in _EN.items()}
    parts = [f"{pick['who']()} {pick['did']()} {pick['what']()} {pick['when']()}, {pick['end']()}." for _ in range(sentences)]
    return "\n".join(" ".join(parts[i : i + 4]) for i in range(0, sentences, 4))


def html(text: str, title: str = "") -> str:
    """A page with the text's lines as paragraphs."""
    paragraphs = "\n".join(f"<p>{line}</p>" for line in text.split("\n"))
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><article>{paragraphs}</article></body></html>"


def warc_bytes(pages: list[dict], gzip: bool = True) -> list[bytes]:
    """One byte string a page (its records): {url, body, type, status, headers, date, fields, warc_headers}."""
    members = []
    for page in pages:
        out = io.BytesIO()
        writer = WARCWriter(out, gzip=gzip)
        body = page["body"] if isinstance(page["body"], bytes) else page["body"].encode()
        headers = [("Content-Type", page.get("type", "text/html; charset=utf-8")), *page.get("headers", [])]
        http = StatusAndHeaders(page.get("status", "200 OK"), [h for h in headers if h[1]], protocol="HTTP/1.1")
        extra = {"WARC-Date": page.get("date", "2024-01-01T00:00:00Z"), **page.get("warc_headers", {})}
        record = writer.create_warc_record(page["url"], "response", payload=io.BytesIO(body), http_headers=http, warc_headers_dict=extra)
        writer.write_record(record)
        if "fields" in page:
            block = "".join(f"{k}: {v}\r\n" for k, v in page["fields"].items()).encode()
            about = {"WARC-Concurrent-To": record.rec_headers.get_header("WARC-Record-ID")}
            writer.write_record(
                writer.create_warc_record(
                    page["url"], "metadata", payload=io.BytesIO(block), warc_content_type="application/warc-fields", warc_headers_dict=about
                )
            )
        members.append(out.getvalue())
    return members


def write_warc(path: Path, pages: list[dict], gzip: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(warc_bytes(pages, gzip)))
    return path


@pytest.fixture(scope="session")
def web():
    """The helpers above, for tests that can't import a conftest by name."""
    import types

    return types.SimpleNamespace(ja_text=ja_text, en_text=en_text, html=html, warc_bytes=warc_bytes, write_warc=write_warc)

"""Small web pages of our own writing, and WARC files of them written by warcio."""

import io
import random
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

_KANJI = "春夏秋冬花鳥風月山川草木海空星雨雪光影音色形心手足目耳口声言葉文字紙本絵歌道橋門窓家町村島国北南東西朝夕昼夜水火土石金"
_VERBS = [
    "眺め",
    "調べ",
    "運び",
    "集め",
    "忘れ",
    "見つけ",
    "比べ",
    "並べ",
    "続け",
    "確かめ",
    "伝え",
    "支え",
    "重ね",
    "始め",
    "育て",
    "決め",
]
_SYLLABLES = ["ka", "lo", "mi", "ten", "ra", "sol", "ve", "dor", "ni", "pel", "gan", "tu", "bri", "sha", "wen", "cot"]


def ja_text(seed: int, sentences: int = 24) -> str:
    """Japanese-like paragraphs; different seeds share words and grammar, not sentences."""
    rng = random.Random(f"ja{seed}")

    def noun() -> str:
        return rng.choice(_KANJI) + rng.choice(_KANJI)

    def sentence() -> str:
        return f"{noun()}の{noun()}は{noun()}を{rng.choice(_VERBS)}て、{noun()}から{noun()}まで{rng.choice(_VERBS)}ながら{noun()}に{rng.choice(_VERBS)}ました。"

    parts = [sentence() for _ in range(sentences)]
    return "\n".join("".join(parts[i : i + 4]) for i in range(0, sentences, 4))


def en_text(seed: int, sentences: int = 16) -> str:
    """English grammar over made-up nouns, in paragraphs."""
    rng = random.Random(f"en{seed}")

    def noun() -> str:
        return "".join(rng.choices(_SYLLABLES, k=3))

    parts = [
        f"The {noun()} of the {noun()} was not far from a {noun()}, and that is why we have to be with the {noun()}."
        for _ in range(sentences)
    ]
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
        record = writer.create_warc_record(
            page["url"], "response", payload=io.BytesIO(body), http_headers=http, warc_headers_dict=extra
        )
        writer.write_record(record)
        if "fields" in page:
            block = "".join(f"{k}: {v}\r\n" for k, v in page["fields"].items()).encode()
            about = {"WARC-Concurrent-To": record.rec_headers.get_header("WARC-Record-ID")}
            writer.write_record(
                writer.create_warc_record(
                    page["url"],
                    "metadata",
                    payload=io.BytesIO(block),
                    warc_content_type="application/warc-fields",
                    warc_headers_dict=about,
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


@pytest.fixture
def run_stages(tmp_path):
    """Run stages of the chain on documents, without WARC files and without Beam: gives the markers and what remains."""
    import types

    from beam_pipelines.config import Corpus
    from beam_pipelines.stage_files import remaining
    from beam_pipelines.tally import Tally
    from beam_pipelines.workspace import Execution, Stage, Unit
    from ja_llm.documents import to_example, write_record

    def run(documents, specs, config=None, units=1):
        config = config or Corpus()
        folder = tmp_path / f"stages{len(list(tmp_path.glob('stages*')))}"
        first = Stage("extract", "0", folder / "extract")
        first.folder.mkdir(parents=True)
        names = [Unit(f"unit{k}", f"unit{k}", "") for k in range(units)]
        for k, unit in enumerate(names):
            tally, offsets = Tally.of(config), []
            with open(first.file(unit, ".tfrecord"), "wb") as file:
                for document in documents[k::units]:
                    offsets.append(file.tell())
                    write_record(file, to_example(document))
                    tally.keep(document.text)
            first.finish(unit, {**tally.to_json(), "offsets": offsets, "damaged": []})
        before = [first]
        for spec in specs:
            this = Stage(spec.name, "0", folder / spec.name)
            this.folder.mkdir()
            if spec.run_all:
                spec.run_all(this, names, before, config, Execution())
            else:
                for unit in names:
                    this.finish(unit, spec.run(unit, this, before, config))
            before = [*before, this]
        left = [document for unit in names for _, document, _ in remaining(unit, before)]
        return types.SimpleNamespace(left=left, results={s.name: [s.result(u) for u in names] for s in before})

    return run

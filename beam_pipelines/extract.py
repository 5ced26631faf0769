"""Stage 1: a WARC file to documents. HTTP status and type, body, charset, main text; each loss has a reason.

Writes `<unit>.tfrecord` (documents without language) and the marker with the counts, the damaged places and the offsets
of the documents in the TFRecord file, by which later stages refer to them: document k of a unit is "unit:k".
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

from beam_pipelines import charset, http
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, Extraction
from beam_pipelines.extractor import ExtractionProblem, Extractor
from beam_pipelines.tally import Tally
from beam_pipelines.warc import Capture, Damage, Other, read_captures
from beam_pipelines.workspace import Stage, Unit, note_progress, write_file
from ja_llm.documents import Document, document_id, meta_json, to_example, write_record
from ja_llm.text.normalise import normalise, strip_controls

VERSION = 2
PACKAGES = ("fastwarc", "trafilatura", "lxml", "jusText")

_HTML = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_PLAIN = ("text/plain",)
_MARKUP = re.compile(rb"\s*(?:<!doctype|<html|<\?xml|<head|<body|<!--)", re.IGNORECASE)
_XML_HEAD = re.compile(r"^\s*<\?xml[^>]*\?>")
# First bytes of what servers send under a text type by mistake: PDF, ZIP, gzip, PNG, JPEG, GIF, ELF, WOFF, Windows programs.
_BINARY = (
    b"%PDF-",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"\x7fELF",
    b"wOFF",
    b"MZ\x90",
    b"\x00\x00\x01\x00",
)


class Dropped(Exception):
    """A page that gives no document: the reason, and what is worth showing with it."""

    def __init__(self, reason: str, **fields: Any):
        super().__init__(reason)
        self.reason, self.fields = reason, fields


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Extract one WARC file."""
    tally = Tally.of(config)
    settings = config.extraction
    extractor = _extractor(settings.deadline_s, settings.favour, settings.reset_caches_every)
    offsets, damaged, responses = [], [], 0
    with write_file(this.file(unit, ".tfrecord")) as file:
        for item in read_captures(unit.path, settings.max_bytes):
            if isinstance(item, Other):
                tally.count("other_records", item.kind)
                continue
            if isinstance(item, Damage):
                damaged.append({"input": unit.name, "offset": item.offset, "reason": item.reason, "detail": item.detail})
                for _ in range(item.lost_documents):
                    tally.drop(item.reason, f"{unit.key}@{item.offset}", warc=unit.name, offset=item.offset, detail=item.detail)
                continue
            responses += 1
            document = _document_or_none(item, unit, settings, extractor, tally)
            if document is not None:
                tally.keep(document.text)
                offsets.append(file.tell())
                write_record(file, to_example(document))
            if responses % 50 == 0:
                note_progress(this, unit, responses)
    note_progress(this, unit, responses)
    return {**tally.to_json(), "offsets": offsets, "damaged": damaged}


@functools.cache
def _extractor(deadline_s: float, favour: str, reset_every: int) -> Extractor:
    """One extractor a worker process: it takes most of a second to start. It ends when its input closes with this process."""
    return Extractor(deadline_s, favour, reset_every)


def close_extractor(settings: Extraction) -> None:
    """End this process's extractor, if it has one."""
    _extractor(settings.deadline_s, settings.favour, settings.reset_caches_every).close()
    _extractor.cache_clear()


def _document_or_none(capture: Capture, unit: Unit, settings: Extraction, extractor: Extractor, tally: Tally) -> Document | None:
    try:
        return to_document(capture, unit.name, settings, extractor)
    except Dropped as drop:
        fields: dict[str, Any] = {"url": capture.url, "warc": unit.name, "offset": capture.offset, **drop.fields}
        tally.drop(drop.reason, f"{unit.key}@{capture.offset}", **fields)
        return None


def to_document(capture: Capture, warc: str, settings: Extraction, extractor: Extractor) -> Document:
    """One response to one document (its `lang` is still empty).

    Raises:
      Dropped: http_status_N, not_http, too_large, body_truncated, content_encoding, empty_body, content_type,
        binary_payload, empty_text, no_main_text, extract_deadline, extract_crashed or extract_failed.
    """
    if capture.block is None:
        raise Dropped("too_large", bytes=capture.size)
    if capture.truncated:
        raise Dropped("body_truncated", detail=f"WARC-Truncated: {capture.truncated}")
    response = http.parse_response(capture.block)
    if response.status != 200:
        raise Dropped(f"http_status_{response.status}" if response.status else "not_http")
    content_type = response.headers.get("content-type", "")
    try:
        body = http.decoded_body(response, settings.max_bytes)
    except http.BodyProblem as problem:
        raise Dropped(problem.reason, bytes=len(response.body)) from None
    is_html = _is_html(body, content_type)
    decoded = charset.decode(body, content_type)
    if _is_binary(body, decoded):
        raise Dropped("binary_payload", content_type=content_type)
    text = _main_text(decoded.text, extractor) if is_html else decoded.text
    text = normalise(text, settings.normalise)
    if not text:
        raise Dropped("empty_text")
    fields = capture.fields
    source = fields.get("source") or settings.source
    return Document(
        id=document_id(source, capture.url, capture.date, body),
        text=text,
        source=source,
        url=capture.url,
        date=capture.date,
        licence=fields.get("licence") or settings.licence,
        meta=meta_json(
            warc=warc,
            offset=capture.offset,
            record_id=capture.record_id,
            charset=decoded.charset,
            charset_by=decoded.decided_by,
            bytes=len(body),
            **{name: fields[name] for name in ("package", "version") if fields.get(name)},
        ),
    )


def _is_html(body: bytes, content_type: str) -> bool:
    """Whether the page is markup; False means plain text.

    Raises:
      Dropped: there is no body, or it is neither.
    """
    if not body.strip():
        raise Dropped("empty_body")
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _HTML:
        return True
    if kind in _PLAIN:
        return False
    if not kind:
        return _MARKUP.match(body) is not None
    raise Dropped("content_type", content_type=kind)


def _is_binary(body: bytes, decoded: charset.Decoded) -> bool:
    """Known first bytes, or more control characters than a text with a few bad bytes has."""
    if body.startswith(_BINARY):
        return True
    head = decoded.text[:4096]
    controls = sum(c < " " and c not in "\t\n\r\x0c\x1b" for c in head)
    return controls + head.count("\ufffd") > 0.1 * len(head)


def _main_text(page: str, extractor: Extractor) -> str:
    try:
        # lxml refuses text that claims an encoding of its own, and control characters.
        return extractor.extract(_XML_HEAD.sub("", strip_controls(page.replace("\f", "\n"))))
    except ExtractionProblem as problem:
        raise Dropped(problem.reason, **({"detail": problem.detail} if problem.detail else {})) from None


STAGE = StageSpec(
    "extract",
    VERSION,
    lambda config: config.to_json()["extraction"],
    run,
    packages=PACKAGES,
    close=lambda config: close_extractor(config.extraction),
)

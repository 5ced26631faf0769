"""Stage 1: an input file or folder to documents, whatever its format (`inputs/table.py`); each loss has a reason.

Pages (WARC) go through HTTP status and type, body, charset and main text; records that are text already are cleaned alone,
wikitext is made plain in the extractor's process.

Writes `<unit>.tfrecord` (documents without language) and the marker with the counts, the damaged places and the offsets
of the documents in the TFRecord file, by which later stages refer to them: document k of a unit is "unit:k". What gave no
document is noted page by page in `<unit>.lost.npy` (`lost.py`).
"""

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from beam_pipelines import charset, http, mirror, rapid_check
from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, Extraction
from beam_pipelines.dates import to_utc
from beam_pipelines.extractor import WIKITEXT, ExtractionProblem, Extractor
from beam_pipelines.inputs.code import contents_digest
from beam_pipelines.inputs.files import require_unchanged
from beam_pipelines.inputs.items import Capture, Damage, Other, Record, Rejected
from beam_pipelines.inputs.table import read
from beam_pipelines.lost import Lost, bare_url
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit, note_progress, write_file
from ja_llm.documents import Document, document_id, meta_json, to_example, write_record
from ja_llm.text import language_model
from ja_llm.text.normalise import normalise, strip_controls

VERSION = 4
PACKAGES = ("fastwarc", "trafilatura", "lxml", "jusText", "mwparserfromhell", "pyarrow", "zstandard", "brotli")

_PAGE = (200, 203)  # 203: a proxy has changed something of it
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
    """Extract one input.

    Raises:
      JaLlmError: its schema is another one than the configuration says, or it changed while it was read.
    """
    tally = Tally.of(config)
    settings = config.extraction
    extractor = _extractor(settings.deadline_s, settings.favour, settings.reset_caches_every)
    offsets, damaged, seen, ids, lost = [], [], 0, set[str](), Lost(unit)
    path = mirror.fetched(Path(unit.path))
    with write_file(this.file(unit, ".tfrecord")) as file:
        for item in read(str(path), config.inputs, settings.max_bytes):
            if isinstance(item, Other):
                tally.count("other_records", item.kind)
                continue
            if isinstance(item, Damage):
                damaged.append({"input": unit.name, "offset": item.offset, "reason": item.reason, "detail": item.detail})
                for _ in range(item.lost_documents):
                    lost.add(item.reason, item.offset)
                    tally.drop(item.reason, f"{unit.key}@{item.offset}", input=unit.name, offset=item.offset, detail=item.detail)
                continue
            seen += 1
            document = _document_or_none(item, unit, config, extractor, tally, ids, lost)
            if document is not None:
                tally.keep(document.text)
                if not document.date and _stated(item.date):  # type: ignore[union-attr]
                    tally.count("unknown_dates", unit.name)
                offsets.append(file.tell())
                write_record(file, to_example(document))
            if seen % 50 == 0:
                note_progress(this, unit, seen)
    note_progress(this, unit, seen)
    require_unchanged(unit)
    if mirror.url_of(path):
        path.unlink()  # the next input needs the room
    return {**tally.to_json(), "offsets": offsets, "damaged": damaged, "lost": lost.write(this)}


@functools.cache
def _extractor(deadline_s: float, favour: str, reset_every: int) -> Extractor:
    """One extractor a worker process: it takes most of a second to start. It ends when its input closes with this process."""
    return Extractor(deadline_s, favour, reset_every)


def close_extractor(settings: Extraction) -> None:
    """End this process's extractor, if it has one."""
    _extractor(settings.deadline_s, settings.favour, settings.reset_caches_every).close()
    _extractor.cache_clear()


def _document_or_none(
    item: Capture | Record | Rejected, unit: Unit, config: Corpus, extractor: Extractor, tally: Tally, ids: set[str], lost: Lost
) -> Document | None:
    """The item's document, or None where it was dropped, counted and noted. `ids` are those of the unit's records so far."""
    place = item.offset if isinstance(item, Capture) else item.place
    where = {"warc": unit.name, "offset": place} if isinstance(item, Capture) else {"input": unit.name, "place": place}
    try:
        if isinstance(item, Rejected):
            raise Dropped(item.reason, **item.fields)
        if isinstance(item, Capture):
            return to_document(item, unit.name, config.extraction, extractor)
        document = record_to_document(item, unit.name, config.extraction, extractor)
        if "language" not in config.stages and document.lang not in config.languages:
            raise Dropped(f"language_{document.lang or 'unknown'}")  # without that stage the input's word is what there is
        if document.id in ids:
            raise Dropped("duplicate_id", id=document.id)
        ids.add(document.id)
        return document
    except Dropped as drop:
        url = "" if isinstance(item, Rejected) else _clean_url(item.url)
        fields = _storable({**({"url": url} if url else {}), **where, **drop.fields})
        tally.drop(drop.reason, f"{unit.key}@{place}", **fields)
        lost.add(drop.reason, place, "" if isinstance(item, Rejected) else item.url)
        return None


def _storable(value: Any) -> Any:
    """The value without what JSON in UTF-8 can't hold: records that are dropped are often those that are odd."""
    if isinstance(value, dict):
        return {strip_controls(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return strip_controls(value) if isinstance(value, str) else value


def _clean_url(url: str) -> str:
    """The URL without credentials and controls; "" if it is none that can be taken apart."""
    url = bare_url(url)
    try:
        urlsplit(url)
        return url
    except ValueError:  # a bracket that is no IPv6 address, and the like
        return ""


def _stated(date: str) -> str:
    return strip_controls(date).strip()


def _unknown(date: str) -> dict[str, str]:
    """For a document's `meta`: the date as it was stated, where it is not understood. Such a document ranks as one without a date."""
    return {"date_stated": _stated(date)[:100]} if to_utc(_stated(date)) is None else {}


def record_to_document(record: Record, name: str, settings: Extraction, extractor: Extractor) -> Document:
    """One record to one document. Its `lang` is the input's word, if any; the language stage decides by content.

    Raises:
      Dropped: too_large, empty_text, extract_deadline, extract_crashed or extract_failed.
    """
    text = strip_controls(record.text)
    if len(text.encode("utf-8")) > settings.max_bytes:
        raise Dropped("too_large", characters=len(text))
    if record.markup and text.strip():
        try:
            text = extractor.extract(text, WIKITEXT)
        except ExtractionProblem as problem:
            reason = "empty_text" if problem.reason == "no_main_text" else problem.reason
            raise Dropped(reason, **({"detail": problem.detail} if problem.detail else {}), **record.meta) from None
    if not record.verbatim:
        text = normalise(text, settings.normalise)
    if not text.strip():
        raise Dropped("empty_text")
    url, source = _clean_url(record.url), strip_controls(record.source) or settings.source
    date = to_utc(_stated(record.date)) or ""
    return Document(
        id=document_id(source, url, date, record.text),
        text=text,
        source=source,
        url=url,
        lang=strip_controls(record.lang),
        date=date,
        licence=strip_controls(record.licence) or settings.licence,
        meta=meta_json(**_storable({**record.meta, **_unknown(record.date), "input": name, "place": record.place})),
    )


def to_document(capture: Capture, warc: str, settings: Extraction, extractor: Extractor) -> Document:
    """One response to one document (its `lang` is still empty).

    Raises:
      Dropped: http_status_N, not_http, too_large, body_truncated, content_encoding, empty_body, content_type, rapid_check,
        binary_payload, empty_text, no_main_text, extract_deadline, extract_crashed or extract_failed.
    """
    if capture.block is None or (capture.kind == "conversion" and capture.size > settings.max_bytes):
        raise Dropped("too_large", bytes=capture.size)
    if capture.truncated:
        raise Dropped("body_truncated", detail=f"WARC-Truncated: {capture.truncated}")
    if capture.kind == "conversion":
        return _conversion(capture, warc, settings)
    response = http.parse_response(capture.block)
    if response.status not in _PAGE:
        raise Dropped(f"http_status_{response.status}" if response.status else "not_http")
    content_type = response.headers.get("content-type", "")
    try:
        body = http.decoded_body(response, settings.max_bytes)
    except http.BodyProblem as problem:
        raise Dropped(problem.reason, bytes=len(response.body)) from None
    is_html = _is_html(body, content_type)
    if settings.rapid_check and is_html and not rapid_check.may_be_japanese(body, settings.rapid_check):
        raise Dropped("rapid_check")
    decoded = charset.decode(body, content_type)
    if _is_binary(body, decoded):
        raise Dropped("binary_payload", content_type=content_type)
    text = _main_text(decoded.text, extractor) if is_html else decoded.text
    text = normalise(text, settings.normalise)
    if not text:
        raise Dropped("empty_text")
    fields, url = capture.fields, _clean_url(capture.url)
    source, date = fields.get("source") or settings.source, to_utc(_stated(capture.date)) or ""
    return Document(
        id=document_id(source, url, date, body),
        text=text,
        source=source,
        url=url,
        date=date,
        licence=fields.get("licence") or settings.licence,
        meta=meta_json(
            warc=warc,
            offset=capture.offset,
            record_id=capture.record_id,
            charset=decoded.charset,
            charset_by=decoded.decided_by,
            bytes=len(body),
            **{name: fields[name] for name in ("package", "version") if fields.get(name)},
            **_unknown(capture.date),
        ),
    )


def _conversion(capture: Capture, warc: str, settings: Extraction) -> Document:
    """The text that a WET file holds of one page."""
    body = capture.block or b""
    text, url, source = normalise(body.decode("utf-8", "replace"), settings.normalise), _clean_url(capture.url), settings.source
    if not text:
        raise Dropped("empty_text")
    date = to_utc(_stated(capture.date)) or ""
    return Document(
        id=document_id(source, url, date, body),
        text=text,
        source=source,
        url=url,
        date=date,
        licence=settings.licence,
        meta=meta_json(warc=warc, offset=capture.offset, record_id=capture.record_id, bytes=len(body), **_unknown(capture.date)),
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


def _values(config: Corpus) -> Any:
    """What decides the result; which Python parses matters to source code alone."""
    values = config.to_json()
    python = list(sys.version_info[:2]) if config.inputs.kind == "code" else None
    languages = values["languages"] if "language" not in config.stages else None
    rapid = {"": None, "swallow_v1": language_model.VERSION, "kana": [language_model.VERSION, rapid_check.VERSION]}
    return [values["extraction"], values["inputs"], python, languages, rapid[config.extraction.rapid_check]]


def _packages(config: Corpus) -> tuple[str, ...]:
    """What reads the inputs; where source code is scored the scorer, too, and what parses for it."""
    scored = config.inputs.kind == "code" and config.inputs.code.min_pylint_score is not None
    return (*PACKAGES, *(("pylint", "astroid") if scored else ()))


def _notices(config: Corpus) -> list[str]:
    others = [lang for lang in config.languages if lang != "ja"] if config.extraction.rapid_check else []
    unseen = "corpus.Extraction.rapid_check drops pages that can't be Japanese before they are read: what is left of"
    return [f"{unseen} {', '.join(others)} in corpus.Corpus.languages is there by accident"] if others else []


def _files(config: Corpus) -> dict[str, str]:
    """The folder of downloaded contents, where source code names its blobs; one blob more is another input."""
    folder = config.inputs.code.contents
    return {folder: contents_digest(folder)} if config.inputs.kind == "code" and folder else {}


STAGE = StageSpec(
    "extract",
    VERSION,
    _values,
    run,
    files=_files,
    packages=_packages,
    close=lambda config: close_extractor(config.extraction),
    notices=_notices,
)

"""Dumps of MediaWiki sites: CirrusSearch (bulk JSON lines) and XML (pages-articles).

CirrusSearch alternates lines of the bulk format ({"index": {"_id": ...}}) and of documents with title, text, source_text,
namespace, timestamp, wiki, category, template. An XML dump has siteinfo, then pages with title, ns, id, redirect and one
revision (export-0.10 and 0.11). Redirects, other namespaces and disambiguation pages are dropped, each with its reason.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from beam_pipelines.inputs.compression import Broken, blocks
from beam_pipelines.inputs.documents import string, with_text
from beam_pipelines.inputs.items import Damage, Other, Record, Rejected, Row
from beam_pipelines.inputs.jsonl import damage
from beam_pipelines.settings.inputs import Wikipedia

_REDIRECT = re.compile(r"\s*#\s*(?:redirect|転送|リダイレクト)\s*:?\s*\[\[", re.IGNORECASE)
# Templates that mark a page of equal titles, on the Japanese and the English Wikipedia.
_DISAMBIGUATION = {"aimai", "曖昧さ回避", "人名の曖昧さ回避", "地名の曖昧さ回避", "同名の地名", "dmbox", "disambig", "disambiguation", "hndis", "geodis", "dab"}  # fmt: skip
# These run here, without the extractor's deadline: no repetition beside another that takes the same characters.
_TEMPLATE = re.compile(r"\{\{([^|{}]{1,80})(?:\||\}\})")
_HEADING = re.compile(r"^=[^\n]*", re.MULTILINE)
_NO_TITLE = re.compile(r"<!--.*?-->|<[^<>]*>|'{2,}")
_CATEGORY = re.compile(r"\[\[\s*(?:Category|カテゴリ)\s*:\s*([^\]|]+)", re.IGNORECASE)
_WIKI = re.compile(r"^([a-z]{2,3}(?:_[a-z_]+)?)(wiki|wiktionary|wikibooks|wikinews|wikisource|wikiquote|wikiversity|wikivoyage)$")
_SITES = {"wiki": "wikipedia"}


def read_cirrus(
    rows: Iterable[Row | Rejected | Damage], settings: Wikipedia, path: str
) -> Iterator[Record | Rejected | Damage | Other]:
    """Yield the pages of a CirrusSearch dump, whose JSON lines are given.

    Yields:
      Rejected: wiki_namespace, wiki_disambiguation, wiki_redirect, text_missing.

    Raises:
      JaLlmError: none of the first records has the field of the text.
    """
    ids: list[str] = []
    for row in with_text(_without_bulk_lines(rows, ids), settings.cirrus_text, path):
        if isinstance(row, Row):
            yield _cirrus_page(row, ids.pop() if ids else string(row.value.get("page_id")), settings)
        else:
            yield row


def _without_bulk_lines(rows: Iterable[Row | Rejected | Damage], ids: list[str]) -> Iterator[Row | Rejected | Damage]:
    """The rows without the bulk format's own lines; the page id that such a line says is left in `ids` for the document after it."""
    for row in rows:
        if isinstance(row, Row) and len(row.value) == 1 and isinstance(row.value.get("index"), dict):
            ids[:] = [string(row.value["index"].get("_id"))]
        else:
            yield row
            ids.clear()


def _cirrus_page(row: Row, page: str, settings: Wikipedia) -> Record | Rejected:
    value = row.value
    title, text = string(value.get("title")), value.get(settings.cirrus_text)
    shown = {"title": title}
    if value.get("namespace", 0) not in settings.namespaces:
        return Rejected("wiki_namespace", row.place, shown | {"namespace": value.get("namespace")})
    if not isinstance(text, str):
        return Rejected("text_missing", row.place, shown)
    templates = {string(name).rpartition(":")[2].strip().lower() for name in value.get("template") or ()}
    if settings.drop_disambiguation and templates & _DISAMBIGUATION:
        return Rejected("wiki_disambiguation", row.place, shown)
    wiki, source_text = string(value.get("wiki")), settings.cirrus_text == "source_text"
    if source_text and _REDIRECT.match(text[:500]):
        return Rejected("wiki_redirect", row.place, shown)
    meta = {"title": title, "page_id": page, "wiki": wiki, "categories": list(value.get("category") or ())}
    return Record(
        text=cut_tail(text, settings.tail_sections) if source_text else text,
        place=row.place,
        url=_url_of(wiki, title),
        date=string(value.get("timestamp")),
        lang=string(value.get("language")),
        meta={name: item for name, item in meta.items() if item},
        markup="wikitext" if source_text else "",
    )


def _url_of(wiki: str, title: str) -> str:
    """The page's address: jawiki is ja.wikipedia.org; "" for a wiki whose address its name does not say."""
    found = _WIKI.match(wiki)
    if not found:
        return ""
    return f"https://{found[1].replace('_', '-')}.{_SITES.get(found[2], found[2])}.org/wiki/{_quoted(title)}"


def _quoted(title: str) -> str:
    return quote(title.replace(" ", "_").encode("utf-8", "replace"), safe="/:,()!*'@;")


def read_xml(path: str | Path, settings: Wikipedia, max_bytes: int) -> Iterator[Record | Rejected | Damage | Other]:
    """Yield the pages of an XML dump.

    Yields:
      Rejected: wiki_namespace, wiki_redirect, wiki_disambiguation, wiki_model (a page that is no wikitext), text_missing, too_large.
      Damage: input_truncated, input_corrupt, xml_corrupt.

    Raises:
      OSError: the file can't be read.
    """
    site = {"base": "", "lang": "", "wiki": ""}
    pages = 0
    try:
        for element in elements(path, ("page", "siteinfo", "mediawiki")):
            if element.tag == "mediawiki":
                site["lang"] = element.get("{http://www.w3.org/XML/1998/namespace}lang", "")
            elif element.tag == "siteinfo":
                site["base"] = (element.findtext("base") or "").rpartition("/")[0]
                site["wiki"] = element.findtext("dbname") or ""
            else:
                pages += 1
                yield _xml_page(element, site, settings, max_bytes, f"page {pages}")
    except Broken as broken:
        yield damage(broken, f"page {pages + 1}")
    except ElementTree.ParseError as error:
        yield Damage(0, "xml_corrupt", f"the XML can't be parsed after page {pages} ({error}); what follows was not read", 1)


def elements(path: str | Path, names: tuple[str, ...]) -> Iterator[ElementTree.Element]:
    """Yield the elements of these names when they are whole, without XML name spaces, one at a time in memory; the root when it begins.

    Raises:
      Broken: the decompression can't go on.
      ElementTree.ParseError: the XML can't be parsed further, or ends early.
    """
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    opened: list[ElementTree.Element] = []

    def ready() -> Iterator[ElementTree.Element]:
        for event, element in parser.read_events():
            assert isinstance(element, ElementTree.Element)
            if event == "start":
                element.tag = element.tag.rpartition("}")[2]
                opened.append(element)
                if len(opened) == 1 and element.tag in names:
                    yield element
                continue
            opened.pop()
            if opened and element.tag in names:
                yield element
                opened[-1].remove(element)  # or it would go on holding every one

    for block in blocks(path):
        parser.feed(block)
        yield from ready()
    parser.close()
    yield from ready()


def _xml_page(
    page: ElementTree.Element, site: dict[str, str], settings: Wikipedia, max_bytes: int, place: str
) -> Record | Rejected:
    title, namespace = page.findtext("title") or "", page.findtext("ns") or "0"
    shown = {"title": title}
    if not namespace.lstrip("-").isdigit() or int(namespace) not in settings.namespaces:
        return Rejected("wiki_namespace", place, shown | {"namespace": namespace})
    text, model = page.findtext("revision/text"), page.findtext("revision/model") or "wikitext"
    if page.find("redirect") is not None or _REDIRECT.match((text or "")[:500]):
        return Rejected("wiki_redirect", place, shown)
    if model != "wikitext":
        return Rejected("wiki_model", place, shown | {"model": model})
    if not text:
        return Rejected("text_missing", place, shown)
    if len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        return Rejected("too_large", place, shown | {"characters": len(text)})
    if settings.drop_disambiguation and _is_disambiguation(text):
        return Rejected("wiki_disambiguation", place, shown)
    meta = {
        "title": title,
        "page_id": page.findtext("id") or "",
        "revision": page.findtext("revision/id") or "",
        "wiki": site["wiki"],
        "categories": [name.strip() for name in _CATEGORY.findall(text)],
    }
    return Record(
        text=cut_tail(text, settings.tail_sections),
        place=place,
        url=f"{site['base']}/{_quoted(title)}" if site["base"] else "",
        date=page.findtext("revision/timestamp") or "",
        lang=site["lang"],
        meta={name: item for name, item in meta.items() if item},
        markup="wikitext",
    )


def _is_disambiguation(text: str) -> bool:
    return any(name.strip().lower().replace("_", " ") in _DISAMBIGUATION for name in _TEMPLATE.findall(text))


def cut_tail(text: str, names: Iterable[str]) -> str:
    """Wikitext without the sections of these names (and what is below them), wherever they stand.

    Example:
      >>> cut_tail("本文\\n== 脚注 ==\\n<references/>\\n=== 注釈 ===\\n注\\n== 年表 ==\\n表", ["脚注"])
      '本文\\n== 年表 ==\\n表'
    """
    unwanted, pieces, at, level = {"".join(name.split()).lower() for name in names}, list[str](), 0, 0
    for heading in _HEADING.finditer(text):
        depth, title = _heading(heading[0])
        if depth == 0 or (level and depth > level):
            continue
        if title in unwanted:
            if not level:
                pieces.append(text[at : heading.start()])
            level = depth
        elif level:
            at, level = heading.start(), 0
    if not level:
        pieces.append(text[at:])
    return "".join(pieces)


def _heading(line: str) -> tuple[int, str]:
    """(depth, title without markup and white space, in lower case) of a line that begins with "="; depth 0: it is no heading."""
    line = _NO_TITLE.sub("", line[:1000]).strip()
    depth = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    title = "".join(line[depth : len(line) - depth].lower().split()) if depth else ""
    return (depth if title else 0), title

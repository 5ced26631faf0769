"""The embedded web pages: texts written for this project (CC0-1.0), dressed as web sites and wrapped into a true WARC.

`pages/<lang>/<slug>.txt` holds one page: `name: value` lines, a line `---`, then blocks parted by blank lines. A block is
a paragraph, a heading (`## `), a bullet list (each line `- `) or numbered steps (each line `1. `, `2. `, ...). A new page
is a new file and nothing else. Names:

    title, site, date   of the page; site is a key of `sites.SITES`, date is ISO 8601
    charset             what the bytes are stored in (default UTF-8); the source file is always UTF-8
    kind                article (default), near_duplicate, spam or symbols
    edit_of             page that this one repeats; the body then is a list of edits, `< old` followed by `> new`
    translation_of      page that this one translates

The writing is here, what surrounds it (menus, footers, cookie notices) is in `sites.py`.
"""

import collections
import dataclasses
import functools
import html
import importlib.resources
import os
import re
import struct
import zlib
from collections.abc import Collection
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.fetch.warc_writer import WarcWriter
from ja_llm.files import sha256_file
from ja_llm.quickstart import sites

LICENCE = "CC0-1.0"
SOURCE = "quickstart"
KINDS = ("article", "near_duplicate", "spam", "symbols")
_NAMES = ("title", "site", "date", "charset", "kind", "edit_of", "translation_of")


@dataclasses.dataclass(frozen=True)
class Block:
    """Part of a page: kind is paragraph, heading, bullets or steps; `lines` has one entry but for lists."""

    kind: str
    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """One embedded page.

    Attributes:
      lang: BCP 47 primary language of the text; "zxx" where there is none. The folder of its file.
      slug: name of its file, last part of its address.
      title: heading of the page, not part of `text`.
      site: key of `sites.SITES`.
      date: when it was "crawled", YYYY-MM-DD.
      blocks: the main text.
      charset: IANA name of the encoding that its bytes are stored in.
      kind: one of KINDS.
      edit_of: key of the page that it nearly repeats, or "".
      translation_of: key of the page that it translates, or "".
    """

    lang: str
    slug: str
    title: str
    site: str
    date: str
    blocks: tuple[Block, ...]
    charset: str = "UTF-8"
    kind: str = "article"
    edit_of: str = ""
    translation_of: str = ""

    @property
    def key(self) -> str:
        """Language and slug, e.g. "ja/tofu"."""
        return f"{self.lang}/{self.slug}"

    @property
    def url(self) -> str:
        """Address of the page, on a host name that RFC 2606 reserves."""
        return sites.SITES[self.site].url(self)

    @property
    def text(self) -> str:
        """The main text, a line a paragraph or list item: what an extractor should find."""
        return "\n".join(line for block in self.blocks for line in block.lines)

    @property
    def body(self) -> str:
        """The main text as HTML, without furniture."""
        return "\n".join(_block_html(block) for block in self.blocks)


@functools.cache
def load_pages() -> tuple[Page, ...]:
    """All embedded pages, ordered by key.

    Raises:
      JaLlmError: a page file breaks the format.
    """
    sources = {}
    for folder in _resource().iterdir():
        if folder.is_dir():
            for file in folder.iterdir():
                if file.name.endswith(".txt"):
                    key = f"{folder.name}/{file.name.removesuffix('.txt')}"
                    sources[key] = parse_source(key, file.read_text(encoding="utf-8"))
    return tuple(make_page(key, sources) for key in sorted(sources))


def parse_source(key: str, source: str) -> tuple[dict[str, str], str]:
    """Split a page's file into its named values and its body.

    Raises:
      JaLlmError: no `---` line, a line that is no `name: value`, an unknown or a missing name, an unknown site or kind.
    """
    head, mark, body = source.partition("\n---\n")
    if not mark or not body.strip():
        raise JaLlmError(f"page {key}: it lacks the line --- or the text after it; complete the file.")
    values = {}
    for line in head.splitlines():
        name, colon, value = line.partition(":")
        if not colon or name not in _NAMES:
            raise JaLlmError(f"page {key}: {line!r} is none of {', '.join(_NAMES)} with a value; correct the line.")
        values[name] = value.strip()
    missing = [name for name in ("title", "site", "date") if not values.get(name)]
    if missing:
        raise JaLlmError(f"page {key}: it lacks {', '.join(missing)}; complete the file.")
    if values["site"] not in sites.SITES or values.get("kind", "article") not in KINDS:
        raise JaLlmError(
            f"page {key}: site must be one of {', '.join(sites.SITES)}, kind one of {', '.join(KINDS)}; correct the file."
        )
    return values, body.strip("\n")


def make_page(key: str, sources: dict[str, tuple[dict[str, str], str]]) -> Page:
    """The page `key` from the parsed files; one with `edit_of` takes its text from the page that it repeats.

    Raises:
      JaLlmError: a page that it refers to does not exist, or an edit does not fit.
    """
    values, body = sources[key]
    for name in ("edit_of", "translation_of"):
        other = values.get(name)
        if other and (other not in sources or "edit_of" in sources[other][0]):
            raise JaLlmError(f"page {key}: {name} names {other!r}, which is no page with a text of its own; correct the name.")
    if values.get("edit_of"):
        body = _edited(key, sources[values["edit_of"]][1], body)
    lang, slug = key.split("/")
    return Page(lang=lang, slug=slug, blocks=tuple(_block(chunk, lang) for chunk in re.split(r"\n{2,}", body)), **values)


def _edited(key: str, text: str, edits: str) -> str:
    lines = [line for line in edits.splitlines() if line.strip()]
    if len(lines) % 2 or any(
        line[:2] != mark
        for pair in zip(lines[::2], lines[1::2], strict=False)
        for line, mark in zip(pair, ("< ", "> "), strict=True)
    ):
        raise JaLlmError(f"page {key}: edits must be lines '< old' each followed by a line '> new'; correct the file.")
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        if text.count(old[2:]) != 1:
            raise JaLlmError(f"page {key}: {old[2:]!r} is not found exactly once in the page it repeats; correct the edit.")
        text = text.replace(old[2:], new[2:])
    return text


def _block(chunk: str, lang: str) -> Block:
    lines = chunk.strip().splitlines()
    if chunk.startswith("## "):
        return Block("heading", (chunk[3:].strip(),))
    if all(line.startswith("- ") for line in lines):
        return Block("bullets", tuple(line[2:] for line in lines))
    if all(re.match(r"\d+\. ", line) for line in lines):
        return Block("steps", tuple(line.split(" ", 1)[1] for line in lines))
    return Block("paragraph", (("" if lang in ("ja", "zh") else " ").join(lines),))


def _block_html(block: Block) -> str:
    lines = [html.escape(line, quote=False) for line in block.lines]
    if block.kind in ("bullets", "steps"):
        tag = "ul" if block.kind == "bullets" else "ol"
        return f"<{tag}>\n" + "".join(f"<li>{line}</li>\n" for line in lines) + f"</{tag}>"
    tag = "h2" if block.kind == "heading" else "p"
    return f"<{tag}>{lines[0]}</{tag}>"


def render(page: Page) -> str:
    """The whole HTML document of a page, with its site's furniture and links to other pages in its language."""
    same = [p for p in load_pages() if p.kind == "article" and (p.lang == page.lang or page.lang == "zxx") and p.key != page.key]
    start = sum(p.key < page.key for p in same)
    related = [same[(start + i) % len(same)] for i in range(min(3, len(same)))]
    return sites.SITES[page.site].render(page, related)


def encode(page: Page) -> bytes:
    """The page's bytes in its declared charset.

    Raises:
      JaLlmError: the charset is unknown or lacks one of the page's characters.
    """
    try:
        return render(page).encode(page.charset)
    except (LookupError, UnicodeEncodeError) as error:
        raise JaLlmError(
            f"page {page.key}: it can't be stored in {page.charset} ({error}); change the text or the charset."
        ) from error


def write_warc(path: str | os.PathLike, without: Collection[str] = ()) -> dict[str, Any]:
    """Write all pages, and the three responses of a real crawl that hold no page, as one WARC file.

    The same pages give the same bytes.

    Args:
      path: the file.
      without: addresses of pages to leave out.

    Returns:
      `summary()` with the file's `bytes` and `sha256`.

    Raises:
      JaLlmError: the file can't be written.
    """
    metadata = {"source": SOURCE, "licence": LICENCE}
    with WarcWriter(path, description="pages written for the ja_llm quickstart, CC0-1.0", date="2024-01-01T00:00:00Z") as writer:
        for page in (page for page in load_pages() if page.url not in without):
            kind = sites.SITES[page.site].content_type(page)
            writer.response(page.url, encode(page), kind, f"{page.date}T09:00:00Z", metadata=metadata)
        for url, body, kind, status, headers in _pageless():
            writer.response(url, body, kind, "2024-01-01T09:00:00Z", status=status, metadata=metadata, headers=headers)
    return {**summary(), "bytes": os.path.getsize(path), "sha256": sha256_file(path)}


def summary() -> dict[str, Any]:
    """Counts: responses, pages, and pages per language, kind and charset, characters of main text per language (all kinds)."""
    pages = load_pages()
    characters: collections.Counter[str] = collections.Counter()
    for page in pages:
        characters[page.lang] += len(page.text)
    return {
        "responses": len(pages) + len(_pageless()),
        "pages": len(pages),
        "by_lang": dict(sorted(collections.Counter(p.lang for p in pages).items())),
        "by_kind": dict(sorted(collections.Counter(p.kind for p in pages).items())),
        "by_charset": dict(sorted(collections.Counter(p.charset for p in pages).items())),
        "characters": dict(sorted(characters.items())),
        "licence": LICENCE,
    }


def _pageless() -> list[tuple[str, bytes, str, int, dict[str, str]]]:
    """A redirect, a page that was not found, and an image: (address, body, content type, status, headers)."""
    first = load_pages()[0]
    kind = "text/html; charset=utf-8"
    moved = f'<html><head><title>Moved</title></head><body><p>This page is now at <a href="{first.url}">{first.url}</a>.</p></body></html>\n'
    lost = "<html><head><title>404</title></head><body><h1>お探しのページは見つかりませんでした</h1><p>アドレスをご確認ください。</p></body></html>\n"
    return [
        ("https://sansaku.example/old/index.html", moved.encode(), kind, 301, {"Location": first.url}),
        ("https://garden.example/ja/nakunatta/", lost.encode(), kind, 404, {}),
        ("https://kobo.example/images/mark.png", _png(), "image/png", 200, {}),
    ]


def _png(size: int = 32) -> bytes:
    """A grey PNG with a diagonal; its data is stored uncompressed, so that no zlib version changes a byte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(40 if x == y else 200 for x in range(size)) for y in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


def _resource() -> Any:
    return importlib.resources.files("ja_llm.quickstart") / "pages"

"""From a file inside a package to what a web server would send: decompressed, rendered where it must be, typed.

Address scheme: `https://docs.debian.example/PACKAGE/PATH`, PATH as inside the package, without `.gz`; rendered manual
and GNOME help pages end in `.html`. `.example` is reserved (RFC 2606), so no real site is named.
"""

import dataclasses
import gzip
import html
import re
import zlib
from collections.abc import Callable
from urllib.parse import quote

from ja_llm.errors import JaLlmError
from ja_llm.fetch import licences, mallard, manpages
from ja_llm.fetch.packages import HTML, MALLARD, MAN, TEXT, Pages
from ja_llm.text import scripts

BASE_URL = "https://docs.debian.example"
JAPANESE_SHARE = 0.05  # kana among letters, from which on a page counts as Japanese here

_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_LEGACY = ("utf-8", "euc_jp", "cp932")


class Skip(Exception):
    """A file that gives no page; its text is the reason, which is counted."""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page as served.

    Attributes:
      url: its address.
      lang: declared language.
      key: what it has in common with its translations.
      content_type: the HTTP header's value.
      body: the payload.
      mtime: seconds since 1970, of the file in the package.
      licence: the page's own notice; "" if it has none.
      kana_share: hiragana and katakana among the letters of the visible text, 0 to 1.
    """

    url: str
    lang: str
    key: str
    content_type: str
    body: bytes
    mtime: int
    licence: str
    kana_share: float


def address(package: str, path: str, kind: str) -> str:
    """The page's address; see the module's scheme."""
    path = path.removesuffix(".gz")
    if kind == MALLARD:
        path = path.removesuffix(".page")
    if kind in (MAN, MALLARD):
        path += ".html"
    return f"{BASE_URL}/{quote(package)}/{quote(path)}"


def page(package: str, pages: Pages, key: str, path: str, mtime: int, body: bytes, mandoc: Callable[[], manpages.Mandoc]) -> Page:
    """Serve one file.

    Args:
      package: name of the package.
      pages: the row of the table that the file belongs to.
      key: its key.
      path: path inside the package.
      mtime: of the file.
      body: the file's bytes.
      mandoc: gives the renderer, called for manual pages only.

    Raises:
      Skip: the file holds no page of its own, or can't be rendered.
      JaLlmError: the renderer can't be had at all.
    """
    if path.endswith(".gz"):
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error):
            raise Skip("damaged gzip") from None
    if not body.strip():
        raise Skip("empty")
    licence = ""
    if pages.kind == MAN:
        if manpages.is_alias(body):
            raise Skip("alias of another page")
        licence = licences.roff_licence(body.decode("utf-8", "replace"))
    body = _rendered(pages.kind, body, mandoc)
    return Page(
        url=address(package, path, pages.kind),
        lang=pages.lang,
        key=key,
        content_type=content_type(path, pages.kind, body),
        body=body,
        mtime=mtime,
        licence=licence,
        kana_share=kana_share(body, is_html=pages.kind != TEXT),
    )


def _rendered(kind: str, body: bytes, mandoc: Callable[[], manpages.Mandoc]) -> bytes:
    if kind == MAN:
        renderer = mandoc()
        try:
            return renderer.html(body)
        except manpages.RenderError as error:
            raise Skip(str(error)) from None
    if kind == MALLARD:
        try:
            return mallard.html(body)
        except JaLlmError:
            raise Skip("no well-formed Mallard page") from None
    return body


def content_type(path: str, kind: str, body: bytes) -> str:
    """Content-Type as an ordinary server gives it: by the name's ending, with the charset where the bytes are plainly UTF-8.

    ISO-2022-JP is valid UTF-8 byte by byte, so its escape character keeps the charset out; the reader must find it.
    """
    name = path.removesuffix(".gz")
    kind_type = "text/html" if kind in (HTML, MAN, MALLARD) else "text/x-tex" if name.endswith(".tex") else "text/plain"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return kind_type
    return kind_type if b"\x1b" in body else f"{kind_type}; charset=utf-8"


def kana_share(body: bytes, is_html: bool) -> float:
    """Hiragana and katakana among the letters of a page's visible text, 0 to 1. A rough count, for the ledger only."""
    text = ""
    for encoding in ("iso2022_jp",) if b"\x1b$" in body else _LEGACY:
        try:
            text = body.decode(encoding)
            break
        except UnicodeDecodeError:
            text = body.decode(encoding, "replace")
    if is_html:
        text = html.unescape(_TAGS.sub(" ", text))
    counts = scripts.count(text)
    return round(counts.kana / counts.letters, 4) if counts.letters else 0.0

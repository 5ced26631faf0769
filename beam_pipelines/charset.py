"""Which encoding a page's bytes are in: byte order mark > what decodes > HTTP header > meta > detection.

Servers and pages say the wrong charset often enough (mojibake in Japanese corpora mostly comes from believing them), so
a claim counts only if the bytes bear it out. UTF-8 and ISO-2022-JP are known by their form: other text that happens to
be valid in them is practically impossible beyond a few characters.
"""

import codecs
import dataclasses
import re
from collections.abc import Iterable

from ja_llm.text import scripts

# Labels as browsers read them (WHATWG Encoding Standard): the superset that pages mean, by Python's names.
_ALIASES = {
    "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932", "ms_kanji": "cp932", "windows-31j": "cp932",
    "ms932": "cp932", "euc-jp": "euc_jp", "x-euc-jp": "euc_jp", "eucjp": "euc_jp", "iso-2022-jp": "iso2022_jp",
    "csiso2022jp": "iso2022_jp", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
    "iso-8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030", "euc-kr": "cp949", "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs", "utf8": "utf-8", "unicode": "utf-16-le", "utf-16": "utf-16-le",
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_ISO_2022_JP = re.compile(rb"\x1b(?:\$[@B]|\([BJI])")
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.+-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.+-]+)""", re.IGNORECASE)
_HEADER = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.+-]+)""", re.IGNORECASE)
_DETECTED = ("cp932", "euc_jp", "utf-8", "gb18030", "cp949", "cp1252")
_LOOK_AT = 1 << 16
_HEAD_START = {"header": 0.3, "meta": 0.2, "detection": 0.0}


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Text, the charset that it was decoded from (Python's name), and what decided: bom, form, header, meta or detection."""

    text: str
    charset: str
    decided_by: str


def decode(body: bytes, content_type: str = "") -> Decoded:
    """Decode a page's bytes; what does not fit the charset becomes U+FFFD.

    Args:
      body: the page.
      content_type: the HTTP header's value, e.g. "text/html; charset=EUC-JP".
    """
    for bom, name in _BOMS:
        if body.startswith(bom):
            return Decoded(body[len(bom) :].decode(name, "replace"), name, "bom")
    utf16 = _utf16_without_bom(body)
    if utf16:
        return Decoded(body.decode(utf16, "replace"), utf16, "form")
    if _ISO_2022_JP.search(body) and max(body) < 0x80:
        return Decoded(_decode_iso_2022_jp(body), "iso2022_jp", "form")
    try:
        return Decoded(body.decode("utf-8"), "utf-8", "form")
    except UnicodeDecodeError:
        pass
    if _mostly_utf8(body):
        return Decoded(body.decode("utf-8", "replace"), "utf-8", "form")
    claims = [("header", charset_of(content_type)), ("meta", meta_charset(body))]
    name, decided_by = _best(body, [(by, name) for by, name in claims if name])
    return Decoded(body.decode(name, "replace"), name, decided_by)


def charset_of(content_type: str) -> str | None:
    """Python's name of the charset in a Content-Type value, or None if there is none that Python knows.

    Example:
      >>> charset_of("text/html; charset=Shift_JIS"), charset_of("text/html")
      ('cp932', None)
    """
    match = _HEADER.search(content_type)
    return _codec(match[1]) if match else None


def meta_charset(body: bytes) -> str | None:
    """The charset that the page's own head claims, or None."""
    head = body[:4096]
    match = _XML.search(head) or _META.search(head)
    name = _codec(match[1].decode("ascii", "replace")) if match else None
    # A claim that could be read as ASCII can't be true of UTF-16 (HTML standard: treat as UTF-8).
    return "utf-8" if name and name.startswith("utf-16") else name


def _codec(label: str) -> str | None:
    label = label.strip().lower()
    name = _ALIASES.get(label, label)
    try:
        info = codecs.lookup(name)
        # rot13, hex and the like are codecs, but no charsets.
        return info.name if getattr(info, "_is_text_encoding", True) else None
    except LookupError:
        return None


def _utf16_without_bom(body: bytes) -> str | None:
    """UTF-16 by its form: markup and ASCII put zero bytes at every other place."""
    head = body[:1024]
    half = len(head) // 2
    if half < 8:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 0.3 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.3 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _mostly_utf8(body: bytes) -> bool:
    """UTF-8 with some bad bytes: other encodings' text has hardly any valid multi-byte sequences."""
    text = body.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return sum(c >= "\x80" for c in text) - bad > 3 * bad


def _decode_iso_2022_jp(body: bytes) -> str:
    for name in ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_3"):
        try:
            return body.decode(name)
        except UnicodeDecodeError:
            continue
    return body.decode("iso2022_jp", "replace")


def _best(body: bytes, claims: list[tuple[str, str]]) -> tuple[str, str]:
    """(charset, what decided) among the claims and the detectable charsets, by how well the bytes fit.

    A claim gets a head start, the header's more than meta's: it wins unless the bytes plainly say otherwise.
    """
    candidates: dict[str, tuple[float, str]] = {}
    sample = body[:_LOOK_AT]
    for by, name in [*claims, *(("detection", name) for name in _DETECTED)]:
        if name not in candidates:
            candidates[name] = (_plausibility(sample, name) + _HEAD_START[by], by)
    name = max(candidates, key=lambda n: candidates[n][0])  # the first of equals: claims stand before detection
    return name, candidates[name][1]


def _plausibility(sample: bytes, name: str) -> float:
    """How much the sample looks like text in this charset: at most 1; each undecodable place costs.

    Kana speaks for Japanese charsets and is hard to come by elsewhere; half-width katakana, private use and rare
    compatibility characters are what EUC-JP and UTF-8 turn into when they are read as Shift_JIS.
    """
    text = sample.decode(name, "replace")
    foreign = [c for c in text if ord(c) >= 0x80]
    if not foreign:
        return 0.0
    counts = scripts.count("".join(foreign))
    n = len(foreign)
    bad = text.count("\ufffd") + _count(foreign, ((0xE000, 0xF8FF), (0x80, 0x9F)))
    score = 1.0 - 10.0 * bad / n - 1.5 * counts.halfwidth_kana / n
    if counts.kana < 0.1 * n:
        # Chinese, Korean and Latin text decodes in many charsets; prefer the one that needs the fewest odd characters.
        known = counts.hangul + counts.kanji + counts.latin
        score -= 0.6 + 0.4 * (1 - min(known / n, 1.0))
    return score


def _count(characters: Iterable[str], ranges: tuple[tuple[int, int], ...]) -> int:
    return sum(any(first <= ord(c) <= last for first, last in ranges) for c in characters)

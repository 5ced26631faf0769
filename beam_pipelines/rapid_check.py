"""Whether a page may be Japanese, from its raw bytes, before the costly extraction.

Rule "swallow_v1" (Swallow Corpus v1, NLP2024 paper and `warc2raw.py`): a page may be if its html element's lang attribute begins
with "ja" (so "jav" and "jam" pass too, as in Swallow's code), or if its first title, decoded as UTF-8, Shift_JIS or EUC-JP,
scores above 0 in the language model. (Swallow takes the first of the three that decodes; but EUC-JP nearly always decodes
as Shift_JIS, to half-width katakana, so here each is tried.) Swallow measured precision .888, recall .967 and about 15
times the speed of extracting every page. Neither the HTTP header nor the address nor the page's own charset is looked at.

Rule "kana" passes besides every page whose bytes hold `_KANA_NEEDED` kana in UTF-8 or as character references (mandoc writes
manual pages so), `_RUNS_NEEDED` runs of three hiragana in EUC-JP or Shift_JIS, or a switch to JIS X 0208 (ISO-2022-JP): manuals and
old pages that neither declare a language nor have a Japanese title. Two bytes are hiragana by chance in other charsets' text, six hardly ever.
"""

import codecs
import html
import itertools
import re
from collections.abc import Iterator

from ja_llm.text.language_model import LanguageModel, packaged

RULES = ("swallow_v1", "kana")
_LANG = re.compile(rb"""<html\b[^>]{0,1000}?\blang\s*=\s*["']?\s*ja""", re.IGNORECASE)
_TITLE = re.compile(rb"<title\b[^>]{0,1000}>(.{0,2000}?)</title", re.IGNORECASE | re.DOTALL)
VERSION = 3  # changes when the rule "kana" passes other pages
# U+3040 to U+30FF, which is 12352 to 12543
_KANA = re.compile(
    rb"\xe3[\x81-\x83][\x80-\xbf]|&#(?:0*(?:1235[2-9]|123[6-9][0-9]|124[0-9][0-9]|125[0-3][0-9]|1254[0-3])|[xX]0*30[4-9a-fA-F][0-9a-fA-F]);"
)
_KANA_NEEDED = 20
_RUN = re.compile(rb"(?:\xa4[\xa1-\xf3]){3}|(?:\x82[\x9f-\xf1]){3}")  # row 4 of JIS X 0208 in EUC-JP, in Shift_JIS
_RUNS_NEEDED = 5
_JIS = re.compile(rb"\x1b\$[@B]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD = 1 << 16  # bytes in which the html element and the title stand
_BODY = 1 << 20  # bytes in which kana are looked for
_CHARSETS = ("utf-8", "cp932", "euc_jp")


def may_be_japanese(body: bytes, rule: str = "swallow_v1", model: LanguageModel | None = None) -> bool:
    """Whether the page is worth extracting.

    Args:
      body: the page's bytes, after content decoding.
      rule: one of RULES.
      model: the packaged one if None.

    Example:
      >>> [may_be_japanese(head) for head in (b"<html lang=ja>", b"<title>Welcome</title>", "<title>ようこそ</title>".encode("cp932"))]
      [True, False, True]
    """
    head = body[:_HEAD]
    if _LANG.search(head):
        return True
    match = _TITLE.search(head)
    # Without kana and kanji the model need not be asked.
    if match and any(not title.isascii() and (model or packaged()).score(title) > 0 for title in _decodings(match[1])):
        return True
    return rule == "kana" and _holds_kana(body)


def _holds_kana(body: bytes) -> bool:
    if body.startswith(_UTF16):
        body = body[:_BODY].decode("utf-16", "replace").encode("utf-8", "replace")
    return _at_least(_KANA_NEEDED, _KANA, body) or _at_least(_RUNS_NEEDED, _RUN, body) or _JIS.search(body, 0, _BODY) is not None


def _at_least(count: int, pattern: re.Pattern[bytes], body: bytes) -> bool:
    return sum(1 for _ in itertools.islice(pattern.finditer(body, 0, _BODY), count)) == count


def _decodings(title: bytes) -> Iterator[str]:
    """The title in each charset that it can be in; UTF-8 is known by its form, so that nothing else is tried after it."""
    for charset in _CHARSETS:
        try:
            text = html.unescape(title.decode(charset)).strip()
        except UnicodeDecodeError:
            continue
        if not any("\ue000" <= c <= "\uf8ff" for c in text):  # what Python makes of bytes that cp932 leaves open
            yield text
        if charset == "utf-8":
            return

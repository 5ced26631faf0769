"""Whether a page may be Japanese, from its raw bytes, before the costly extraction. Swallow Corpus v1's rule (NLP2024 paper, `warc2raw.py`).

A page may be if its html element's lang attribute begins with "ja" (so "jav" and "jam" pass too, as in Swallow's code), or
if its first title, decoded as the first of UTF-8, Shift_JIS and EUC-JP that decodes, scores above 0 in the language
model. Swallow measured precision .888 and recall .967 for it and about 15 times the speed of extracting every page. What it
loses are pages with neither: the HTTP header's charset, the address and a page's own charset are not looked at.
"""

import html
import re

from ja_llm.text.language_model import LanguageModel, packaged

_LANG = re.compile(rb"""<html\b[^>]{0,1000}?\blang\s*=\s*["']?\s*ja""", re.IGNORECASE)
_TITLE = re.compile(rb"<title\b[^>]{0,1000}>(.{0,2000}?)</title", re.IGNORECASE | re.DOTALL)
_LOOK_AT = 1 << 16  # bytes in which the html element and the title stand
_CHARSETS = ("utf-8", "cp932", "euc_jp")


def may_be_japanese(body: bytes, model: LanguageModel | None = None) -> bool:
    """Whether the page is worth extracting.

    Args:
      body: the page's bytes, after content decoding.
      model: the packaged one if None.
    """
    head = body[:_LOOK_AT]
    if _LANG.search(head):
        return True
    match = _TITLE.search(head)
    title = _decoded(match[1]) if match else ""
    if title.isascii():  # no kana and no kanji: the model need not be asked
        return False
    return (model or packaged()).score(title) > 0


def _decoded(title: bytes) -> str:
    for charset in _CHARSETS:
        try:
            return html.unescape(title.decode(charset)).strip()
        except UnicodeDecodeError:
            continue
    return ""

"""Cleaning and Unicode normalisation of document text."""

import re
import unicodedata
from typing import Any

# C0 and C1 controls except tab, line feed, form feed, carriage return and next line (line ends of old files), zero-width space and BOM, surrogates, noncharacters.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\ufeff\ud800-\udfff\ufffe\uffff]")
_SPACE_BEFORE_LINE_END = re.compile(r"[^\S\n]+(?=\n|$)")
_BLANK_LINES = re.compile(r"\n{3,}")
FORMS = ("", "NFC", "NFKC")


def strip_controls(text: str) -> str:
    r"""Remove control characters (not tab, line feed, carriage return, form feed), zero-width spaces, BOMs and surrogates.

    Example:
      >>> strip_controls("a\x00b\tc\x9d")
      'ab\tc'
    """
    return _UNWANTED.sub("", text)


def clean(text: str) -> str:
    r"""Remove what is not text: control characters, lone surrogates, space at line ends, runs of blank lines.

    Example:
      >>> clean("一行目 \r\n\x00二行目\n\n\n\n三行目 ")
      '一行目\n二行目\n\n三行目'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    text = text.replace("\x0c", "\n").replace("\x0b", "\n")
    text = strip_controls(text)
    text = _SPACE_BEFORE_LINE_END.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip()


def normalise(text: str, form: Any = "NFC") -> str:
    """`clean`, then the Unicode normalisation form, or none if `form` is empty.

    NFKC folds full-width Latin and half-width katakana, and with them distinctions that a Japanese text may mean;
    Swallow's published pipelines don't apply it.

    Example:
      >>> normalise("か\u3099", "NFC"), normalise("Ａﾊﾟ①", "NFKC")
      ('が', 'Aパ1')
    """
    return unicodedata.normalize(form, clean(text)) if form else clean(text)


def squeeze(text: str) -> str:
    r"""The text without any white space: what duplicates and containment are compared on.

    Example:
      >>> squeeze("一 二\u3000三\n四")
      '一二三四'
    """
    return "".join(text.split())

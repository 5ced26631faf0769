"""Full-width and half-width forms: Latin letters and digits to half width, katakana to full width."""

import re
import unicodedata

FOLDS = ("", "letters", "all")
_ALNUM = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code).isalnum()}
_ALL = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
# Half-width katakana with the marks that join the letter before; half-width stops, brackets and commas come along in "all" alone.
_KANA = re.compile("[\uff66-\uff9d][\uff9e\uff9f]?")
_KANA_MARKS = str.maketrans("｡｢｣､･", "。「」、・")


def fold_widths(text: str, fold: str = "letters") -> str:
    """One width for each character.

    Args:
      text: any text.
      fold: "letters": full-width Latin letters and digits to ASCII, half-width katakana (with their voicing marks) to full width;
        "all": full-width punctuation and the ideographic space to ASCII as well, half-width Japanese punctuation to full width;
        "": nothing.

    Raises:
      ValueError: `fold` is none of FOLDS.

    Example:
      >>> fold_widths("Ｊａｐａｎ２０２４！ ｶﾞｲﾄﾞ"), fold_widths("（Ａ）　｡", "all")
      ('Japan2024！ ガイド', '(A) 。')
    """
    if fold not in FOLDS:
        raise ValueError(f"fold={fold!r}: it must be one of {FOLDS}")
    if not fold:
        return text
    text = _KANA.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return text.translate(_ALL).translate(_KANA_MARKS) if fold == "all" else text.translate(_ALNUM)

"""Which characters new pieces may hold, and the runs of them that pieces may not cross."""

import re
from collections import Counter
from collections.abc import Iterable

from ja_llm.errors import JaLlmError
from ja_llm.progress import track

_KANJI = (
    "々〆〇㐀-䶿一-鿿\uf900-\ufaff\U00020000-\U0003347f"  # the compatibility ideographs as escapes: normalised, U+F900 is U+8C48
)
_HIRAGANA = "ぁ-ゟ"
_KATAKANA = "゠-ヿㇰ-ㇿｦ-ﾟ"
_PUNCTUATION = "\u3000-〄\u3008-\u303f！-･￠-￮"  # CJK symbols and full-width forms

JAPANESE = re.compile(f"[{_KANJI}{_HIRAGANA}{_KATAKANA}{_PUNCTUATION}]")
_RUNS = {
    "script": re.compile(f"[{_KANJI}]+|[{_HIRAGANA}][{_HIRAGANA}ー]*|[{_KATAKANA}]+|[{_PUNCTUATION}]+"),
    "word": re.compile(f"[{_KANJI}]+[{_HIRAGANA}]*|[{_HIRAGANA}][{_HIRAGANA}ー]*|[{_KATAKANA}]+|[{_PUNCTUATION}]+"),
    "none": re.compile(f"[{_KANJI}{_HIRAGANA}{_KATAKANA}{_PUNCTUATION}]+"),
}
_MAX_RUN = 200  # characters; longer runs (tables, base64-like noise) are cut


def is_japanese(piece: str) -> bool:
    """Whether every character of the piece is kana, kanji, or CJK or full-width punctuation."""
    return bool(piece) and all(JAPANESE.match(c) for c in piece)


def runs(segments: str) -> re.Pattern[str]:
    """What one run of Japanese is.

    Args:
      segments: "word" cuts between kanji with the hiragana after them, hiragana, katakana and punctuation, which stands near
        to words without a morphological analyser; "script" cuts before that hiragana too; "none" cuts at other characters only.

    Raises:
      JaLlmError: there is no such way to cut.
    """
    if segments not in _RUNS:
        raise JaLlmError(f"segments {segments!r} is unknown; choose one of {', '.join(_RUNS)}.")
    return _RUNS[segments]


def count_runs(texts: Iterable[str], segments: str = "word") -> Counter[str]:
    """Count the Japanese runs of the texts, cut as `segments` says (see `runs`)."""
    run = runs(segments)
    counts: Counter[str] = Counter()
    for text in track(texts, "find Japanese runs", "text"):
        counts.update(found[i : i + _MAX_RUN] for found in run.findall(text) for i in range(0, len(found), _MAX_RUN))
    return counts


def nothing_to_learn() -> JaLlmError:
    """The sentence for training texts without Japanese."""
    return JaLlmError(
        "the texts hold no Japanese characters, so there is nothing to learn; check the language and split of the document set."
    )

"""Which characters new pieces may hold, and the runs of them that pieces may not cross."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

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
_KANA, _IDEOGRAPHS = re.compile(f"[{_HIRAGANA}{_KATAKANA}]"), re.compile(f"[{_KANJI}]")
_ENOUGH, _LEAST_KANA = 500, 0.05  # kanji to judge by; least share of kana among both
MORPHEME = "morpheme"
SEGMENTS = (*_RUNS, MORPHEME)
_MAX_RUN = 200  # characters; longer runs (tables, base64-like noise) are cut


def is_japanese(piece: str) -> bool:
    """Whether every character of the piece is kana, kanji, or CJK or full-width punctuation."""
    return bool(piece) and all(JAPANESE.match(c) for c in piece)


class Runs:
    """Where a text is cut before pieces are learnt.

    Args:
      segments: "word" cuts between kanji with the hiragana after them, hiragana, katakana and punctuation, which stands near
        to words without a morphological analyser; "script" cuts before that hiragana too; "none" cuts at other characters only;
        "morpheme" cuts what "none" leaves into MeCab's words (fugashi with unidic-lite, of the extra eval-ja).

    Raises:
      JaLlmError: there is no such way to cut, or the analyser is not installed.
    """

    def __init__(self, segments: str):
        if segments not in SEGMENTS:
            raise JaLlmError(f"segments {segments!r} is unknown; choose one of {', '.join(SEGMENTS)}.")
        self._pattern = _RUNS["none" if segments == MORPHEME else segments]
        self._tagger = _analyser() if segments == MORPHEME else None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Beginning and end of each run of Japanese, in order."""
        for found in self._pattern.finditer(text):
            if self._tagger is None:
                yield found.span()
                continue
            start = found.start()
            for word in self._tagger(found.group()):
                start = text.index(word.surface, start)
                yield start, start + len(word.surface)
                start += len(word.surface)

    def one(self, text: str) -> bool:
        """Whether a text can stand inside one run."""
        return bool(self._pattern.fullmatch(text))


@functools.cache
def _analyser() -> Any:
    try:
        import fugashi
        import unidic_lite  # noqa: F401
    except ImportError as error:
        raise JaLlmError(
            f"segments {MORPHEME!r} needs the package {error.name}, which is not installed; pip install 'ja_llm[eval-ja]'."
        ) from None
    return fugashi.Tagger("-Owakati")


def count_runs(texts: Iterable[str], segments: str = "word") -> Counter[str]:
    """Count the Japanese runs of the texts, cut as `segments` says (see `Runs`).

    Raises:
      JaLlmError: there is no such way to cut, or the texts are in another language that is written with kanji.
    """
    run, language = Runs(segments), Language()
    counts: Counter[str] = Counter()
    for text in track(language.watch(texts), "find Japanese runs", "text"):
        found = (text[start:end] for start, end in run.spans(text))
        counts.update(part[i : i + _MAX_RUN] for part in found for i in range(0, len(part), _MAX_RUN))
    language.check()
    return counts


class Language:
    """Counts kana and kanji as texts go by, to tell Japanese from Chinese."""

    def __init__(self) -> None:
        self.kana = self.kanji = 0

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts."""
        for text in texts:
            self.kana += len(_KANA.findall(text))
            self.kanji += len(_IDEOGRAPHS.findall(text))
            yield text

    def check(self) -> None:
        """Raise JaLlmError if there is much kanji and hardly any kana; in Japanese prose kana are more than half."""
        if self.kanji >= _ENOUGH and self.kana < _LEAST_KANA * (self.kana + self.kanji):
            raise JaLlmError(
                f"the texts hold {self.kanji} kanji but only {self.kana} kana, as Chinese does, so their pieces would not be "
                "Japanese; check the language of the document set."
            )


def nothing_to_learn() -> JaLlmError:
    """The sentence for training texts without Japanese."""
    return JaLlmError(
        "the texts hold no Japanese characters, so there is nothing to learn; check the language and split of the document set."
    )

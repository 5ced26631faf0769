"""Stage 2: the language of a document by its content, never by what the page or its folder says.

Kana are Japanese and nothing else, so their share among letters decides first (HojiChar and llm-jp do the same), then that
of hangul and of kanji; the rest goes to py3langid, whose model is inside its wheel, restricted to the configured candidates.
By option the packaged linear model says what is Japanese, with this rule as a second opinion. Text that was saved after it had been
read in a wrong charset is in no language, whatever its letters.

Annotates lang, confidence, kana_share; what is in no kept language is dropped: as `garbled` if it was read in a wrong charset, else as
language_<what it is in>.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus, LanguageId
from beam_pipelines.stage_files import remaining, write_annotations
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm.text import language_model, scripts
from ja_llm.text.language_model import packaged

VERSION = 4
PACKAGES = ("py3langid",)
_CLASSIFY_CHARACTERS = 20_000  # from the text's middle; more does not change the answer
# The bytes that UTF-8 kana begin with (E3 81, E3 82, E3 83) as Shift_JIS. Each stands in a rare word; two of them stand side by side in hardly any text.
_KANA_AS_SHIFT_JIS = "縺繧繝"
_GARBLED_FROM, _GARBLED_AT_LEAST = 0.02, 3  # share of such signs and U+FFFD among the characters, and how many
# EUC-JP as GB 18030 keeps its kana, which stand in both at the same places; its long mark becomes a bracket, which is never closed then.
_LONG_MARK_AS_GB18030, _CLOSED = "〖", "〗"
# From 50 kanji on, Japanese has a kana for every 50 of its characters. Shift_JIS read as GB 18030 and EUC-JP read as Big5 are kanji throughout.
_KANA_FOR, _KANJI_WITHOUT = 50, 50
GARBLED = "garbled"


def identify(text: str, settings: LanguageId) -> tuple[str, float, float]:
    """(language, confidence from 0 to 1, share of kana among letters).

    Example:
      >>> identify("これは日本語の文章です。", LanguageId())[0], identify("This is an English sentence.", LanguageId())[0]
      ('ja', 'en')
    """
    counts = scripts.count(text)
    if counts.letters < settings.min_letters:
        return "und", 0.0, 0.0
    share = (counts.kana + counts.halfwidth_kana) / counts.letters
    if garbled(text):
        return "und", 1.0, share
    # Half-width katakana beside kanji, but no kana of full width, is what EUC-JP becomes as Shift_JIS.
    written = counts.kana + counts.halfwidth_kana + counts.kanji
    without_kana = counts.kanji >= _KANJI_WITHOUT and _KANA_FOR * counts.kana < written
    by_kana = share >= settings.min_kana_share and counts.hangul < counts.kana and not without_kana
    if settings.method == "rule":
        return ("ja", 1.0, share) if by_kana else (*_other(text, counts, settings), share)
    # The model knows no ISO-2022-JP that nobody decoded, and its like: without a kana or kanji nothing is Japanese.
    probability = packaged().probability(text) if written and not without_kana else 0.0
    if (probability > 0.5) != by_kana and settings.second_opinion:
        return "und", 0.5, share
    return ("ja", probability, share) if probability > 0.5 else (*_other(text, counts, settings), share)


def garbled(text: str) -> bool:
    """Whether the text is Japanese that was read in a wrong charset (mojibake), or lost much of its letters to U+FFFD.

    Example:
      >>> [garbled(text * 9) for text in ("これは文です。", "これは文です。".encode().decode("cp932", "replace"), "糸が縺れた。")]
      [False, True, False]
      >>> garbled("ファイルサーバー、データ。".encode("euc_jp").decode("gb18030") * 2)
      True
    """
    if text.count(_LONG_MARK_AS_GB18030) - text.count(_CLOSED) >= _GARBLED_AT_LEAST:
        return True
    found = [n for n in map(text.count, _KANA_AS_SHIFT_JIS) if n]
    signs = text.count("\ufffd") + (sum(found) if len(found) > 1 else 0)
    return signs >= max(_GARBLED_AT_LEAST, _GARBLED_FROM * len(text))


def _other(text: str, counts: scripts.ScriptCounts, settings: LanguageId) -> tuple[str, float]:
    """(language, confidence) of a text that is not Japanese."""
    if counts.hangul >= settings.min_kana_share * counts.letters:
        return "ko", 1.0
    if counts.kanji >= settings.min_han_share * counts.letters:
        return "zh", 1.0
    # Too little kana for a Japanese text: the classifier chooses among the others.
    others = tuple(lang for lang in settings.candidates if lang != "ja")
    start = max(0, (len(text) - _CLASSIFY_CHARACTERS) // 2)
    lang, confidence = _identifier(others).classify(text[start : start + _CLASSIFY_CHARACTERS])
    return lang, float(confidence)


@functools.cache
def _identifier(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Identify the languages of one unit."""
    tally = Tally.of(config)

    def identified() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document, _ in remaining(unit, before):
            lang, confidence, share = identify(document.text, config.language)
            if lang in config.languages:
                tally.keep(document.text, lang)
            else:
                wrong = lang == "und" and garbled(document.text)
                tally.drop_document(number, document, GARBLED if wrong else f"language_{lang}")
            yield number, {"lang": lang, "confidence": round(confidence, 4), "kana_share": round(share, 4)}

    write_annotations(this, unit, identified())
    return tally.to_json()


STAGE = StageSpec(
    "language",
    VERSION,
    lambda config: [config.to_json()["language"], list(config.languages), language_model.VERSION],
    run,
    packages=PACKAGES,
)

"""Stage 2: the language of a document by its content, never by what the page or its folder says.

Kana are Japanese and nothing else, so their share among letters decides first (HojiChar and llm-jp do the same), then that
of hangul and of kanji; the rest goes to py3langid, whose model is inside its wheel, restricted to the configured candidates.

Writes `<unit>.jsonl`: one line a document, [language, confidence, kana share].
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

from beam_pipelines.config import Corpus, LanguageId
from beam_pipelines.extract import read_unit
from beam_pipelines.workspace import Stage, Tally, Unit, write_file
from ja_llm.text import scripts

VERSION = 2
PACKAGES = ("py3langid",)
_CLASSIFY_CHARACTERS = 20_000  # from the text's middle; more does not change the answer


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
    if share >= settings.min_kana_share and counts.hangul < counts.kana:
        return "ja", 1.0, share
    if counts.hangul >= settings.min_kana_share * counts.letters:
        return "ko", 1.0, share
    if counts.kanji >= settings.min_han_share * counts.letters:
        return "zh", 1.0, share
    # Too little kana for a Japanese text: the classifier chooses among the others.
    others = tuple(lang for lang in settings.candidates if lang != "ja")
    start = max(0, (len(text) - _CLASSIFY_CHARACTERS) // 2)
    lang, confidence = _identifier(others).classify(text[start : start + _CLASSIFY_CHARACTERS])
    return lang, float(confidence), share


@functools.cache
def _identifier(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier


def run(unit: Unit, this: Stage, extracted: Stage, config: Corpus) -> dict[str, Any]:
    """Identify the languages of one unit."""
    tally = Tally(config.samples, config.sample_characters, config.seed)
    with write_file(this.file(unit, ".jsonl")) as file:
        for document in read_unit(extracted, unit):
            lang, confidence, share = identify(document.text, config.language)
            file.write(json.dumps([lang, round(confidence, 4), round(share, 4)]).encode() + b"\n")
            if lang in config.languages:
                tally.keep(len(document.text), lang)
            else:
                tally.drop(f"language_{lang}", document.id, document.text, id=document.id, url=document.url)
    return tally.to_json()


def read_languages(this: Stage, unit: Unit | str) -> Iterator[str]:
    """The language of each of the unit's documents, in order."""
    with open(this.file(unit, ".jsonl"), encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)[0]

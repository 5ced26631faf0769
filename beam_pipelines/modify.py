"""Change the text of the documents that stay: widths, Unicode form, personal data, the foot of the page, punctuation.

The order is that of one pass, and passes are repeated until one changes nothing: a cut foot can turn the count of commas, a replaced
comma can bare a number. So modifying what is modified changes nothing.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from beam_pipelines.chain import StageSpec
from beam_pipelines.config import Corpus
from beam_pipelines.settings.modify import Modify
from beam_pipelines.stage_files import changed_documents, remaining
from beam_pipelines.tally import Tally
from beam_pipelines.workspace import Stage, Unit
from ja_llm.text import personal
from ja_llm.text.footer import cut_footer
from ja_llm.text.normalise import clean, normalise
from ja_llm.text.punctuation import normalise_punctuation
from ja_llm.text.widths import fold_widths

VERSION = 2
EMPTY = "empty_when_modified"


@dataclasses.dataclass(frozen=True)
class Modified:
    """A text after modification, what was done to it ("widths", "unicode", "footer", "punctuation", "personal_<kind>"), and how many pieces
    of personal data of each kind were replaced."""

    text: str
    kinds: tuple[str, ...]
    personal: dict[str, int]


def modify(text: str, settings: Modify, lang: str) -> Modified:
    """Modify a text until nothing changes any more.

    Example:
      >>> modify("雨，風．電話は03-1234-5678．", Modify(personal=("phone",), punctuation=True), "ja")
      Modified(text='雨、風。電話は[電話番号]。', kinds=('personal_phone', 'punctuation'), personal={'phone': 1})
    """
    kinds: dict[str, None] = {}  # in the order of their first use
    counts = Counter[str]()
    while True:
        before = text
        for kind, change in _STEPS:
            changed = change(text, settings, lang, counts)
            if changed != text:
                names = [f"personal_{k}" for k in counts] if kind == "personal" else [kind]
                kinds |= dict.fromkeys(names)
                text = changed
        if text == before:
            return Modified(text, tuple(kinds), {kind: counts[kind] for kind in personal.KINDS if counts[kind]})


def _widths(text: str, settings: Modify, lang: str, counts: Counter[str]) -> str:
    return fold_widths(text, settings.widths)


def _unicode(text: str, settings: Modify, lang: str, counts: Counter[str]) -> str:
    return clean(normalise(text, settings.form)) if settings.form else text  # NFKC makes white space of some marks


def _personal(text: str, settings: Modify, lang: str, counts: Counter[str]) -> str:
    if settings.personal:
        text, found = personal.redact(text, settings.personal)
        counts.update(found)
    return text


def _footer(text: str, settings: Modify, lang: str, counts: Counter[str]) -> str:
    return cut_footer(text, settings.footer_lines) if lang == "ja" else text


def _punctuation(text: str, settings: Modify, lang: str, counts: Counter[str]) -> str:
    return normalise_punctuation(text) if settings.punctuation and lang == "ja" else text


_STEPS = (
    ("widths", _widths),
    ("unicode", _unicode),
    ("personal", _personal),
    ("footer", _footer),
    ("punctuation", _punctuation),
)


def run(unit: Unit, this: Stage, before: Sequence[Stage], config: Corpus) -> dict[str, Any]:
    """Modify one unit's documents. Samples show personal data masked; counts of it are the table "personal_data"."""
    tally = Tally.of(config)
    with changed_documents(this, unit) as changed:
        for number, document, lang in remaining(unit, before):
            done = modify(document.text, config.modify, lang)
            for kind, n in done.personal.items():
                tally.count("personal_data", kind, n)
            if not done.text:
                tally.drop_document(number, document, EMPTY)
            elif done.text == document.text:
                tally.keep(document.text, lang)
            else:
                after = dataclasses.replace(document, text=done.text)
                changed.write(number, after)
                shown = personal.mask(document.text, config.modify.personal) if done.personal else document.text
                tally.modify(document, after, done.kinds, lang, shown)
    return {**tally.to_json(), "changed": changed.places}


STAGE = StageSpec("modify", VERSION, lambda config: dataclasses.asdict(config.modify), run)

"""Settings of the stage `language`."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check

_CANDIDATES = ("ja", "en", "zh", "ko", "de", "fr", "es", "it", "pt", "nl", "ru", "pl")


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class LanguageId:
    """Language by content.

    Attributes:
      min_kana_share: share of kana (hangul) among letters from which a text is Japanese (Korean), whatever the classifier
        says: half a sentence of it stands in a page of commands, none in a page of another language.
      min_han_share: share of kanji among letters from which a text without that much kana is Chinese: the classifier takes a
        Chinese page of commands for English. Pages with less of it are a matter for the filters.
      candidates: languages that the classifier chooses among (ISO 639-1); fewer are safer on text full of commands.
      min_letters: texts with fewer letters are "und".
    """

    min_kana_share: float = 0.05
    min_han_share: float = 0.05
    candidates: Sequence[str] = _CANDIDATES
    min_letters: int = 10

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        unknown = unknown_candidates(self.candidates)
        known = "among the languages that py3langid knows (ISO 639-1, e.g. 'de')"
        other = "at least one language beside 'ja', which kana decide"
        return [
            ("candidates", unknown[0] if unknown else "", not unknown, known),
            ("candidates", self.candidates, bool(set(self.candidates) - {"ja"}), other),
        ]


def unknown_candidates(candidates: Sequence[str]) -> list[str]:
    """The languages among these that the classifier does not know; its model, seconds to load, is asked about others than our own only."""
    others = sorted(set(candidates) - set(_CANDIDATES))
    if not others:
        return []
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    known = set(LanguageIdentifier.from_model_file(MODEL_FILE).nb_classes)
    return [lang for lang in others if lang not in known]

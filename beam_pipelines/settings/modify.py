"""Settings of the stage `modify`."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check
from ja_llm.text.normalise import FORMS
from ja_llm.text.personal import KINDS
from ja_llm.text.widths import FOLDS


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Modify:
    """What is changed in the text of the documents that stay; without any binding nothing is.

    Attributes:
      widths: "letters" folds full-width letters and digits and half-width katakana, "all" punctuation and space as well; "": off.
      form: Unicode form, "NFC" or "NFKC"; "": as extraction left it.
      personal: kinds of personal data that are replaced by a placeholder (`ja_llm/text/personal.py`).
      footer_lines: of a Japanese document, how many of the last lines may begin a page's foot, which is cut: Swallow v1's paper has 3, its
        code 10; 0: off.
      punctuation: whether the full-width commas and stops of a Japanese document that mostly has those become ideographic ones.
    """

    widths: str = ""
    form: str = ""
    personal: Sequence[str] = ()
    footer_lines: int = 0
    punctuation: bool = False

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("widths", self.widths, self.widths in FOLDS, f"one of {', '.join(map(repr, FOLDS))}"),
            ("form", self.form, self.form in FORMS, f"one of {', '.join(map(repr, FORMS))}"),
            ("personal", self.personal, set(self.personal) <= set(KINDS), f"of {', '.join(map(repr, KINDS))}"),
            ("footer_lines", self.footer_lines, self.footer_lines >= 0, "0 or more"),
        ]

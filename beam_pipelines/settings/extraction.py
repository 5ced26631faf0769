"""Settings of the stage `extract`."""

import dataclasses

import gin

from beam_pipelines import rapid_check
from beam_pipelines.settings.checks import Check
from ja_llm.text.normalise import FORMS


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Extraction:
    """WARC records to text.

    Attributes:
      source: name of the collection, for documents whose WARC has no metadata record that says it.
      licence: the same for the licence.
      max_bytes: largest body, after content decoding, that is extracted.
      deadline_s: CPU seconds that the extractor may spend on one page (not wall-clock: a busy machine must not change
        the result; a wall-clock limit of ten times as much stands behind it).
      favour: trafilatura's balance: "" for its own, "recall" or "precision".
      normalise: Unicode form of the text: "NFC", "NFKC" or "" for none.
      rapid_check: rule by which a page is dropped on its raw bytes, before extraction, if it can't be Japanese: "swallow_v1" or
        "kana" (`rapid_check.py`); "" for none, because it drops pages of all other languages too.
      reset_caches_every: pages between resets of trafilatura's caches, which grow without bound (adbar/trafilatura#216).
    """

    source: str = "web"
    licence: str = ""
    max_bytes: int = 10_000_000
    deadline_s: float = 20.0
    favour: str = ""
    normalise: str = "NFC"
    rapid_check: str = ""
    reset_caches_every: int = 1000

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("max_bytes", self.max_bytes, self.max_bytes > 0, "a positive number"),
            ("deadline_s", self.deadline_s, self.deadline_s > 0, "a positive number"),
            ("reset_caches_every", self.reset_caches_every, self.reset_caches_every > 0, "a positive number"),
            ("favour", self.favour, self.favour in ("", "recall", "precision"), "one of '', 'recall', 'precision'"),
            ("normalise", self.normalise, self.normalise in FORMS, "one of '', 'NFC', 'NFKC'"),
            ("rapid_check", self.rapid_check, self.rapid_check in ("", *rapid_check.RULES), f"'' or one of {rapid_check.RULES}"),
        ]

"""Settings of the stage `split`."""

import dataclasses
from collections.abc import Mapping

import gin

from beam_pipelines.settings.checks import Check


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Split:
    """Training and held-out documents.

    Attributes:
      heldout_share: share of the documents (or groups) that is held out.
      split_by: "group" keeps a package's or site's pages on one side, so that held-out text is of manuals or sites that were
        never trained on, and a document that names neither is a group by itself; "document" is for sets of few groups.
      seed: of the hash that decides.
      ngrams: characters of the n-grams that containment is measured on, by the held-out document's language, white space
        removed. 13 characters are a clause in Japanese and two words in English, where 40 are about eight words.
      max_containment: a held-out document is dropped if a larger share of its n-grams is in the training text; None: off.
    """

    heldout_share: float = 0.01
    split_by: str = "group"
    seed: int = 1
    ngrams: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"ja": 13, "en": 40})
    max_containment: float | None = 0.5

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("ngrams", self.ngrams, all(n >= 1 for n in self.ngrams.values()), "at least 1 for each language"),
            ("heldout_share", self.heldout_share, 0 <= self.heldout_share < 1, "from 0 to below 1"),
            ("split_by", self.split_by, self.split_by in ("document", "group"), "'document' or 'group'"),
        ]

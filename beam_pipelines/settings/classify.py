"""Settings of the text classifiers: how they are trained, applied, and how much of the corpus stays by them."""

import dataclasses
from collections.abc import Mapping, Sequence

import gin

from beam_pipelines.settings.checks import Check


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Classify:
    """fastText models that score every document.

    Attributes:
      models: path (.bin or .ftz) of each model by a name of its own. One of `ja-llm corpus train-classifier` has its card
        beside it, which says how text is given to it; any other gets the text with spaces for its line ends.
      label_values: what a label is worth; a label that ends in a number (Swallow's classes 0 to 3) is worth that number, others
        nothing. The score is the expected worth.
      languages: only documents of these are scored.
    """

    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_values: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"__label__pos": 1.0})
    languages: Sequence[str] = ("ja",)


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class TopShare:
    """Keep the best-scored share of the documents that remain, by each classifier alone, and of those the union.

    Attributes:
      share: Swallow v2: a tenth, of what survives the rules.
      seed: of the hash that decides among equal scores at the edge.
    """

    share: float = 0.1
    seed: int = 1

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [("share", self.share, 0 < self.share <= 1, "above 0 and up to 1")]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class ClassifierTraining:
    """A fastText classifier of good text (positives) against what a crawl holds (negatives).

    Attributes:
      max_positives: documents, those with the smallest seeded hash. Swallow v2: some 60,000 articles.
      negatives_per_positive: how many of the others, taken the same way.
      min_characters, max_characters: shorter documents are left out; of a longer one the beginning is taken, in training and
        scoring.
      excluded_sites: registered domains whose pages are no negatives: a crawl holds copies of the encyclopaedia.
      validation_share: of the documents, by a hash of their text, that are not trained on.
      lang: of both.
      dimensions, buckets, ngram, epochs, learning_rate: fastText's dim, bucket, wordNgrams (here of characters), epoch, lr. A
        document is one step however long it is, so fewer epochs or a lower rate leave some hundred documents at chance.
      seed: of the choice, the order and fastText.
    """

    max_positives: int = 60_000
    negatives_per_positive: float = 1.0
    min_characters: int = 200
    max_characters: int = 2_000
    excluded_sites: Sequence[str] = ("wikipedia.org",)
    validation_share: float = 0.1
    lang: str = "ja"
    dimensions: int = 16
    buckets: int = 200_000
    ngram: int = 3
    epochs: int = 25
    learning_rate: float = 1.0
    seed: int = 1

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        positive = ("max_positives", "negatives_per_positive", "max_characters", "dimensions", "buckets", "ngram", "epochs")
        return [
            *((name, getattr(self, name), getattr(self, name) > 0, "a positive number") for name in positive),
            ("learning_rate", self.learning_rate, self.learning_rate > 0, "a positive number"),
            ("validation_share", self.validation_share, 0 < self.validation_share < 1, "between 0 and 1"),
        ]

"""Settings of the stages that look for duplicates."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check

_MOST = 9_999  # buckets, the one of whole texts among them, have names of four digits, which are put in order


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class MinHash:
    """Near-duplicate search: `bands` buckets of `rows` hashes over character `ngram`-grams.

    P(two texts of Jaccard similarity J share a bucket) = 1 - (1 - J^rows)^bands.
    """

    ngram: int = 5
    bands: int = 20
    rows: int = 10
    seed: int = 1

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        values = {"bands": self.bands, "rows": self.rows, "ngram": self.ngram}
        return [
            *((name, value, 1 <= value <= _MOST, f"from 1 to {_MOST:,}") for name, value in values.items()),
            ("seed", self.seed, 0 <= self.seed < 1 << 32, "from 0 to 4,294,967,295"),
        ]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Dedup:
    """Who goes for whom, given which documents share a bucket.

    Attributes:
      clusters: "drop_rule" drops what shares a bucket with a better-ranked document (Doubri, Swallow), "union_find" all but the
        best-ranked of every connected component, which are more.
      against: outputs of earlier runs; what is similar to a document in their index is dropped. `--against DIR` adds to it.
      index: write this run's own index into its output: 24 bytes a document and bucket, 504 a document with 20 bands.
    """

    clusters: str = "drop_rule"
    against: Sequence[str] = ()
    index: bool = True

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        rules = ("drop_rule", "union_find")
        return [("clusters", self.clusters, self.clusters in rules, f"one of {rules}")]


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class LineDedup:
    """Lines, or paragraphs, that stand in several documents.

    Attributes:
      unit: "line", or "paragraph" (lines up to an empty one).
      min_characters: shorter ones are left alone, white space not counted. C4: 0.
      keep: which document keeps it: "hash", by a hash that favours no document (C4), or "newest".
      min_remaining: a document is dropped if it has lost a line and has fewer characters left, white space not counted.
    """

    unit: str = "line"
    min_characters: int = 10
    keep: str = "hash"
    min_remaining: int = 1

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("unit", self.unit, self.unit in ("line", "paragraph"), "'line' or 'paragraph'"),
            ("keep", self.keep, self.keep in ("hash", "newest"), "'hash' or 'newest'"),
            ("min_characters", self.min_characters, self.min_characters >= 0, "0 or more"),
            ("min_remaining", self.min_remaining, self.min_remaining >= 0, "0 or more"),
        ]

"""Settings of the stages that look for duplicates."""

import dataclasses

import gin

from beam_pipelines.settings.checks import Check


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
        return [(name, value, value >= 1, "at least 1") for name, value in values.items()]

"""Settings of the stages that look at where a page came from."""

import dataclasses

import gin

from beam_pipelines.settings.checks import Check


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class HostCap:
    """At most so many pages of one site.

    Attributes:
      max_documents: of a site; more are dropped, those with the largest seeded hash of their id.
      by: "domain" is the registered domain, the part that somebody owns (example.co.jp, and each blog of a service in the public
        suffix list); "host" is the whole host name.
      seed: of the hash.
    """

    max_documents: int = 10_000
    by: str = "domain"
    seed: int = 1

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("max_documents", self.max_documents, self.max_documents >= 1, "at least 1"),
            ("by", self.by, self.by in ("domain", "host"), "'domain' or 'host'"),
        ]

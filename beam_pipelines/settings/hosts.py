"""Settings of the stage `host_filter`, and of the expressions that it and the rules of `select` count."""

import dataclasses
from collections.abc import Sequence

import gin

from beam_pipelines.settings.checks import Check

# The categories of the UT1 lists that Swallow v1's code treats as bad, as far as its description names them. "mixed_adult" belongs to
# them by intent only: the code spells it with a space, which no folder has.
SWALLOW_V1_CATEGORIES = (
    "adult",
    "shopping",
    "games",
    "social_networks",
    "gambling",
    "financial",
    "manga",
    "dating",
    "chat",
    "celebrity",
    "publicite",
    "filehosting",
    "malware",
    "phishing",
    "warez",
    "redirectors",
    "vpn",
)


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Expressions:
    """Lists of expressions that `annotate` counts in Japanese documents: text files with one expression a line, in UTF-8.

    Attributes:
      lists: NG expressions; their share of the Japanese letters is the statistic `ng_share`.
      ng_share_from: a document is dropped from this share of NG characters on (Swallow v1 keeps what is below .05); None: off.
      names: names that mark a page as one of a bad kind (of dating sites, in Swallow v1); a page with one has the statistic `named` 1.
    """

    lists: Sequence[str] = ()
    ng_share_from: float | None = 0.05
    names: Sequence[str] = ()


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class HostFilter:
    """Which hosts' documents are dropped.

    Attributes:
      blocklist: a folder laid out as UT1's lists (FOLDER/<category>/domains, a host a line); "": none.
      categories: the folders of it whose hosts are bad.
      match: "exact" drops the listed host alone, as Swallow v1's code does, so that www.bad.example passes where bad.example is
        listed; "suffix" drops its sub-domains as well.
      patterns: shell patterns of hosts, e.g. "*.5ch.net".
      max_named_page_share: a host is dropped if a larger share of its pages has one of `Expressions.names`; None: off.
      max_ng_character_share: the same if NG expressions make up a larger share of the Japanese letters of all its pages.
      spared: a host whose name contains one of these is dropped for neither share.
    """

    blocklist: str = ""
    categories: Sequence[str] = SWALLOW_V1_CATEGORIES
    match: str = "exact"
    patterns: Sequence[str] = ()
    max_named_page_share: float | None = None
    max_ng_character_share: float | None = None
    spared: Sequence[str] = ()

    def checks(self) -> list[Check]:
        """Conditions on the values."""
        return [
            ("match", self.match, self.match in ("exact", "suffix"), "'exact' or 'suffix'"),
            ("categories", self.categories, bool(self.categories) or not self.blocklist, "not empty where there is a blocklist"),
        ]

    @property
    def by_share(self) -> bool:
        """Whether a host is judged by all of its pages."""
        return self.max_named_page_share is not None or self.max_ng_character_share is not None

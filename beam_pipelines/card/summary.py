"""What a data card counts of the documents themselves: lengths, hosts, licences, dates, and histograms of statistics.

Counts are sums, so those of shards or units add up to those of the whole in any order. Memory: a counter of the hosts.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ja_llm.documents import Document, read_documents

# Bins of a histogram of counts: eight a decade, from 1 to 10^8.
COUNT_EDGES = [10 ** (i / 8) for i in range(65)]
# Bins of a histogram of shares and scores: fifty over 0..1.
SHARE_EDGES = [i / 50 for i in range(51)]
# Statistics that lie in 0..1, by the end of their name; all others are counts or lengths.
_SHARES = ("share", "score", "ratio", "probability")

Table = dict[str, Counter]


def is_share(statistic: str) -> bool:
    """Whether a statistic lies in 0..1."""
    return statistic.endswith(_SHARES)


def count_bin(value: float) -> int:
    """The bin of `COUNT_EDGES` that a count falls in; those below 1 fall in the first.

    Example:
      >>> count_bin(0), count_bin(1), count_bin(99), count_bin(100), count_bin(10**12)
      (0, 0, 15, 16, 63)
    """
    if value < 1:
        return 0
    return min(math.floor(8 * math.log10(value) + 1e-9), len(COUNT_EDGES) - 2)


def share_bin(value: float) -> int:
    """The bin of `SHARE_EDGES` that a share falls in.

    Example:
      >>> share_bin(0), share_bin(0.02), share_bin(0.999), share_bin(1.0), share_bin(1.2)
      (0, 1, 49, 49, 49)
    """
    return min(max(math.floor(50 * value + 1e-9), 0), len(SHARE_EDGES) - 2)


class Histograms:
    """Counts of statistics in fixed bins, by language: {lang: {statistic: {bin: documents}}}."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    def add(self, lang: str, statistics: Mapping[str, float]) -> None:
        """Count one document's statistics; what is not finite is left out."""
        table = self.tables.setdefault(lang, {})
        for name, value in statistics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                where = share_bin(value) if is_share(name) else count_bin(value)
                table.setdefault(name, Counter())[where] += 1

    def merge(self, value: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
        """Add what another's `to_json` gave."""
        for lang, table in value.items():
            mine = self.tables.setdefault(lang, {})
            for name, bins in table.items():
                mine.setdefault(name, Counter()).update({int(k): n for k, n in bins.items()})

    def to_json(self) -> dict[str, dict[str, dict[str, int]]]:
        """JSON types, sorted."""
        return {
            lang: {name: {str(k): bins[k] for k in sorted(bins)} for name, bins in sorted(table.items())}
            for lang, table in sorted(self.tables.items())
        }


class Summary:
    """Counts over documents of a set: by language their hosts, licences, sources, years and lengths.

    A host is the URL's host name in lower case, "" where the URL has none; a year is the first four digits of the date.
    """

    KINDS = ("hosts", "licences", "sources", "years")

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {kind: {} for kind in self.KINDS}
        self.lengths = Histograms()

    def add(self, document: Document) -> None:
        """Count one document."""
        values = (host(document.url), document.licence, document.source, document.date[:4])
        for kind, value in zip(self.KINDS, values, strict=True):
            self.tables[kind].setdefault(document.lang, Counter())[value] += 1
        size = {"characters": len(document.text), "lines": document.text.count("\n") + 1}
        self.lengths.add(document.lang, size)

    def merge(self, value: Mapping[str, Any]) -> None:
        """Add what another's `to_json` gave."""
        for kind in self.KINDS:
            for lang, counts in value[kind].items():
                self.tables[kind].setdefault(lang, Counter()).update(counts)
        self.lengths.merge(value["lengths"])

    def to_json(self) -> dict[str, Any]:
        """JSON types, sorted, so that equal sets give equal bytes."""
        kinds = {
            kind: {lang: dict(sorted(counts.items())) for lang, counts in sorted(table.items())}
            for kind, table in self.tables.items()
        }
        return {**kinds, "lengths": self.lengths.to_json()}

    def top(self, kind: str, most: int) -> list[tuple[str, dict[str, int]]]:
        """(value, {lang: documents}) of the values with the most documents over all languages."""
        total: Counter = Counter()
        for counts in self.tables[kind].values():
            total.update(counts)
        first = sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
        return [(value, {lang: counts[value] for lang, counts in sorted(self.tables[kind].items())}) for value, _ in first]

    def distinct(self, kind: str) -> int:
        """How many different values there are over all languages."""
        return len(set().union(*self.tables[kind].values())) if self.tables[kind] else 0


def host(url: str) -> str:
    """The host name of a URL, "" for none (a file path, a URL that can't be parsed)."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def summarise(shards: Iterable[str | Path]) -> Summary:
    """Read the documents of shards and count them.

    Raises:
      JaLlmError: a shard is damaged.
    """
    summary = Summary()
    for shard in shards:
        for document in read_documents(shard):
            summary.add(document)
    return summary

"""What happened to one unit's documents in one stage, counted in pages, characters and UTF-8 bytes, with samples.

A stage's marker holds a tally as JSON, and the chain's reader takes from it which documents are gone (`drops`).
"""

import bisect
import heapq
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from ja_llm.documents import Document

if TYPE_CHECKING:
    from beam_pipelines.config import Corpus

# What markers hold at least of each reason: more or longer samples up to here, or fewer, are cut from it without another look at the input.
KEPT_SAMPLES, KEPT_CHARACTERS = 50, 1000

Counts = dict[str, list[int]]  # key -> [documents, characters, UTF-8 bytes]


class Tally:
    """Counts, and samples, of one unit in one stage.

    Args:
      samples: documents to keep per reason: those with the smallest seeded hash, so that units' samples merge into the
        sample of the whole.
      sample_characters: of each one's text.
      seed: of the hash.
    """

    def __init__(self, samples: int, sample_characters: int, seed: int):
        self._samples, self._characters, self._seed = samples, sample_characters, seed
        self.kept: Counts = {}
        self.dropped: Counts = {}
        self.modified: Counts = {}
        self.tables: dict[str, dict[str, int]] = {}
        self._drops: list[list[Any]] = []
        self._shrunk = [0, 0]
        self._sampled: dict[str, dict[str, list[tuple[int, dict[str, Any]]]]] = {"dropped": {}, "modified": {}}
        self._start = time.monotonic()

    @classmethod
    def of(cls, config: "Corpus") -> "Tally":
        """A tally with the configuration's sampling, or more of it than is to be shown (`sampling`)."""
        return cls(*sampling(config))

    def keep(self, text: str, lang: str = "") -> None:
        """Count a document that stays as it is, by language where it is known."""
        _add(self.kept, lang, text)

    def drop(self, reason: str, key: str, text: str = "", **fields: Any) -> None:
        """Count something dropped that never was a document; `key` identifies it for the sampling, `fields` go into the sample."""
        _add(self.dropped, reason, text)
        self._sample("dropped", reason, key, {**fields, **({"text": _beginning(text, self._characters)} if text else {})})

    def drop_document(self, number: int, document: Document, reason: str, note: str = "", **fields: Any) -> None:
        """Count document `number` of the unit as dropped, so that no later stage sees it.

        Args:
          number: the document's number in the unit.
          document: as this stage saw it.
          reason: snake_case; it names a file of samples.
          note: what a trace of this one document should say besides (the id of the better copy, a matched host).
          **fields: for the sample.
        """
        self._drops.append([number, reason, note] if note else [number, reason])
        self.drop(reason, document.id, document.text, id=document.id, url=document.url, **fields)

    def modify(self, before: Document, after: Document, kinds: Sequence[str], lang: str = "", shown: str | None = None) -> None:
        """Count a document that stays with another text; `kinds` (snake_case) say what was done, and each samples it.

        The counts of a kind are documents and their characters and bytes before. `shown` stands in the sample for the text before (personal
        data is masked in it).
        """
        _add(self.kept, lang, after.text)
        for i, (size, left) in enumerate(zip(_sizes(before.text), _sizes(after.text), strict=True)):
            self._shrunk[i] += size - left
        old = before.text if shown is None else shown
        sample = _around_change({"at": 0, "before": old, "after": after.text}, self._characters)
        for kind in kinds:
            _add(self.modified, kind, before.text)
            self._sample("modified", kind, before.id, {"id": before.id, "url": before.url, **sample})

    def count(self, table: str, key: str, n: int = 1) -> None:
        """Add to a table that the manifest shows summed over all units, e.g. `count("licences", document.licence)`."""
        entries = self.tables.setdefault(table, {})
        entries[key] = entries.get(key, 0) + n

    def to_json(self) -> dict[str, Any]:
        """For the marker. `seconds` is never part of content that is hashed."""
        return {
            "kept": self.kept,
            "dropped": self.dropped,
            "modified": self.modified,
            "shrunk": self._shrunk,
            "drops": self._drops,
            "tables": self.tables,
            "samples": self._sampled["dropped"],
            "modified_samples": self._sampled["modified"],
            "seconds": time.monotonic() - self._start,
        }

    def _sample(self, group: str, reason: str, key: str, fields: dict[str, Any]) -> None:
        rank = xxhash.xxh64_intdigest(key.encode("utf-8", "surrogatepass"), self._seed)
        held = self._sampled[group].setdefault(reason, [])
        if len(held) < self._samples or (held and rank < held[-1][0]):
            bisect.insort(held, (rank, {"reason": reason, **fields}), key=lambda entry: entry[0])
            del held[self._samples :]


def sampling(config: "Corpus") -> tuple[int, int, int]:
    """(samples a reason, characters of each, seed) of a marker: what of the configuration decides one."""
    return max(config.samples, KEPT_SAMPLES), max(config.sample_characters, KEPT_CHARACTERS), config.seed


def shown_samples(result: dict[str, Any], config: "Corpus") -> dict[str, Any]:
    """A marker's result with as many samples as the configuration wants to show, and as much of each."""
    groups = {
        group: {
            reason: [(rank, _cut(entry, config.sample_characters)) for rank, entry in entries[: config.samples]]
            for reason, entries in result[group].items()
        }
        for group in ("samples", "modified_samples")
    }
    return {**result, **groups}


def _cut(entry: dict[str, Any], characters: int) -> dict[str, Any]:
    if "before" in entry:
        return {**entry, **_around_change(entry, characters)}
    return {**entry, "text": _beginning(entry["text"], characters)} if "text" in entry else entry


def _beginning(text: str, characters: int) -> str:
    """At most so many characters, the last an ellipsis where there were more."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"[:characters]


def _around_change(entry: dict[str, Any], characters: int) -> dict[str, Any]:
    """`before` and `after` from a little before their first difference on; `at` says where that is in the whole text."""
    before, after = entry["before"], entry["after"]
    start = max(0, _first_difference(before, after) - characters // 8)
    end = start + characters
    return {"at": entry["at"] + start, "before": before[start:end], "after": after[start:end]}


def _sizes(text: str) -> tuple[int, int]:
    return len(text), len(text.encode("utf-8", "surrogatepass"))


def _add(table: Counts, key: str, text: str) -> None:
    entry = table.setdefault(key, [0, 0, 0])
    for i, n in enumerate((1, *_sizes(text))):
        entry[i] += n


def _first_difference(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))  # the longest common prefix, by bisection: comparing slices is fast
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def merge_counts(tables: Iterable[Counts]) -> Counts:
    """Sum tables of [documents, characters, bytes]."""
    total: Counts = {}
    for table in tables:
        for key, counts in table.items():
            entry = total.setdefault(key, [0, 0, 0])
            for i, n in enumerate(counts):
                entry[i] += n
    return dict(sorted(total.items()))


def merge_tables(results: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Sum the tables that `Tally.count` made."""
    total: dict[str, dict[str, int]] = {}
    for result in results:
        for name, table in result["tables"].items():
            entries = total.setdefault(name, {})
            for key, n in table.items():
                entries[key] = entries.get(key, 0) + n
    return {name: dict(sorted(table.items())) for name, table in sorted(total.items())}


def merge_samples(results: Iterable[dict[str, Any]], samples: int, group: str = "samples") -> dict[str, list[dict[str, Any]]]:
    """The sample of the whole from the units' samples; `group` is "samples" (dropped) or "modified_samples"."""
    merged: dict[str, list] = {}
    for result in results:
        for reason, entries in result[group].items():
            merged[reason] = heapq.nsmallest(samples, [*merged.get(reason, []), *entries], key=lambda entry: entry[0])
    return {reason: [entry for _, entry in entries] for reason, entries in sorted(merged.items())}


def records_in(result: dict[str, Any]) -> int:
    """Documents (of the first stage: pages) that a stage was given, from its marker."""
    return sum(counts[0] for table in (result["kept"], result["dropped"]) for counts in table.values())

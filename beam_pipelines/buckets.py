"""Documents that share a hash, over the whole corpus, and the best-ranked of each bucket.

Deduplication by URL, by text, by MinHash bands and by line is one operation on different hashes: all members of a bucket
but the best-ranked one are linked to it. Who drops whom for that is `dedup.py`'s and `lines.py`'s business.

Each unit has two files: `<unit>.npy`, ENTRY [buckets, entries], every row sorted by hash, and `<unit>.ranks.npy`, RANK
[documents]. A task is one bucket number and one range of hashes. It finds its entries in all units' files by binary
search, so nothing is shuffled and no table of a GroupByKey stays in memory: a task keeps one row for each *distinct* hash of
its range and a block of entries. A bucket of a hundred million members takes no more room than one of two.

A task writes `<task>.links` (LINK, in no particular order), `<task>.earlier` (EARLIER: documents that an earlier run
knows) and `<task>.index` (INDEX, sorted by hash), which is what a later run compares with (`dedup_index.py`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from beam_pipelines import mirror
from beam_pipelines.workspace import Stage, Unit, write_file
from ja_llm.documents import Document

ENTRY = np.dtype([("hash", "<u8"), ("row", "<u4")])
RANK = np.dtype([("age", "<u8"), ("high", "<u8"), ("low", "<u8"), ("number", "<u4")])
LINK = np.dtype([("hash", "<u8"), ("document", "<i8"), ("better", "<i8")])
EARLIER = np.dtype([("document", "<i8"), ("high", "<u8"), ("low", "<u8")])
INDEX = np.dtype([("hash", "<u8"), ("high", "<u8"), ("low", "<u8")])
_MEMBER = np.dtype([("hash", "<u8"), ("age", "<u8"), ("high", "<u8"), ("low", "<u8"), ("document", "<i8")])

_DATE_DIGITS = 18  # year to seconds are 14; fractions of a second follow
_BLOCK = 1 << 20  # entries that a task looks at together
ENTRIES_PER_TASK = 1 << 23


def age(date: str) -> int:
    """How old a date is, for ranking: the digits of the date in the form of `dates.to_utc` as a number, the newest smallest, no date last.

    Example:
      >>> age("2024-05-05T10:00:00Z") < age("2024-05-05") < age("2023-12-31T23:59:59Z") < age("")
      True
    """
    digits = "".join(c for c in date if c in "0123456789")[:_DATE_DIGITS]
    return 10**_DATE_DIGITS - int(digits.ljust(_DATE_DIGITS, "0"))


def rank_row(number: int, document: Document) -> tuple[int, int, int, int]:
    """A RANK row. Rank: newer date first, then smaller id, then unit and number."""
    return age(document.date), int(document.id[:16] or "0", 16), int(document.id[16:32] or "0", 16), number


def document_id(high: int, low: int) -> str:
    """The id that `rank_row` took apart."""
    return f"{int(high):016x}{int(low):016x}"


def write_entries(this: Stage, unit: Unit, ranks: Sequence[tuple[int, int, int, int]], entries: np.ndarray) -> None:
    """Write a unit's two files.

    Args:
      this: the stage that made the hashes.
      unit: the unit.
      ranks: one row a document, as `rank_row` gives.
      entries: ENTRY [buckets, entries], each row sorted by hash; `row` counts in `ranks`.
    """
    with write_file(this.file(unit, ".ranks.npy")) as file:
        np.save(file, np.array(ranks, RANK))
    with write_file(this.file(unit, ".npy")) as file:
        np.save(file, entries)


def entries_of(hashes: np.ndarray) -> np.ndarray:
    """ENTRY [buckets, documents], sorted, of uint64 [documents, buckets]: one entry in each bucket for every document."""
    entries = np.empty(hashes.T.shape, ENTRY)
    for row, column in zip(entries, hashes.T, strict=True):
        order = np.argsort(column, kind="stable")
        row["hash"], row["row"] = column[order], order
    return entries


@dataclasses.dataclass(frozen=True)
class Tables:
    """All units' files of one signing stage. Documents are numbered through: those of the first unit by key come first.

    Attributes:
      folder: the signing stage's.
      units: the units' keys, sorted.
      first: int64 [units + 1]: number of each unit's first document, and at the end how many there are.
    """

    folder: Path
    units: tuple[str, ...]
    first: np.ndarray

    @classmethod
    def open(cls, signed: Stage, units: Iterable[Unit | str]) -> "Tables":
        """The tables of the units, in the order of their keys whatever the order of the input."""
        keys = tuple(sorted(unit if isinstance(unit, str) else unit.key for unit in units))
        sizes = [len(np.load(signed.file(key, ".ranks.npy"), mmap_mode="r")) for key in keys]
        return cls(signed.folder, keys, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64))

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return int(self.first[-1])

    def ranks(self, index: int) -> np.ndarray:
        """RANK [documents] of a unit, by its place in `units`."""
        return np.load(mirror.fetched(self.folder / f"{self.units[index]}.ranks.npy"), mmap_mode="r")

    def all_ranks(self) -> np.ndarray:
        """RANK [all documents]: 28 bytes a document."""
        parts = [self.ranks(i) for i in range(len(self.units))]
        return np.concatenate(parts) if parts else np.zeros(0, RANK)

    def members(self, task: "Task") -> Iterator[np.ndarray]:
        """The task's members in blocks, in the order of the units' keys."""
        for index, key in enumerate(self.units):
            entries = np.load(mirror.fetched(self.folder / f"{key}.npy"), mmap_mode="r")[task.bucket]
            low = np.searchsorted(entries["hash"], np.uint64(task.low), "left")
            high = np.searchsorted(entries["hash"], np.uint64(task.high), "right")
            ranks = self.ranks(index) if high > low else None
            for start in range(low, high, _BLOCK):
                block = entries[start : min(start + _BLOCK, high)]
                found = np.empty(len(block), _MEMBER)
                found["hash"] = block["hash"]
                for name in ("age", "high", "low"):
                    found[name] = ranks[name][block["row"]]  # type: ignore[index]
                if task.fair:
                    found["age"] = fair_order(found)
                found["document"] = self.first[index] + block["row"]
                yield found


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Mix uint64 values (Steele, Lea, Flood 2014, the finaliser of SplittableRandom)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def fair_order(members: np.ndarray) -> np.ndarray:
    """uint64 [members]: an order of a bucket's members by a hash of document id and bucket, which favours no document."""
    with np.errstate(over="ignore"):
        return splitmix64(splitmix64(splitmix64(members["high"]) + members["low"]) ^ members["hash"])


@dataclasses.dataclass(frozen=True)
class Task:
    """A bucket number and a range of hashes, both ends included; `fair` ranks by hash instead of by date."""

    bucket: int
    low: int
    high: int
    fair: bool = False

    @property
    def key(self) -> str:
        """Name of its files; sorts by bucket, then range."""
        return f"{self.bucket:04d}-{self.low:016x}"


def tasks(buckets: int, entries: int, fair: bool = False, per_task: int = ENTRIES_PER_TASK) -> list[Task]:
    """The tasks over `buckets` rows of so many entries each: in one range of hashes, or as many as keep a task small.

    Example:
      >>> [task.key for task in tasks(2, 100)], len(tasks(2, 30, per_task=10))
      (['0000-0000000000000000', '0001-0000000000000000'], 6)
    """
    parts = max(1, -(-entries // per_task))
    ends = [(i << 64) // parts for i in range(parts + 1)]
    return [Task(bucket, low, high - 1, fair) for bucket in range(buckets) for low, high in zip(ends, ends[1:], strict=False)]


def by_rank(ranks: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen document numbers (int64) with the best-ranked first; `ranks` are RANK rows of all documents."""
    rows = ranks[chosen]
    return chosen[np.lexsort([chosen, rows["low"], rows["high"], rows["age"]])]


def best_of(members: np.ndarray) -> np.ndarray:
    """_MEMBER rows to one for each distinct hash, sorted by hash: the best-ranked one."""
    order = np.argsort(members["hash"], kind="stable")
    hashes = members["hash"][order]
    new = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    several = np.zeros(len(new), bool)
    several[1:] = ~new[1:]
    several[:-1] |= ~new[1:]
    if several.any():  # the costly order is for these alone; most documents are by themselves
        among = members[order[several]]
        order[several] = order[several][np.lexsort([among[name] for name in ("document", "low", "high", "age", "hash")])]
    return members[order[new]] if len(members) else members


@dataclasses.dataclass(frozen=True)
class TaskFiles:
    """The files that a task writes: LINK, EARLIER and INDEX rows."""

    links: BinaryIO
    earlier: BinaryIO
    index: BinaryIO


def find_links(tables: Tables, task: Task, against: Sequence[np.ndarray], files: TaskFiles) -> int:
    """Link the members of every bucket to the best one, and to documents of earlier runs that share the hash.

    Goes over the members twice: for the best of each hash, then to link the others to it.

    Args:
      tables: the units' entries and ranks.
      task: which of them.
      against: INDEX rows of earlier runs for this bucket, each sorted by hash.
      files: where to.

    Returns:
      Number of members.
    """
    best, members = _best(tables, task)
    index = np.empty(len(best), INDEX)
    for name in INDEX.names or ():
        index[name] = best[name]
    files.index.write(index.tobytes())
    known, high, low = _look_up(index["hash"], against)
    if len(best) == members and not known.any():
        return members
    hashes, documents = index["hash"].copy(), best["document"].copy()
    for block in tables.members(task):
        place = np.searchsorted(hashes, block["hash"])
        linked = documents[place] != block["document"]
        files.links.write(_rows(LINK, block["hash"][linked], block["document"][linked], documents[place][linked]))
        met = known[place]
        files.earlier.write(_rows(EARLIER, block["document"][met], high[place][met], low[place][met]))
    return members


def _best(tables: Tables, task: Task) -> tuple[np.ndarray, int]:
    """The best member of each hash, sorted by hash, and how many members there are."""
    best, waiting, count, members = np.zeros(0, _MEMBER), [], 0, 0
    for block in tables.members(task):
        waiting.append(block)
        count += len(block)
        members += len(block)
        if count > max(len(best), _BLOCK):  # a merge sorts the table again: let it be worth it
            best, waiting, count = best_of(np.concatenate([best, *waiting])), [], 0
    return best_of(np.concatenate([best, *waiting])), members


def _look_up(hashes: np.ndarray, against: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(whether an earlier run knows the hash, high and low half of that document's id); the first index that knows it counts."""
    known = np.zeros(len(hashes), bool)
    high, low = np.zeros(len(hashes), np.uint64), np.zeros(len(hashes), np.uint64)
    for index in against:
        if not len(index):
            continue
        place = np.minimum(np.searchsorted(index["hash"], hashes), len(index) - 1)
        new = (index["hash"][place] == hashes) & ~known
        high[new], low[new] = index["high"][place[new]], index["low"][place[new]]
        known |= new
    return known, high, low


def _rows(kind: np.dtype, *columns: np.ndarray) -> bytes:
    rows = np.empty(len(columns[0]), kind)
    for name, column in zip(kind.names or (), columns, strict=True):
        rows[name] = column
    return rows.tobytes()


def read_rows(path: Path, kind: np.dtype) -> Iterator[np.ndarray]:
    """The rows of a task's file, a block at a time."""
    with open(path, "rb") as file:
        while data := file.read(_BLOCK * kind.itemsize):
            yield np.frombuffer(data, kind)

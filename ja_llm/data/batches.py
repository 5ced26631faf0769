"""Batches: a pure function of (data fingerprint, seed, schedule, data step).

Every member store of a mixture is cut into rows by its packing plan; Grain's `MapDataset` shuffles the rows of a member
(anew each epoch) and repeats them; `ja_llm.data.mixing` mixes the members by their rates, which are shares of the tokens: a member's share of
the rows is larger by its padding. Batch k is rows [k * batch_size, (k + 1) * batch_size) of that order: nothing is replayed after a restart,
and any number of hosts reads the same batch, each its own rows. Needs NumPy, Grain and TensorStore; no TensorFlow.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from ja_llm import manifest
from ja_llm.data.best_fit import BestFit
from ja_llm.data.mixing import MIXING, MIXINGS, Order
from ja_llm.data.packing import ConcatenateAndCut, PackingPlan, Span
from ja_llm.data.rates import Rule, resolved
from ja_llm.data.repeats import LONGEST_SPAN, REPETITIONS, repeating_rows
from ja_llm.data.schedule import Position
from ja_llm.data.store import SMALL_BYTES, TokenStore
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import sha256_json
from ja_llm.vocab.base import Tokenizer

Batch = dict[str, np.ndarray]


class _Member(NamedTuple):
    task: str
    rate: float
    store: TokenStore
    plan: PackingPlan


def _places(shares: Mapping[str, float], filled: Mapping[str, float]) -> float:
    """Places in rows that a token takes, with the padding that comes with it."""
    return sum(share / filled[task] for task, share in shares.items())


def _settled(shares: Callable[[float], dict[str, float]], filled: Mapping[str, float], there: int) -> dict[str, float]:
    """The shares for as many tokens as there are places for, which depends on the shares where members are padded unequally.

    Found by halving, from below: a rule may refuse tokens that the rows have no room for.
    """
    low, high = there * min(filled.values()), float(there)
    chosen = shares(low)
    while low < (middle := (low + high) / 2) < high:
        try:
            found = shares(middle)
        except UsageError:
            high = middle
            continue
        if middle * _places(found, filled) <= there:
            low, chosen = middle, found
        else:
            high = middle
    return chosen


class BatchSource:
    """Batches of one split of a cached mixture; `source[data_step]` is pure.

    Args:
      cache_dir: folder that `cache` wrote.
      length: tokens in a row (the model's context).
      batch_size: rows in the global batch.
      seed: decides the order of rows; 0 or more.
      split: "train" or "heldout".
      packing: how documents are cut into rows: "concatenate" (no padding, documents are cut) or "best_fit" (whole documents, some
        padding); see `ja_llm.data.packing` and `ja_llm.data.best_fit`.
      mixing: how rows of several members are mixed, by a name of `ja_llm.data.mixing`; another than the default for a run that began with it.
      rates: other shares of the tokens than those that the cache was made with: {task: share}, or a rule (`ja_llm.data.rates`).
      batches: how many will be read in all; a rule may depend on it.
      subset_tokens: {task: tokens}: of a member read only the first documents of at most so many tokens. A store is written in shuffled
        order, so they are a random draw, whatever part of it another number would be. Tasks that are no member are passed over.
      repeat_filter: rows that repeat a short span over and over have no weight (`ja_llm.data.repeats`); they are read all the same.

    Attributes:
      positions: how many the model has learnt, for one with a table of them; a document's part that reaches beyond counts from 0 again. None: any.
      rates: {task: share of the tokens} in force.
      mixing: which row is of which member.
      mixture: fingerprint of the mixture (what a stage of a schedule names).
      fingerprint: identity of the data whatever the seed and batch size: stores, packing plans, rates, length, mixing.
      vocabulary: fingerprint of the vocabulary that the tokens belong to.
      licences: {licence: documents} of the document sets.

    Raises:
      JaLlmError: the cache is unfinished or damaged, or has no such split.
      UsageError: an argument is out of range.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        length: int,
        batch_size: int,
        seed: int,
        split: str = "train",
        packing: str = "concatenate",
        mixing: str = MIXING,
        rates: Rule | Mapping[str, float] | None = None,
        batches: int = 0,
        subset_tokens: Mapping[str, float] | None = None,
        repeat_filter: bool = False,
    ):
        if length < 1 or batch_size < 1 or seed < 0:
            raise UsageError(
                f"row length {length}, batch size {batch_size} and seed {seed} can't be used; the first two must be 1 or more, the seed 0 or more."
            )
        self.directory, self.length, self.batch_size, self.seed, self.split = Path(cache_dir), length, batch_size, seed, split
        self.positions: int | None = None
        value = manifest.read(self.directory, manifest.MIXTURE)
        if packing not in PACKINGS:
            raise UsageError(f"PACKING is {packing!r}; choose {' or '.join(PACKINGS)}.")
        self._packing, self._subset, self._repeat_filter = packing, dict(subset_tokens or {}), repeat_filter
        self._tokens_mixed = mixing == MIXING
        self.manifest, self.mixture, self.vocabulary = value, manifest.fingerprint(value), value["config"]["vocabulary"]
        self.licences: dict[str, int] = value.get("licences", {})
        self._members = self._open_members(value["members"])
        if rates is not None:
            self._members = self._at_rates(rates, batches * batch_size)
            self.mixture = sha256_json({"mixture": self.mixture, "rates": {m.task: m.rate for m in self._members}})
        self.rates = {m.task: m.rate for m in self._members}
        self.mixing: Order = MIXINGS[mixing]([m.rate / self._filled(m) for m in self._members])
        self.fingerprint = sha256_json(
            {
                "members": [[m.task, m.rate, m.store.fingerprint, m.plan.fingerprint] for m in self._members],
                "length": length,
                "vocabulary": self.vocabulary,
                "split": split,
                # So that a version which does not know this order refuses the run.
                **({} if mixing == "grain" else {"mixing": mixing}),
                **({"repeat_filter": [LONGEST_SPAN, REPETITIONS]} if repeat_filter else {}),
            }
        )
        self._orders = [self._shuffled(member) for member in self._members]
        self.goes_on_after({})

    def goes_on_after(self, read: Mapping[str, int]) -> None:
        """Begin each member's order behind the rows that were read of it: {identity of a member: rows}."""
        self._begins = [read.get(_identity(member), 0) for member in self._members]

    def _open_members(self, entries: list[dict[str, Any]]) -> list[_Member]:
        chosen = [(entry, entry["splits"][self.split]) for entry in entries if self.split in entry["splits"]]
        if len(chosen) < len(entries):
            lacking = ", ".join(entry["task"] for entry in entries if self.split not in entry["splits"])
            raise JaLlmError(
                f"{self.directory}: there are no {self.split!r} documents of {lacking}; give it more documents and make the cache again."
            )
        # The budget is for the mixture, so that many middling stores do not fill the memory together.
        small = sum(4 * part["tokens"] for _, part in chosen) <= SMALL_BYTES
        members = []
        # By name: the order in which a mixture lists its tasks is in no fingerprint, so it must not decide the batches.
        for entry, part in sorted(chosen, key=lambda pair: pair[0]["task"]):
            store = TokenStore.open(self.directory / part["path"], in_memory=small)
            if store.fingerprint != part["fingerprint"]:
                raise JaLlmError(
                    f"{store.path}: this token store is not the one that the mixture was made with; make the cache again."
                )
            offsets = self._chosen(entry["task"], store)
            plan: PackingPlan
            if self._packing == "best_fit":
                plan = BestFit(offsets, self.length, self.directory / ".plans")
            else:
                plan = ConcatenateAndCut(offsets, self.length)
            # Grain shuffles 32-bit indices.
            if plan.rows >= 2**32:
                raise JaLlmError(
                    f"{store.path}: {plan.rows} rows of {self.length} tokens are more than can be shuffled (2^32); use longer rows."
                )
            members.append(_Member(entry["task"], float(entry["rate"]), store, plan))
        return members

    def _chosen(self, task: str, store: TokenStore) -> np.ndarray:
        """Offsets of the documents that are read of a store; a part of them makes a plan, and so a run, of its own fingerprint."""
        if task not in self._subset:
            return store.offsets
        most = self._subset[task]
        documents = int(np.searchsorted(store.offsets, most, side="right")) - 1
        if documents < 1:
            raise UsageError(
                f"SUBSET_TOKENS gives {task!r} {most:g} tokens, in which not even its first document fits ({int(store.offsets[1])}); give it more."
            )
        return store.offsets[: documents + 1]

    def _filled(self, member: _Member) -> float:
        """How much of a member's rows is tokens: a row of a plan with padding holds fewer, and rates are shares of tokens."""
        counted = self._tokens_mixed or self._packing == "best_fit"
        return 1 - member.plan.statistics()["padding"] if counted else 1.0

    def _at_rates(self, rates: Rule | Mapping[str, float], rows: int) -> list[_Member]:
        """The members at other rates, without those that then have none."""
        filled = {m.task: self._filled(m) for m in self._members}
        sizes = {m.task: m.plan.rows * self.length * filled[m.task] for m in self._members}
        total = sum(m.rate for m in self._members)
        cached = {m.task: m.rate / total for m in self._members}
        there, least = rows * self.length, min(filled.values())
        if self._tokens_mixed:
            chosen = _settled(lambda tokens: resolved(rates, sizes, cached, tokens), filled, there)
        else:  # a run that began before has the digits that its own rounds came to
            tokens = there * least
            for _ in range(1 if least == 1 else 20):
                chosen = resolved(rates, sizes, cached, tokens)
                tokens = there * (1 / _places(chosen, filled))
        return [m._replace(rate=chosen[m.task]) for m in self._members if m.task in chosen]

    def _shuffled(self, member: _Member) -> grain.MapDataset:
        """The endless order of a member's rows, each epoch shuffled by itself."""
        # Own seeds: with one seed for all, members of equal size would be shuffled alike.
        digest = hashlib.sha256(f"{self.seed}/{member.task}/{self.split}".encode()).digest()
        return grain.MapDataset.range(member.plan.rows).shuffle(seed=int.from_bytes(digest[:4], "little")).repeat()

    def rows_read(self, rows: int) -> dict[str, int]:
        """Of the first `rows` rows how many are of each member, by its identity (task, store and plan)."""
        return {_identity(m): count for m, count in zip(self._members, self.mixing.counts(rows), strict=True)}

    def row_identity(self, data_step: int) -> list[tuple[str, int]]:
        """(task, row in its store) of every row of the global batch `data_step`."""
        return [(self._members[m].task, row) for m, row in self._rows(data_step, 0, 1)]

    def _rows(self, data_step: int, shard: int, num_shards: int) -> list[tuple[int, int]]:
        if data_step < 0:
            raise IndexError(f"data step {data_step}")
        if self.batch_size % num_shards or not 0 <= shard < num_shards:
            raise UsageError(
                f"a batch of {self.batch_size} rows can't be divided for host {shard} of {num_shards}; make the batch size a multiple of the number of hosts."
            )
        size = self.batch_size // num_shards
        first = data_step * self.batch_size + shard * size
        places = [self.mixing.place(i) for i in range(first, first + size)]
        return [(m, int(self._orders[m][self._begins[m] + before])) for m, before in places]

    def __getitem__(self, data_step: int) -> Batch:
        """The global batch `data_step`: int32/float32 arrays `[batch_size, length]` (docs/architecture.md, Batch)."""
        return self.local(data_step, 0, 1)

    def local(self, data_step: int, shard: int, num_shards: int) -> Batch:
        """The rows of one host: those of all shards, one under the other, are `self[data_step]`.

        Args:
          data_step: number of the batch, from 0.
          shard: number of this host, from 0.
          num_shards: how many hosts share the batch; it must divide `batch_size`.

        Raises:
          UsageError: the batch can't be divided so.
          JaLlmError: a store is damaged.
        """
        rows = self._rows(data_step, shard, num_shards)
        spans = [self._members[member].plan.spans(row) for member, row in rows]
        tokens = self._read(rows, spans)
        shape = (len(rows), self.length)
        batch = {name: np.zeros(shape, np.int32) for name in _INTEGER_FEATURES}
        weights = np.zeros(shape, np.float32)
        for r, row_spans in enumerate(spans):
            at = 0
            for segment, (span, stream) in enumerate(zip(row_spans, tokens[r], strict=True), start=1):
                to = at + span.pairs
                batch["decoder_input_tokens"][r, at:to] = stream[:-1]
                batch["decoder_target_tokens"][r, at:to] = stream[1:]
                batch["decoder_segment_ids"][r, at:to] = segment
                beyond = self.positions is not None and span.first_pair + span.pairs > self.positions
                first = 0 if beyond else span.first_pair
                batch["decoder_positions"][r, at:to] = np.arange(first, first + span.pairs)
                weights[r, at:to] = 1.0
                at = to
        if self._repeat_filter:
            weights[repeating_rows(tokens)] = 0.0
        return {**batch, "decoder_loss_weights": weights}

    def _read(self, rows: list[tuple[int, int]], spans: list[list[Span]]) -> list[list[np.ndarray]]:
        """Tokens of every span of every row; one round of reads a store, adjoining spans in one read."""
        result: list[list[np.ndarray]] = [[] for _ in rows]
        for number, member in enumerate(self._members):
            mine = [r for r, (m, _) in enumerate(rows) if m == number]
            offsets = member.store.offsets
            ranges: list[tuple[int, int]] = []
            places: list[tuple[int, int, int, int]] = []
            for r in mine:
                for span in spans[r]:
                    start = int(offsets[span.document]) + span.first_pair
                    stop = start + span.pairs + 1
                    if places and places[-1][0] == r and ranges[-1][1] == start:
                        ranges[-1] = (ranges[-1][0], stop)
                    else:
                        ranges.append((start, stop))
                    places.append((r, len(ranges) - 1, start, stop))
            values = member.store.read_many(ranges)
            for r, i, start, stop in places:
                result[r].append(values[i][start - ranges[i][0] : stop - ranges[i][0]])
        return result

    def trace(self, data_step: int, row: int) -> list[tuple[str, int, int]]:
        """Where the tokens of one row came from: (document id, token start, token stop) of each segment in order.

        Positions count in the document's own BOS ... EOS stream; a segment's inputs are `[start, stop - 1)`, its targets
        `[start + 1, stop)`. `trace_text` gives the text.
        """
        number, plan_row = self._rows(data_step, 0, 1)[row]
        member = self._members[number]
        return [
            (member.store.document_id(span.document), span.first_pair, span.first_pair + span.pairs + 1)
            for span in member.plan.spans(plan_row)
        ]

    def statistics(self) -> dict[str, dict[str, Any]]:
        """For each task its rate, share of rows, and what its packing plan says of itself."""
        return {
            member.task: {"rate": member.rate, "share": share, **member.plan.statistics()}
            for member, share in zip(self._members, self.mixing.shares, strict=True)
        }


PACKINGS = ("concatenate", "best_fit")


def _identity(member: _Member) -> str:
    return f"{member.task}/{member.store.fingerprint}/{member.plan.fingerprint}"


_INTEGER_FEATURES = ("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids", "decoder_positions")


def trace_text(text: str, tokenizer: Tokenizer, start: int, stop: int) -> str:
    """The slice of a document's text behind tokens `[start, stop)` of its BOS ... EOS stream (BOS and EOS stand for nothing).

    Args:
      text: the whole document as the cache saw it.
      tokenizer: the one that the cache was made with.
      start: first token, as `BatchSource.trace` gives it.
      stop: token after the last.

    Raises:
      JaLlmError: the document has fewer tokens, so it is not the one that was cached.
    """
    ids, offsets = tokenizer.encode_with_offsets(text)
    if not 0 <= start <= stop <= len(ids) + 2:
        raise JaLlmError(
            f"tokens {start} to {stop} lie outside this document of {len(ids) + 2} tokens; give the text and the vocabulary that were cached."
        )
    inner = offsets[max(start - 1, 0) : max(stop - 1, 0)]
    return text[inner[0][0] : inner[-1][1]] if inner else ""


class ReadAhead(Iterator[tuple[Position, Batch]]):
    """(position, batch) of each data position in turn, read ahead by a background thread; whatever that raises, `next` raises.

    Use it as a context manager (or call `close`), so that the thread ends with the loop.

    Args:
      read: position -> batch.
      positions: what to read, as `ja_llm.data.schedule.DataSchedule.position` gives it for one training step after the other.
      prefetch: batches to hold ready; 0 reads in the calling thread.
    """

    def __init__(self, read: Callable[[Position], Batch], positions: Iterable[Position], prefetch: int = 2):
        self._batches = ((position, read(position)) for position in positions)
        self._closed = threading.Event()
        self._queue: queue.Queue | None = None
        if prefetch > 0:
            self._queue = queue.Queue(maxsize=prefetch)
            self._thread = threading.Thread(target=self._fill, name="batches", daemon=True)
            self._thread.start()

    def _fill(self) -> None:
        try:
            for found in self._batches:
                if not self._put((found, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, item: tuple[tuple[Position, Batch] | None, BaseException | None]) -> bool:
        assert self._queue is not None
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> tuple[Position, Batch]:
        if self._closed.is_set():
            raise StopIteration
        if self._queue is None:
            return next(self._batches)
        found, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        assert found is not None
        return found

    def close(self) -> None:
        """End the thread and drop what it has read ahead."""
        self._closed.set()
        if self._queue is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

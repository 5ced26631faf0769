"""Packing: which spans of which documents make up row r of a store.

A document of n tokens (its own BOS ... EOS) gives n - 1 training pairs (input token, target token): pair p is
(token p, token p + 1). A plan assigns every pair of every document to exactly one row of `length` pairs. A plan is a pure
function of the document offsets, so a row is found without reading any row before it.
"""

import hashlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from ja_llm.errors import JaLlmError
from ja_llm.files import sha256_json


class Span(NamedTuple):
    """Pairs `[first_pair, first_pair + pairs)` of a document; they need its tokens `[first_pair, first_pair + pairs + 1)`."""

    document: int
    first_pair: int
    pairs: int


class PackingPlan(Protocol):
    """What a batch needs to know of a plan.

    Attributes:
      length: pairs in a full row.
      rows: number of rows.
      fingerprint: identity of the assignment (kind of plan, length, document offsets).
    """

    length: int
    rows: int
    fingerprint: str

    def spans(self, row: int) -> list[Span]:
        """The spans of a row in order, their pairs at most `length` in all; the rest of the row is padding."""

    def statistics(self) -> dict[str, Any]:
        """Rows, pairs, share of padding, documents, documents that are cut."""


def check_pairs(offsets: np.ndarray, length: int) -> None:
    """Raise JaLlmError for a row length or documents that no plan can be made of."""
    if length < 1:
        raise JaLlmError(f"a row length of {length} tokens is not possible; give 1 or more.")
    if int(offsets[-1]) == len(offsets) - 1:
        raise JaLlmError(
            "none of the documents has two tokens, so there is nothing to train on; check the corpus and the vocabulary."
        )


class ConcatenateAndCut:
    """Rows are consecutive pairs of the concatenated documents: no padding but in the last row, documents are cut at row ends.

    Args:
      offsets: int64 [documents + 1], start of each document in the flat token stream; every document has a token or more.
      length: pairs in a row.

    Raises:
      JaLlmError: no document has a pair, or the length is not positive.
    """

    def __init__(self, offsets: np.ndarray, length: int):
        offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        check_pairs(offsets, length)
        self.length = length
        # Each document has one pair less than it has tokens, so this is the running number of pairs.
        self._pairs = offsets - np.arange(len(offsets), dtype=np.int64)
        self._total = int(self._pairs[-1])
        self.rows = -(-self._total // length)
        self.fingerprint = sha256_json(
            {
                "plan": "concatenate_and_cut/1",
                "length": length,
                "offsets": hashlib.sha256(offsets.astype("<i8", copy=False).tobytes()).hexdigest(),
            }
        )

    def spans(self, row: int) -> list[Span]:
        """The spans of a row: O(log documents) and the number of spans.

        Raises:
          IndexError: there is no such row.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        pair, stop = row * self.length, min((row + 1) * self.length, self._total)
        document = int(np.searchsorted(self._pairs, pair, side="right")) - 1
        spans = []
        while pair < stop:
            end = min(int(self._pairs[document + 1]), stop)
            if end > pair:
                spans.append(Span(document, pair - int(self._pairs[document]), end - pair))
                pair = end
            document += 1
        return spans

    def statistics(self) -> dict[str, Any]:
        """See `PackingPlan.statistics`."""
        first, last = self._pairs[:-1] // self.length, (self._pairs[1:] - 1) // self.length
        nonempty = self._pairs[1:] > self._pairs[:-1]
        return {
            "rows": self.rows,
            "pairs": self._total,
            "padding": 1 - self._total / (self.rows * self.length),
            "documents": int(nonempty.sum()),
            "documents_cut": int((nonempty & (last > first)).sum()),
        }

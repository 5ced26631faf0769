"""Best-fit packing: whole documents in rows, within blocks, with padding in place of cuts."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ja_llm.data.packing import Span, check_pairs
from ja_llm.errors import JaLlmError
from ja_llm.files import first_directory, sha256_json

BLOCK_TOKENS = 1 << 20


class BestFit:
    """Rows of whole documents: best-fit decreasing within blocks of documents (Ding et al. 2024, arXiv 2404.10830, section 3).

    A document of more pairs than a row has is cut into full rows and a rest; rests and shorter documents are never cut. Documents of
    a block (about `block_tokens`, in the store's order, which is shuffled) go, longest first, each into the fullest row of the
    block that still has room for it. Rows of one block are near each other in the store, so that a row is read fast.

    Args:
      offsets: int64 [documents + 1], as of `ConcatenateAndCut`.
      length: pairs in a row.
      folder: where plans are kept between uses; None computes it anew each time (a million documents take some seconds).
      block_tokens: tokens after which a block ends.

    Raises:
      JaLlmError: as `ConcatenateAndCut`.
    """

    def __init__(self, offsets: np.ndarray, length: int, folder: Path | None = None, block_tokens: int = BLOCK_TOKENS):
        offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        check_pairs(offsets, length)
        self.length = length
        self._sizes = np.diff(offsets) - 1
        digest = hashlib.sha256(offsets.astype("<i8", copy=False).tobytes()).hexdigest()
        self.fingerprint = sha256_json({"plan": "best_fit/1", "length": length, "block_tokens": block_tokens, "offsets": digest})
        self._starts, self._pieces = self._kept(offsets, folder, block_tokens)
        self.rows = len(self._starts) - 1

    def _kept(self, offsets: np.ndarray, folder: Path | None, block_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The plan: starts int64 [rows + 1] in pieces int64 [pieces, 3] (document, first pair, pairs)."""
        if folder is None:
            return _plan(offsets, self.length, block_tokens)
        path = folder / self.fingerprint[:32]
        if not path.is_dir():
            starts, pieces = _plan(offsets, self.length, block_tokens)
            try:
                with first_directory(path) as temporary:
                    np.save(temporary / "starts.npy", starts)
                    np.save(temporary / "pieces.npy", pieces)
            except JaLlmError:  # a cache that may only be read
                return starts, pieces
        try:
            return np.load(path / "starts.npy", mmap_mode="r"), np.load(path / "pieces.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise JaLlmError(f"{path}: this packing plan can't be read ({error}); remove it, it is made again.") from error

    def spans(self, row: int) -> list[Span]:
        """The spans of a row, in the order of the documents.

        Raises:
          IndexError: there is no such row.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        return [Span(*piece) for piece in self._pieces[self._starts[row] : self._starts[row + 1]].tolist()]

    def statistics(self) -> dict[str, Any]:
        """See `PackingPlan.statistics`."""
        total = int(self._sizes.sum())
        return {
            "rows": self.rows,
            "pairs": total,
            "padding": 1 - total / (self.rows * self.length),
            "documents": int((self._sizes > 0).sum()),
            "documents_cut": int((self._sizes > self.length).sum()),
        }


def _plan(offsets: np.ndarray, length: int, block_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    starts, parts, count = [np.zeros(1, np.int64)], [], 0
    blocks = offsets[:-1] // block_tokens
    edges = np.concatenate([[0], np.flatnonzero(np.diff(blocks)) + 1, [len(blocks)]])
    sizes = np.diff(offsets) - 1
    for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        bins, pieces = _pack_block(first, sizes[first:stop], length)
        if len(pieces):
            counts = np.bincount(bins)
            starts.append(count + np.cumsum(counts))
            # Within a row by document, rows as they were opened.
            parts.append(pieces[np.lexsort((pieces[:, 1], pieces[:, 0], bins))])
            count += len(pieces)
    return np.concatenate(starts).astype(np.int64), np.concatenate(parts).astype(np.int64)


def _pack_block(first: int, sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(row of each piece, pieces [n, 3]) of the documents `first`, `first + 1`, ... with these numbers of pairs."""
    documents = np.arange(first, first + len(sizes), dtype=np.int64)
    full = sizes // length
    long = np.repeat(documents, full)
    at = np.arange(full.sum()) - np.repeat(np.cumsum(full) - full, full)
    whole = np.stack([long, at * length, np.full(len(long), length)], axis=1).astype(np.int64)
    rest = sizes % length
    has = rest > 0
    pieces = np.stack([documents, full * length, rest], axis=1)[has]
    pieces = pieces[np.argsort(-pieces[:, 2], kind="stable")]
    rows = len(whole)
    bins = list(range(rows))
    # rooms[r]: rows with r pairs left; `open_rooms` has bit r set where there is one, so the fullest row that fits is its lowest
    # set bit from `size` on.
    rooms: list[list[int]] = [[] for _ in range(length)]
    open_rooms = 0
    for size in pieces[:, 2].tolist():
        fitting = open_rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rooms[room].pop()
            if not rooms[room]:
                open_rooms &= ~(1 << room)
        else:
            room, row = length, rows
            rows += 1
        left = room - size
        if left:
            rooms[left].append(row)
            open_rooms |= 1 << left
        bins.append(row)
    return np.array(bins, np.int64), np.concatenate([whole, pieces])

"""MinHash bandings of known sets with random hash functions, for `corpus_quality_duplicates.py`; no part of the corpus job is used.

How many pairs of a collection share a band varies much more between draws of the hash functions than independent pairs would: manual pages
come in families, a page that is near one of a family of fifty is near all of it, and one draw joins them all or none. The closed form
1 - (1 - J^rows)^bands gives the mean alone, so the spread is drawn.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def drawn_bandings(sets: Sequence[np.ndarray], bands: int, rows: int, draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """For each draw of bands x rows hash functions: int64, sorted, i * len(sets) + j of the pairs i < j that share a band.

    Args:
      sets: uint64, distinct hashed values of each set; none is empty.
      bands: of the banding (Leskovec, Rajaraman and Ullman 2014, section 3.4.1).
      rows: of a band.
      draws: how many.
      seed: of the hash functions.
    """
    rng = np.random.default_rng(seed)
    everyone = np.arange(len(sets))
    values = [((s ^ (s >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.uint32) for s in sets]
    chunks = _chunks(values)
    for _ in range(draws):
        functions = rng.integers(0, 1 << 32, (bands * rows, 2), np.uint32)
        functions[:, 0] |= 1
        signatures = np.concatenate([_least(*chunk, functions) for chunk in chunks], axis=1)
        codes = []
        for band in range(bands):
            _, bucket = np.unique(signatures[band * rows : (band + 1) * rows].T, axis=0, return_inverse=True)
            codes.append(pairs_in_buckets(bucket.reshape(-1), everyone, len(sets)))
        yield np.unique(np.concatenate(codes))


def _chunks(values: Sequence[np.ndarray], size: int = 1 << 15) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values of some sets, where each set begins), small enough for the processor's cache."""
    chunks, held, count = list[tuple[np.ndarray, np.ndarray]](), list[np.ndarray](), 0
    for at, part in enumerate(values):
        held.append(part)
        count += len(part)
        if count >= size or at == len(values) - 1:
            chunks.append((np.concatenate(held), np.cumsum([0, *(len(s) for s in held[:-1])])))
            held, count = [], 0
    return chunks


def _least(values: np.ndarray, starts: np.ndarray, functions: np.ndarray) -> np.ndarray:
    """uint32 [functions, sets]: the least value of each set under a * value + b modulo 2^32, of values that are hashes already.

    Args:
      values: uint32, of all sets.
      starts: where each set begins.
      functions: uint32 [functions, 2]: odd a, and b.
    """
    least = np.empty((len(functions), len(starts)), np.uint32)
    hashed = np.empty_like(values)
    for i, (a, b) in enumerate(functions):
        np.multiply(values, a, out=hashed)
        np.add(hashed, b, out=hashed)
        np.minimum.reduceat(hashed, starts, out=least[i])
    return least


def pairs_in_buckets(buckets: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """int64: a * count + b of all members a < b that are in one bucket, once a bucket.

    Args:
      buckets: [n], any order.
      members: int [n], below `count`.
      count: of members that there may be.
    """
    order = np.argsort(buckets, kind="stable")
    ends = np.flatnonzero(np.diff(buckets[order])) + 1
    found = [np.zeros(0, np.int64)]
    for bucket in np.split(members[order], ends):
        if len(bucket) > 1:
            a, b = np.triu_indices(len(bucket), 1)
            bucket = np.sort(bucket)
            found.append(bucket[a] * count + bucket[b])
    return np.concatenate(found)

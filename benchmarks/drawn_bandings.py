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
    values = np.concatenate(sets)
    values = ((values ^ (values >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    starts = np.cumsum([0, *(len(s) for s in sets[:-1])])
    everyone = np.arange(len(sets))
    for _ in range(draws):
        codes = []
        for _ in range(bands):
            band = [_least(values, starts, rng.integers(0, 1 << 32, 2, np.uint32)) for _ in range(rows)]
            _, bucket = np.unique(np.stack(band, axis=1), axis=0, return_inverse=True)
            codes.append(pairs_in_buckets(bucket.reshape(-1), everyone, len(sets)))
        yield np.unique(np.concatenate(codes))


def _least(values: np.ndarray, starts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """uint32 [sets]: the least value of each set under one hash function: two rounds of xor, multiplication and shift by random keys."""
    hashed = (values ^ keys[0]) * np.uint32(0x9E3779B1)
    hashed ^= hashed >> np.uint32(15)
    hashed = (hashed ^ keys[1]) * np.uint32(0x85EBCA77)
    hashed ^= hashed >> np.uint32(13)
    return np.minimum.reduceat(hashed, starts)


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

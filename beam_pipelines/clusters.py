"""Which documents go, given the links of `buckets.py`: two rules, both independent of any order of processing.

- `drop_rule` (Doubri's, Swallow): a document goes if it was linked in any bucket, whether or not the better one goes too.
  Of a chain A ~ B ~ C by rank, B and C may go for A and B, though A and C are not alike.
- `union_find`: of every connected component the best-ranked document stays.

The first drops a subset of what the second drops. Documents of an earlier run are better than any of this one.
Arrays of 8 bytes a document, some six of them at the peak, so that 1e9 documents fit in 64 GB; everything else streams.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

NO_BUCKET = np.iinfo(np.uint16).max
RULES = ("drop_rule", "union_find")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of N documents.

    Attributes:
      better: int64 [N]: the document for which this one goes, or its own number.
      bucket: uint16 [N]: smallest bucket in which it was linked to a better one, or NO_BUCKET.
      earlier: int64 [N]: row of the earlier run's document for which it goes (in the order given), or -1.
      size: int64 [N]: of a document that stays, how many it stands for, itself included; 0 of others.
    """

    better: np.ndarray
    bucket: np.ndarray
    earlier: np.ndarray
    size: np.ndarray

    @property
    def dropped(self) -> np.ndarray:
        """bool [N]."""
        return (self.earlier >= 0) | (self.better != np.arange(len(self.better)))


def decide(
    rule: str,
    documents: int,
    links: Iterable[tuple[int, np.ndarray]],
    earlier: np.ndarray,
    order: Callable[[np.ndarray], np.ndarray],
) -> Verdict:
    """Apply a rule.

    Args:
      rule: one of RULES.
      documents: N.
      links: (bucket, LINK rows) with buckets ascending.
      earlier: int64 [N]: row of the earlier run's document that it shares a bucket with, or -1.
      order: sorts document numbers by rank, the best first.
    """
    bucket = np.full(documents, NO_BUCKET, np.uint16)
    better = np.arange(documents)
    parent = np.arange(documents if rule == "union_find" else 0)
    for number, rows in links:
        document, target = rows["document"], rows["better"]
        new = bucket[document] > number
        bucket[document[new]] = number
        better[document[new]] = target[new]
        if rule == "union_find":
            _unite(parent, document, target)
    if rule == "union_find":
        better, earlier = _best_of_components(_compressed(parent), earlier, order)
    return Verdict(better, bucket, earlier, _sizes(better, earlier))


def _unite(parent: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Join the components of each pair, in place: roots are hooked to smaller roots until all pairs agree."""
    while len(a):
        parent[:] = _compressed(parent)
        a, b = parent[a], parent[b]
        apart = a != b
        a, b = a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))


def _compressed(parent: np.ndarray) -> np.ndarray:
    """Every document's root: pointers are doubled until nothing moves."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further


def _best_of_components(
    root: np.ndarray, earlier: np.ndarray, order: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(better, earlier) when every member of a component goes for its best, or all of them for a document of an earlier run."""
    several = np.bincount(root, minlength=len(root))[root] > 1
    ranked = order(np.flatnonzero(several))
    best, known = np.arange(len(root)), earlier.copy()
    # The last write to a place counts: from the worst to the best.
    best[root[ranked[::-1]]] = ranked[::-1]
    met = ranked[::-1][earlier[ranked[::-1]] >= 0]
    known[root[met]] = earlier[met]
    return best[root], np.where(earlier >= 0, earlier, np.where(several, known[root], earlier))


def _sizes(better: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """What each document that stays stands for; links lead to better-ranked documents, so they end at one that has none."""
    root = _compressed(better)
    sizes = np.bincount(root, minlength=len(root))
    sizes[(better != np.arange(len(better))) | (earlier >= 0)] = 0
    return sizes

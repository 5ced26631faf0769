"""Rows for new pieces in the embedding and in the head, and rows of zeros that pad both tables.

The default is the plain mean of the old rows of a piece's sub-words, Swallow on Llama 2 (Fujii et al. 2024,
arXiv:2404.17790): e_new = 1/n * sum_j e_old(s_j), with s_1..s_n the ids that the *old* tokenizer gives for its surface. The
other rules are there to compare with it; `random` is the control.

Padding: rows behind the last id, so that a sharded table divides evenly. They are zero and stay zero: no id looks them up, the
decoder masks their logits (`DecoderConfig.padding_ids`), so their gradient is 0, and Adam's step and weight decay of a zero
row with a zero gradient are 0.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.progress import track

EMBEDDING = ("token_embedder", "embedding")
HEAD = ("logits_dense", "kernel")
METHODS = ("mean", "frequency", "nearest", "random")
SPARE_ROWS = 1024
_BLOCK = 256  # new rows compared with the whole table at once


@dataclasses.dataclass(frozen=True)
class RowRule:
    """How the new rows of one table are made.

    Attributes:
      method: "mean", the plain mean of the source rows; "frequency", their mean weighed by how often each source id stands in the
        training text; "nearest", a copy of the old row with the largest cosine to that plain mean; "random", normal numbers with
        mean 0 and the standard deviation of the old table.
      counts: for "frequency": how often each source id stands in the text; each counts once more than it does, so that none
        weighs nothing.
      seed: for "random".
    """

    method: str = "mean"
    counts: Mapping[int, int] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"new rows can't be made by {self.method!r}; choose one of {', '.join(METHODS)}.")

    def to_json(self) -> dict[str, Any]:
        """What a certificate tells of the rule: enough to make the rows again."""
        value: dict[str, Any] = {"method": self.method}
        if self.method == "frequency":
            value["counts"] = {str(i): count for i, count in sorted(self.counts.items())}
        return value | ({"seed": self.seed} if self.method == "random" else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RowRule":
        """Inverse of `to_json`."""
        counts = {int(i): int(count) for i, count in value.get("counts", {}).items()}
        return cls(value.get("method", "mean"), counts, value.get("seed", 0))

    def weights(self, ids: Sequence[int]) -> np.ndarray:
        """Weight of each source, float64, with sum 1."""
        if self.method != "frequency":
            return np.full(len(ids), 1.0 / len(ids))
        weights = np.array([self.counts.get(i, 0) + 1.0 for i in ids])
        return weights / weights.sum()


MEAN = RowRule()


def count_sources(encoded: Iterable[Sequence[int]], sources: Sequence[Sequence[int]]) -> dict[int, int]:
    """How often each source id stands in a text's old ids; 0 for those that do not."""
    counts = {i: 0 for ids in sources for i in ids}
    for ids in encoded:
        for i in ids:
            if i in counts:
                counts[i] += 1
    return counts


def new_rows(table: np.ndarray, sources: Sequence[Sequence[int]], rule: RowRule = MEAN, stream: int = 0) -> np.ndarray:
    """A row for each new piece.

    Args:
      table: old rows [V, D], any float dtype (bfloat16 too), without padding.
      sources: N lists of ids in [0, V), none empty; an id that stands twice counts twice.
      rule: how.
      stream: tells the tables apart, so that "random" gives embedding and head other numbers.

    Returns:
      [N, D] of the table's dtype; computed in float64 and rounded once.

    Raises:
      JaLlmError: a list is empty or names an id outside the table.
    """
    table = np.asarray(table)
    if table.ndim != 2:
        raise JaLlmError(f"a table [vocabulary, width] is needed, this array has the shape {table.shape}.")
    for i, ids in enumerate(sources):
        if not len(ids) or min(ids) < 0 or max(ids) >= table.shape[0]:
            raise JaLlmError(
                f"new piece {i} has the sources {list(ids)}, but ids in [0, {table.shape[0]}) are needed, at least one."
            )
    return _MAKERS[rule.method](table, sources, rule, stream)


def mean_rows(table: np.ndarray, sources: Sequence[Sequence[int]]) -> np.ndarray:
    """Plain mean of the source rows; see `new_rows`."""
    return new_rows(table, sources)


def _means(table: np.ndarray, sources: Sequence[Sequence[int]], rule: RowRule, stream: int) -> np.ndarray:
    rows = np.empty((len(sources), table.shape[1]), dtype=table.dtype)
    for i, ids in enumerate(sources):
        rows[i] = (table[list(ids)].astype(np.float64).sum(axis=0) / len(ids)).astype(table.dtype)
    return rows


def _weighted(table: np.ndarray, sources: Sequence[Sequence[int]], rule: RowRule, stream: int) -> np.ndarray:
    rows = np.empty((len(sources), table.shape[1]), dtype=table.dtype)
    for i, ids in enumerate(sources):
        rows[i] = (rule.weights(ids) @ table[list(ids)].astype(np.float64)).astype(table.dtype)
    return rows


def _random(table: np.ndarray, sources: Sequence[Sequence[int]], rule: RowRule, stream: int) -> np.ndarray:
    draw = np.random.default_rng([rule.seed, stream])
    return draw.normal(0.0, table.astype(np.float64).std(), (len(sources), table.shape[1])).astype(table.dtype)


def _nearest(table: np.ndarray, sources: Sequence[Sequence[int]], rule: RowRule, stream: int) -> np.ndarray:
    means = _means(table.astype(np.float32), sources, MEAN, stream)
    unit = table.astype(np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    rows = np.empty((len(sources), table.shape[1]), dtype=table.dtype)
    # The length of the mean does not change which old row has the largest cosine to it.
    for start in track(range(0, len(sources), _BLOCK), "nearest rows", "block", -(-len(sources) // _BLOCK)):
        rows[start : start + _BLOCK] = table[np.argmax(means[start : start + _BLOCK] @ unit.T, axis=1)]
    return rows


_MAKERS: dict[str, Callable[[np.ndarray, Sequence[Sequence[int]], RowRule, int], np.ndarray]] = {
    "mean": _means,
    "frequency": _weighted,
    "nearest": _nearest,
    "random": _random,
}


def check_rows(where: Any, table: str, rows: int, ids: int, spare_rows: int = SPARE_ROWS) -> None:
    """Raise JaLlmError unless a vocabulary table belongs to a tokenizer: a row for each id, and no more behind them than padding has.

    Args:
      where: the model, for the sentence.
      table: "embedding" or "head".
      rows: how many the table has, without those that the model itself says are padding.
      ids: how many the tokenizer has.
      spare_rows: how many more rows are taken for padding. Published tables have up to a few hundred (Qwen2.5-7B: 399).
    """
    if rows < ids:
        raise JaLlmError(
            f"{where}: the vocabulary has {ids} pieces but the {table} has {rows} rows; "
            "use the vocabulary that this model was trained with."
        )
    if rows - ids > spare_rows:
        raise JaLlmError(
            f"{where}: the {table} has {rows} rows for the {ids} pieces of the vocabulary, so it looks like another model's; use the "
            f"vocabulary that this model was trained with, or say --spare_rows {rows - ids} if the rows behind it are padding."
        )


def padding_for(vocab_size: int, pad_to: int) -> int:
    """Rows that bring a table to a multiple of `pad_to`.

    Raises:
      UsageError: `pad_to` is below 1.
    """
    if pad_to < 1:
        raise UsageError(f"pad_to is {pad_to}; give a whole number from 1, e.g. 128.")
    return -vocab_size % pad_to


def expand_params(
    params: Mapping[str, Any],
    sources: Sequence[Sequence[int]],
    *,
    base_size: int | None = None,
    padding: int = 0,
    embedding: RowRule = MEAN,
    head: RowRule | None = None,
) -> dict[str, Any]:
    """Append a row to the embedding, and a column to an untied head, for each new piece, and zeros behind them.

    Args:
      params: the Decoder's tree: token_embedder/embedding [V, D] and, where the head is untied, logits_dense/kernel [D, V].
      sources: as `new_rows` takes them.
      base_size: ids of the base; rows behind them pad its tables and are dropped. V when None.
      padding: rows of zeros at the end.
      embedding: rule for the embedding.
      head: rule for an untied head; that of the embedding when None.

    Returns:
      A new tree with tables [base_size + N + padding, D] and its transpose (numpy); every other leaf is the same object as before.

    Raises:
      JaLlmError: the tree has no embedding, or its head has another vocabulary size.
      UsageError: another rule is given for a head that is tied.
    """

    if head is not None and _leaf(params, HEAD) is None:
        raise UsageError("the head of this model is its embedding, so it has no rows of its own; leave the head's rule out.")
    rules = {"embedding": (embedding, 0), "head": (head or embedding, 1)}

    def grow(table: np.ndarray, name: str) -> np.ndarray:
        old = table[: table.shape[0] if base_size is None else base_size]
        zeros = np.zeros((padding, table.shape[1]), table.dtype)
        return np.concatenate([old, new_rows(old, sources, *rules[name]), zeros])

    return map_tables(params, grow)


def map_tables(params: Mapping[str, Any], change: Callable[[np.ndarray, str], np.ndarray]) -> dict[str, Any]:
    """The tree with `change(table [V, D], "embedding" or "head")` in place of each vocabulary table."""
    table = _leaf(params, EMBEDDING)
    if table is None:
        raise JaLlmError(
            f"these parameters have no {'/'.join(EMBEDDING)}, so they are no decoder's; give a model of this package."
        )
    table = np.asarray(table)
    new = _with_leaf(params, EMBEDDING, change(table, "embedding"))
    kernel = _leaf(params, HEAD)
    if kernel is None:
        return new
    kernel = np.asarray(kernel)
    if kernel.shape != table.shape[::-1]:
        raise JaLlmError(
            f"the head {'/'.join(HEAD)} is {kernel.shape}, but the embedding {table.shape} needs {table.shape[::-1]}."
        )
    return _with_leaf(new, HEAD, np.ascontiguousarray(change(kernel.T, "head").T))


def tables(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The vocabulary tables as [V, D]: "embedding", and "head" (transposed) where it is untied."""
    found = {"embedding": _leaf(params, EMBEDDING), "head": _leaf(params, HEAD)}
    return {
        name: np.asarray(leaf) if name == "embedding" else np.asarray(leaf).T for name, leaf in found.items() if leaf is not None
    }


def _leaf(params: Mapping[str, Any], path: tuple[str, str]) -> Any:
    group = params.get(path[0])
    return group.get(path[1]) if isinstance(group, Mapping) else None


def _with_leaf(params: Mapping[str, Any], path: tuple[str, str], value: np.ndarray) -> dict[str, Any]:
    return {**params, path[0]: {**params[path[0]], path[1]: value}}

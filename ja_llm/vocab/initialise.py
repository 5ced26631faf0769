"""Rows for new pieces: the plain mean of the old rows of their sub-words, in the embedding and in the head.

Swallow on Llama 2 (Fujii et al. 2024, arXiv:2404.17790): e_new = 1/n * sum_j e_old(s_j), with
s_1..s_n the ids that the *old* tokenizer gives for the piece's surface.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ja_llm.errors import JaLlmError

EMBEDDING = ("token_embedder", "embedding")
HEAD = ("logits_dense", "kernel")


def mean_rows(table: np.ndarray, sources: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of the source rows for each new piece.

    Args:
      table: [V, D], any float dtype (bfloat16 too).
      sources: N lists of ids in [0, V), none empty; an id that stands twice counts twice.

    Returns:
      [N, D] of the table's dtype; summed in float64 and rounded once.

    Raises:
      JaLlmError: a list is empty or names an id outside the table.
    """
    table = np.asarray(table)
    if table.ndim != 2:
        raise JaLlmError(f"a table [vocabulary, width] is needed, this array has the shape {table.shape}.")
    rows = np.empty((len(sources), table.shape[1]), dtype=table.dtype)
    for i, ids in enumerate(sources):
        if not len(ids) or min(ids) < 0 or max(ids) >= table.shape[0]:
            raise JaLlmError(
                f"new piece {i} has the sources {list(ids)}, but ids in [0, {table.shape[0]}) are needed, at least one."
            )
        rows[i] = (table[list(ids)].astype(np.float64).sum(axis=0) / len(ids)).astype(table.dtype)
    return rows


def expand_params(params: Mapping[str, Any], sources: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Append a mean row to the embedding, and a mean column to an untied head, for each new piece.

    Args:
      params: the Decoder's tree: token_embedder/embedding [V, D] and, where the head is untied, logits_dense/kernel [D, V].
      sources: as `mean_rows` takes them.

    Returns:
      A new tree with tables [V + N, D] and [D, V + N] (numpy); every other leaf is the same object as before.

    Raises:
      JaLlmError: the tree has no embedding, or its head has another vocabulary size.
    """
    table = _leaf(params, EMBEDDING)
    if table is None:
        raise JaLlmError(
            f"these parameters have no {'/'.join(EMBEDDING)}, so they are no decoder's; give a model of this package."
        )
    table = np.asarray(table)
    new = _with_leaf(params, EMBEDDING, np.concatenate([table, mean_rows(table, sources)]))
    head = _leaf(params, HEAD)
    if head is not None:
        head = np.asarray(head)
        if head.shape != table.shape[::-1]:
            raise JaLlmError(
                f"the head {'/'.join(HEAD)} is {head.shape}, but the embedding {table.shape} needs {table.shape[::-1]}."
            )
        columns = mean_rows(head.T, sources).T
        new = _with_leaf(new, HEAD, np.ascontiguousarray(np.concatenate([head, columns], axis=1)))
    return new


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

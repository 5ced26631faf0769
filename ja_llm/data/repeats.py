"""Rows that repeat a short span over and over: OLMo 2 gives them no loss.

An instance (a row) is left out where some span of 1 to 13 tokens stands 32 times or more in it, one behind the other (the configuration of the 7B,
configs/official-1124/OLMo2-7B-stage1.yaml in allenai/OLMo, `instance_filter`). It is looked for in the row's tokens as they follow each other, whether
or not a document ends between them, as there.

A span of p tokens stands n times where n p - p neighbours each equal the token p places before. Of a grid a third as wide as that, three points in turn
lie among them. So points of the grid are compared first, and few rows have three such points where nothing is repeated; only these are looked at token by
token.
"""

from collections.abc import Sequence

import numpy as np

LONGEST_SPAN = 13
REPETITIONS = 32


def repeating_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Which rows hold a span of 1 to `LONGEST_SPAN` tokens `REPETITIONS` times or more: bool [rows].

    Args:
      rows: of each its tokens, in pieces, ids of 0 or more; padding is not among them.
    """
    lengths = np.array([sum(map(len, pieces)) for pieces in rows], np.int64)
    found = np.zeros(len(rows), bool)
    # In front of each row stands a number that nothing else is, so that no repetition goes on into another row.
    ends = np.cumsum(lengths + 1)
    tokens = np.concatenate([part for number, pieces in enumerate(rows) for part in (_apart(number), *pieces)] or [_apart(0)])
    for span in range(1, LONGEST_SPAN + 1):
        for row in set(np.searchsorted(ends, _suspects(tokens, span), side="right").tolist()):
            if not found[row]:
                found[row] = _repeats(tokens[ends[row] - lengths[row] : ends[row]], span)
    return found


def _apart(number: int) -> np.ndarray:
    return np.array([-1 - number], np.int32)


def _suspects(tokens: np.ndarray, span: int) -> np.ndarray:
    """Places, one at least in each repetition that is long enough, and few elsewhere."""
    # A run of equal neighbours has (REPETITIONS - 1) * span places or more, so at least three multiples of a third of that.
    step = (REPETITIONS - 1) * span // 3
    equal = tokens[span::step] == tokens[: max(len(tokens) - span, 0) : step]
    return span + step * np.flatnonzero(equal[2:] & equal[1:-1] & equal[:-2])


def _repeats(tokens: np.ndarray, span: int) -> bool:
    """Whether a span of so many tokens stands `REPETITIONS` times or more in one row."""
    differs = np.flatnonzero(tokens[span:] != tokens[:-span])
    runs = np.diff(differs, prepend=-1, append=max(len(tokens) - span, 0)) - 1
    return bool(runs.max() >= (REPETITIONS - 1) * span)

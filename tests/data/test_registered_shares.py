"""Every registered mixture: over 1,000 batches each source has its share to one row a block."""

import math

import numpy as np
import pytest

from ja_llm.data import registry
from ja_llm.data.mixing import Mixing

BATCHES, ROWS = 1000, 1024  # the batch of most published runs


@pytest.mark.parametrize("name", registry.mixture_names())
def test_over_a_thousand_batches_shares_are_exact_to_one_row_a_block(name):
    rates = list(registry.resolve(name).values())
    assert math.isclose(sum(rates), 1)
    order = Mixing(rates)
    ends = np.arange(1, BATCHES + 1) * ROWS
    off = np.abs(np.array([order.counts(rows) for rows in ends.tolist()]) - ends[:, None] * np.array(rates))
    assert off.max() < (1 if order.even else 2) + 1e-6
    blocks = np.arange(1, BATCHES * ROWS // order.block + 1) * order.block
    off = np.abs(
        np.array([order.counts(rows) for rows in blocks.tolist()]).reshape(len(blocks), -1) - blocks[:, None] * np.array(rates)
    )
    assert not len(blocks) or off.max() < 1 + 1e-6

"""Which source a row is of: shares exact to a row, a pure function of the place, and the old order of old runs."""

import math
from fractions import Fraction

import grain
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ja_llm.data.mixing import GrainMixing, Mixing
from ja_llm.errors import UsageError

whole_rates = st.lists(st.integers(1, 40), min_size=1, max_size=8)
any_rates = st.lists(st.floats(0.002, 1), min_size=2, max_size=6)


def running_counts(order, rows, sources):
    """int64 [rows + 1, sources], counted row by row; that each row is numbered by those before it is checked on the way."""
    found = np.zeros((rows + 1, sources), np.int64)
    for row in range(rows):
        source, before = order.place(row)
        assert before == found[row, source]
        found[row + 1] = found[row]
        found[row + 1, source] += 1
    return found


@settings(deadline=None, max_examples=60)
@given(whole_rates)
@example([7, 3])
@example([2, 2, 2, 2, 2, 2, 2])  # where each in turn takes what is left, the last is a row and a half behind
@example([1, 1, 1, 1, 1, 40])
def test_rates_of_whole_numbers_are_never_a_row_off(rates):
    order = Mixing([rate / sum(rates) for rate in rates])
    assert order.even and order.block == sum(rates) // math.gcd(*rates)
    rows = 2 * order.block + 7
    found = running_counts(order, rows, len(rates))
    assert (np.abs(found * sum(rates) - np.arange(rows + 1)[:, None] * np.array(rates)) < sum(rates)).all()
    assert all(order.counts(k) == found[k].tolist() for k in (0, 1, order.block - 1, order.block, rows))


@settings(deadline=None, max_examples=25)
@given(any_rates)
@example([0.9 / (1 - 0.0027), 0.1 / (1 - 0.0031)])  # a best-fit plan's
@example([2**0.5, 3**0.5, 5**0.5, 0.004])
@example([1.0, 0.893944029446604])  # 6e-15 from a ratio of whole numbers, yet not it
def test_any_rates_are_not_a_row_off_after_a_block_nor_two_within(rates):
    order = Mixing(rates)
    rows = min(2 * order.block + 100, 5000)
    found, shares = running_counts(order, rows, len(rates)), np.array(rates) / math.fsum(rates)
    off = np.abs(found - np.arange(rows + 1)[:, None] * shares)
    assert off.max() < (1 if order.even else 2) + 1e-6
    assert off[:: order.block].max() < 1 + 1e-6
    # Far out, without the way there. A share is only known to a float's precision, which 10^15 rows make visible.
    for block in (10**6, 10**9 + 7):
        far = order.counts(block * order.block)
        assert sum(far) == block * order.block
        rows = block * order.block
        assert max(abs(n - rows * Fraction(share)) for n, share in zip(far, shares, strict=True)) < 1 + rows * 2.0**-50


@settings(deadline=None, max_examples=40)
@given(any_rates, st.integers(0, 10**10))
def test_a_place_far_out_follows_from_the_counts_there(rates, row):
    order, again = Mixing(rates), Mixing(rates)
    source, before = order.place(row)
    assert order.counts(row)[source] == before
    assert [b - a for a, b in zip(order.counts(row), order.counts(row + 1), strict=True)] == [
        int(i == source) for i in range(len(rates))
    ]
    again.place(0)
    assert again.place(row) == (source, before)


@pytest.mark.parametrize("rates", [(0.9, 0.1), (0.5, 0.5), (0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.05, 0.95)])
def test_rates_that_grain_mixed_exactly_keep_its_order(rates):
    new, old = Mixing(rates), GrainMixing(rates)
    assert [new.place(row) for row in range(500)] == [old.place(row) for row in range(500)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
@example([0.7, 0.3])
def test_the_order_of_old_runs_is_grains(rates):
    class Tag(grain.transforms.Map):
        def __init__(self, source):
            self.source = source

        def map(self, element):
            return self.source, int(element)

    weights = [round(100 * rate / min(rates)) for rate in rates]
    parts = [grain.MapDataset.range(10**9).map(Tag(source)) for source in range(len(rates))]
    theirs, ours = grain.MapDataset.mix(parts, weights=weights), GrainMixing(rates)
    for row in [*range(300), 10**6 + 7, 4 * 10**6 + 1]:
        assert ours.place(row) == theirs[row]


def test_70_to_30_was_30_rows_off_in_128_000_and_is_not():
    new, old = Mixing([0.7, 0.3]), GrainMixing([0.7, 0.3])
    assert new.counts(128_000) == [89_600, 38_400]
    assert abs(old.counts(128_000)[0] - 89_600) > 30


def test_rates_that_can_not_be_mixed_by():
    for rates in ([], [0.5, 0.0], [0.5, math.nan], [1.0, math.inf]):
        with pytest.raises(UsageError, match="can't be mixed by"):
            Mixing(rates)
    with pytest.raises(UsageError, match="1e-09 beside 1 is less than one row in 1,048,576"):
        Mixing([1.0, 1e-9])

"""Depth, length and area of a stability gap are those of curves whose values are known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from ja_llm.errors import InputError
from ja_llm.evaluation.stability_gap import paired_difference, stability_gap

WHOLE = st.integers(1, 60)


def curve(*pairs):
    return [(float(step), value) for step, value in pairs]


@settings(max_examples=200, deadline=None)
@given(WHOLE, WHOLE, WHOLE, st.integers(1, 64), st.integers(0, 64), st.integers(0, 20))
def test_a_triangle_has_its_height_its_base_and_half_their_product(flat, up, down, height, below, lead):
    # Sixteenths, so that every sum is exact in binary.
    level, height, below = 1.25, height / 16, below / 16
    end = flat + up + down
    points = curve((0, level), (flat, level), (flat + up, level + height), (end, level), (end + 1 + lead, level - below))
    gap = stability_gap(points)
    assert (gap.begins, gap.deepest, gap.recovers) == (flat, flat + up, end)
    assert (gap.depth, gap.length, gap.area, gap.final) == (height, up + down, height * (up + down) / 2, -below)


@settings(max_examples=200, deadline=None)
@given(WHOLE, WHOLE, st.integers(1, 64), st.integers(1, 64))
def test_recovery_lies_on_the_line_between_two_probes(up, span, height, below):
    """From +h to -b over s steps the line meets the baseline after s h / (h + b)."""
    height, below = height / 16, below / 16
    gap = stability_gap(curve((0, 2.0), (up, 2.0 + height), (up + span, 2.0 - below)))
    meets = span * height / (height + below)
    assert gap.recovers == pytest.approx(up + meets, rel=1e-12)
    assert gap.area == pytest.approx(height * (up + meets) / 2, rel=1e-12)
    assert gap.final == -below


def test_a_trapezium_and_a_rise_that_stays():
    gap = stability_gap(curve((0, 1.0), (4, 1.5), (10, 1.5), (12, 1.0), (20, 1.0)))
    assert (gap.depth, gap.length, gap.area, gap.recovers, gap.final) == (0.5, 12, 0.5 * (4 / 2 + 6 + 2 / 2), 12, 0)
    gap = stability_gap(curve((0, 1.0), (4, 1.5), (10, 1.25)))
    assert (gap.depth, gap.length, gap.area, gap.recovers, gap.final) == (0.5, 10, 1.0 + 6 * 0.375, None, 0.25)


def test_the_first_gap_is_measured_and_the_area_has_the_later_ones_too():
    points = curve((0, 1.0), (2, 1.25), (4, 1.0), (6, 0.5), (8, 1.0), (10, 2.0))
    gap = stability_gap(points)
    assert (gap.begins, gap.depth, gap.recovers, gap.length, gap.final) == (0, 0.25, 4, 4, 1.0)
    assert gap.area == 0.5 + 1.0
    later = stability_gap(points, tolerance=0.25)  # the first does not exceed it
    assert (later.begins, later.depth, later.recovers, later.length, later.area) == (8, 1.0, None, 2, 1.5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-40, 0), max_size=12), st.floats(0.5, 5))
def test_what_never_rises_has_no_gap(falls, level):
    gap = stability_gap([(0.0, level), *((i + 1.0, level + fall / 16) for i, fall in enumerate(falls))])
    assert (gap.begins, gap.depth, gap.length, gap.area, gap.recovers) == (None, 0, 0, 0, None)


CURVE = st.lists(st.tuples(st.integers(1, 9), st.integers(-40, 40)), min_size=1, max_size=15)


@settings(max_examples=200, deadline=None)
@given(CURVE, st.integers(1, 8))
def test_against_a_fine_grid_and_units_of_either_axis(parts, factor):
    steps = [0, *np.cumsum([gap for gap, _ in parts]).tolist()]
    values = [2.0, *(2.0 + rise / 16 for _, rise in parts)]
    points = list(zip(map(float, steps), values, strict=True))
    gap = stability_gap(points)
    grid = np.linspace(0, steps[-1], 20001)
    rise = np.interp(grid, steps, values) - 2.0
    assert gap.area == pytest.approx(float(np.trapezoid(np.maximum(rise, 0), grid)), abs=2e-3 * max(steps[-1], 1))
    if gap.begins is not None:
        inside = (grid >= gap.begins) & (grid <= gap.begins + gap.length)
        assert gap.depth == pytest.approx(rise[inside].max(), abs=0.01) and gap.deepest in steps
        assert (rise[inside] > -1e-9).all() and (rise[grid < gap.begins] < 1e-9).all()
    scaled = stability_gap([(factor * step, value) for step, value in points])
    assert scaled.depth == gap.depth and scaled.length == pytest.approx(factor * gap.length)
    assert scaled.area == pytest.approx(factor * gap.area)
    # A probe more on the line between two others changes nothing.
    assume(len(points) > 1)
    (a, x), (b, y) = points[-2:]
    assert stability_gap([*points[:-1], ((a + b) / 2, (x + y) / 2), points[-1]]).area == pytest.approx(gap.area, abs=1e-12)


def test_curves_that_are_none_are_refused():
    for points in ([], [(0, 1.0), (0, 1.1)], [(0, 1.0), (1, math.nan)], [(3, 1.0), (1, 1.1)]):
        with pytest.raises(InputError, match="in order of rising steps"):
            stability_gap(points)


def test_the_paired_interval_is_scipys():
    rng = np.random.default_rng(0)
    base = rng.normal(5, 2, 6)
    ours = base - 1 + rng.normal(0, 0.2, 6)
    found = paired_difference(ours, base)
    interval = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.verdict == "smaller" and found.relative == pytest.approx(ours.mean() / base.mean() - 1)
    assert paired_difference(base, ours).verdict == "larger"
    assert paired_difference(base, base + np.array([1, -1] * 3)).verdict == "no clear difference"
    with pytest.raises(InputError, match="the same seeds of both"):
        paired_difference([1.0], [1.0])

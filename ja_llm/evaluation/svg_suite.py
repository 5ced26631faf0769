"""Plots of a suite of tasks as inline SVG text: a radar of tasks and bars with intervals. Standard library only."""

import math
from collections.abc import Sequence

from ja_llm.pages.svg import SERIES, Dot, escape, figure, number, tick, ticks

_SIZE, _RADIUS, _MIDDLE = 420, 130, 172
_HEIGHT, _LEFT, _TOP, _BOTTOM = 250, 46, 12, 56


def radar(title: str, axes: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], note: str = "") -> str:
    """One polygon a series over axes from 0 (the middle) to 1; "" with fewer than three axes or nothing to draw.

    Args:
      title: above it.
      axes: names, clockwise from the top.
      series: (name, a value in 0..1 an axis, None where it is not known: the line leaves the axis out).
      note: below it.
    """
    series = [(name, values) for name, values in series if sum(v is not None for v in values) > 2]
    if len(axes) < 3 or not series:
        return ""

    def at(axis: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * axis / len(axes)
        return _SIZE / 2 + _RADIUS * value * math.sin(angle), _MIDDLE - _RADIUS * value * math.cos(angle)

    parts = []
    for ring in (0.25, 0.5, 0.75, 1.0):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(n, ring) for n in range(len(axes))))
        parts.append(f'<polygon class="grid" fill="none" points="{points}"/>')
        if ring < 1:  # there stands the first axis's name
            parts.append(f'<text class="tick" x="{_SIZE / 2 + 3:.0f}" y="{_MIDDLE - _RADIUS * ring - 2:.1f}">{tick(ring)}</text>')
    for n, name in enumerate(axes):
        (x, y), (a, b) = at(n, 1.0), at(n, 1.09)
        anchor = "middle" if abs(a - _SIZE / 2) < 12 else "start" if a > _SIZE / 2 else "end"
        parts.append(f'<line class="grid" x1="{_SIZE / 2:.1f}" y1="{_MIDDLE}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{a:.1f}" y="{b + 4:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    for place, (_, values) in enumerate(series):
        placed = [at(n, v) for n, v in enumerate(values) if v is not None]
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polygon class="band s{place % SERIES}" points="{told}"/>')
        parts.append(f'<polygon class="line s{place % SERIES}" points="{told}"/>')
        parts += [f'<circle class="mark s{place % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in placed]
    said = "; ".join(
        f"{name}: {', '.join(f'{axis} {number(v)}' for axis, v in zip(axes, values, strict=True) if v is not None)}"
        for name, values in series
    )
    return figure(title, f"Scores from 0 to 1. {said}.", "".join(parts), 2 * _MIDDLE + 4, [name for name, _ in series], note)


def bars(title: str, groups: Sequence[tuple[str, Sequence[Dot | None]]], names: Sequence[str], y_label: str) -> str:
    """Bars from 0 upwards with their intervals, a group a label on the horizontal axis; "" when there is nothing to draw.

    Args:
      title: above it.
      groups: (label, a bar a series; None leaves a gap).
      names: of the series.
      y_label: what the bars measure.
    """
    found = [dot for _, dots in groups for dot in dots if dot is not None and math.isfinite(dot.value)]
    if not found:
        return ""
    top = max([dot.value for dot in found] + [dot.high for dot in found if dot.high is not None]) * 1.05 or 1.0
    scale = (_HEIGHT - _TOP - _BOTTOM) / top
    width = (_SIZE - _LEFT - 12) / len(groups)
    bar = min(width * 0.8 / len(names), 46)
    parts = []
    for value in ticks(0.0, top):
        y = _HEIGHT - _BOTTOM - value * scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_SIZE - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick(value)}</text>')
    for group, (label, dots) in enumerate(groups):
        middle = _LEFT + width * (group + 0.5)
        parts.append(
            f'<text class="label" x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(label)}</text>'
        )
        for place, dot in enumerate(dots):
            if dot is None or not math.isfinite(dot.value):
                continue
            style, x = f"s{place % SERIES}", middle + (place - len(names) / 2) * bar
            y, low = _HEIGHT - _BOTTOM - dot.value * scale, _HEIGHT - _BOTTOM
            parts.append(f'<path class="column {style}" d="M{x + 1:.1f} {low}V{y:.1f}H{x + bar - 1:.1f}V{low}Z"/>')
            if dot.low is not None and dot.high is not None:
                a, b = (low - end * scale for end in (dot.low, dot.high))
                parts.append(f'<line class="error" x1="{x + bar / 2:.1f}" x2="{x + bar / 2:.1f}" y1="{a:.1f}" y2="{b:.1f}"/>')
    parts.append(f'<text class="label" x="{_SIZE / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(y_label)}</text>')
    said = "; ".join(
        f"{label}: {', '.join(f'{name} {number(dot.value)}' for name, dot in zip(names, dots, strict=True) if dot)}"
        for label, dots in groups
    )
    return figure(title, f"{y_label}. {said}.", "".join(parts), _HEIGHT, names)

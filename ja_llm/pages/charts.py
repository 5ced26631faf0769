"""Plots of counts as inline SVG text: a funnel of stages and histograms of several series. Standard library only."""

import math
from collections.abc import Mapping, Sequence

from ja_llm.pages.svg import SERIES, escape, figure, number, tick, ticks

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 22, 38
_NAMES, _FIGURES, _ROW = 92, 104, 26  # of a funnel: room for the names and the figures, height of a row


def funnel(title: str, rows: Sequence[tuple[str, float]], what: str, note: str = "") -> str:
    """One bar a row, each as long as its share of the first; "" when the first is nothing.

    Args:
      title: above it.
      rows: (name, how many are left).
      what: what is counted, e.g. "documents".
      note: below it.
    """
    if not rows or not rows[0][1]:
        return ""
    first, room = rows[0][1], _WIDTH - _NAMES - _FIGURES
    parts = []
    for place, (name, value) in enumerate(rows):
        y, length = _ROW * place + 4, max(room * min(value / first, 1.0), 0.8 if value else 0.0)
        parts.append(f'<text class="label" x="{_NAMES - 6}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="column s0" x="{_NAMES}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 8}"/>')
        told = f"{number(value)} · {percent(value / first)}"
        parts.append(f'<text class="tick" x="{_NAMES + length + 6:.1f}" y="{y + 15}">{escape(told)}</text>')
    said = "; ".join(f"{name} {number(value)} ({percent(value / first)})" for name, value in rows)
    return figure(title, f"{what}: {said}.", "".join(parts), _ROW * len(rows) + 8, [], note)


def percent(share: float) -> str:
    """A share as a person writes it: 12 %, 4.2 %, 0.27 %.

    Example:
      >>> percent(1.0), percent(0.042), percent(0.0027), percent(0)
      ('100 %', '4.2 %', '0.27 %', '0 %')
    """
    value = 100 * share
    if not value:
        return "0 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def size(value: float) -> str:
    """Bytes as a person writes them.

    Example:
      >>> size(0), size(999), size(2.5e9), size(3.1e15)
      ('', '999 B', '2.5 GB', '3.1 PB')
    """
    if not value:
        return ""
    for power, unit in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if value >= 10**power:
            return f"{value / 10**power:.1f} {unit}"
    return f"{value:.0f} B"


def histogram(
    title: str,
    series: Mapping[str, Mapping[int, float]],
    edges: Sequence[float],
    x_label: str,
    levels: Sequence[tuple[str, float]] = (),
    log: bool = False,
) -> str:
    """Shares of each series in the bins, as stepped outlines over each other; "" when there is nothing to draw.

    Args:
      title: above it.
      series: name -> {bin: count}; bin i lies from edges[i] to edges[i + 1], what is outside counts in the end bins.
      edges: rising; of which only the part with counts is drawn.
      x_label: of the horizontal axis.
      levels: (name, x) drawn as vertical lines, such as thresholds.
      log: the horizontal axis is logarithmic (edges and levels must be positive).
    """
    last = len(edges) - 2
    found = {
        name: {i: sum(n for k, n in bins.items() if min(max(k, 0), last) == i) for i in {min(max(k, 0), last) for k in bins}}
        for name, bins in series.items()
        if sum(bins.values()) > 0
    }
    if not found:
        return ""
    used = sorted(i for bins in found.values() for i, n in bins.items() if n)
    low, high = used[0], used[-1]
    place = (lambda v: math.log10(max(v, edges[0]))) if log else float
    x0, x1 = place(edges[low]), place(edges[high + 1])
    shares = {name: {i: n / sum(bins.values()) for i, n in bins.items()} for name, bins in found.items()}
    top = max(v for bins in shares.values() for v in bins.values()) * 1.08
    across, up = (_WIDTH - _LEFT - _RIGHT) / (x1 - x0), (_HEIGHT - _TOP - _BOTTOM) / top
    base = _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (place(value) - x0) * across

    parts = [_axes(x, (edges[low], edges[high + 1]), top, up, x_label, log)]
    for order, bins in enumerate(shares.values()):
        points = [f"{_LEFT:.1f},{base}"]
        for i in range(low, high + 1):
            y = base - bins.get(i, 0.0) * up
            points += [f"{x(edges[i]):.1f},{y:.1f}", f"{x(edges[i + 1]):.1f},{y:.1f}"]
        path = " ".join([*points, f"{x(edges[high + 1]):.1f},{base}"])
        parts.append(f'<polygon class="band s{order % SERIES}" points="{path}"/>')
        parts.append(f'<polyline class="line s{order % SERIES}" points="{path}"/>')
    for name, at in levels:
        if x0 <= place(at) <= x1:
            anchor, shift = ("start", 3) if x(at) < _WIDTH / 2 else ("end", -3)
            parts.append(f'<line class="axis" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP - 8}" y2="{base}"/>')
            parts.append(
                f'<text class="tick" x="{x(at) + shift:.1f}" y="{_TOP - 10}" text-anchor="{anchor}">{escape(name)}</text>'
            )
    said = "; ".join(
        f"{name}: {number(sum(bins.values()))} in all, most of them from {number(edges[most])} to {number(edges[most + 1])}"
        for name, bins in found.items()
        for most in [max(bins, key=lambda i: bins[i])]
    )
    limits = "".join(f" {name} stands at {number(at)}." for name, at in levels)
    return figure(
        title, f"Shares over {x_label}. {said}.{limits}", "".join(parts), _HEIGHT, list(shares) if len(shares) > 1 else []
    )


def _axes(x, ends: tuple[float, float], top: float, up: float, x_label: str, log: bool) -> str:
    base, parts = _HEIGHT - _BOTTOM, []
    for value in ticks(0.0, top):
        y = base - value * up
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{percent(value)}</text>')
    if log:
        powers = range(math.ceil(math.log10(ends[0]) - 1e-9), math.floor(math.log10(ends[1]) + 1e-9) + 1)
        marks: list[float] = [10.0**p for p in powers] or [ends[0], ends[1]]
    else:
        marks = ticks(ends[0], ends[1], 4)
    for value in marks:
        anchor = "end" if x(value) > _WIDTH - _RIGHT - 14 else "middle"
        parts.append(f'<text class="tick" x="{x(value):.1f}" y="{base + 15}" text-anchor="{anchor}">{tick(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)

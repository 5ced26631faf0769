"""Plots as inline SVG text: lines over steps, and dots with intervals. Standard library only.

Colours come from the page's CSS (classes s0 to s5, with dashes, so that series differ without colour too). Each plot carries
a title and a description for readers who do not see it.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
SERIES = 6  # styles that the page has

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Line:
    """One series: its name and (x, y) points in order of x; `spread` is (x, low, high), drawn faintly behind."""

    name: str
    points: Sequence[Point]
    spread: Sequence[tuple[float, float, float]] = ()


@dataclasses.dataclass(frozen=True)
class Dot:
    """One measured value with its interval (None: not known)."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def escape(value: object) -> str:
    """Text that is safe in HTML content and attributes."""
    return html.escape(str(value), quote=True)


def number(value: float, digits: int = 4) -> str:
    """A figure as a person writes it: 4 significant digits, thousands grouped."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    return f"{value:,.{min(places, 10)}f}"


def tick(value: float) -> str:
    """A figure at an axis: short."""
    return (
        f"{value:.2g}"
        if 0 < abs(value) < 0.01
        else number(float(f"{value:.6g}"), 6).rstrip("0").rstrip(".")
        if value % 1
        else number(value)
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[Point], most: int = 150) -> Line:
    """Means of equal runs of neighbouring points, with each run's range: a curve of thousands of steps in a small plot."""
    size = max(1, math.ceil(len(points) / most))
    middle, spread = [], []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        x = sum(p[0] for p in part) / len(part)
        ys = [p[1] for p in part]
        middle.append((x, sum(ys) / len(ys)))
        spread.append((x, min(ys), max(ys)))
    return Line("", middle, spread if size > 1 else ())


def line_plot(title: str, lines: Sequence[Line], x_label: str, y_label: str, levels: Sequence[tuple[str, float]] = ()) -> str:
    """A figure with the lines, axes, a legend and a text alternative; "" when there is nothing to draw.

    Args:
      title: above it.
      lines: the series.
      x_label: of the horizontal axis.
      y_label: of the vertical axis.
      levels: (name, y) to compare with, drawn across; one that is far from the lines is told below instead.
    """
    lines = [
        Line(
            line.name,
            [p for p in line.points if all(map(math.isfinite, p))],
            [s for s in line.spread if all(map(math.isfinite, s))],
        )
        for line in lines
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for line in lines for _, *pair in line.spread for y in pair]
    levels = [(name, y) for name, y in levels if math.isfinite(y)]
    room = max(ys) - min(ys)
    near = [(name, y) for name, y in levels if min(ys) - room <= y <= max(ys) + room]
    far = [(name, y) for name, y in levels if (name, y) not in near]
    ys += [y for _, y in near]
    frame = _Frame(min(xs), max(xs), *_padded(min(ys), max(ys)))
    parts = [frame.axes(x_label, y_label)]
    for place, line in enumerate(lines):
        style = f"s{place % SERIES}"
        if line.spread:
            upper = [frame.at(x, high) for x, _, high in line.spread]
            lower = [frame.at(x, low) for x, low, _ in reversed(line.spread)]
            parts.append(f'<polygon class="band {style}" points="{" ".join(upper + lower)}"/>')
        parts.append(f'<polyline class="line {style}" points="{" ".join(frame.at(*p) for p in line.points)}"/>')
        if len(line.points) < 40:
            parts += [
                f'<circle class="mark {style}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.4"/>' for x, y in line.points
            ]
    parts += [
        f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{frame.y(y):.1f}" y2="{frame.y(y):.1f}"/>' for _, y in near
    ]
    for names, y in _apart([(name, frame.y(y)) for name, y in near]):
        parts.append(
            f'<text class="tick" x="{_WIDTH - _RIGHT - 2}" y="{y - 4:.1f}" text-anchor="end">{escape(_short(names, 40))}</text>'
        )
    said = "; ".join([*(_told(line) for line in lines), *(f"{name}: {number(y)}" for name, y in levels)])
    note = f"Outside the plot: {', '.join(f'{name} {number(y)}' for name, y in far)}." if far else ""
    return figure(title, f"{y_label} over {x_label}. {said}.", "".join(parts), _HEIGHT, [line.name for line in lines], note)


# A page's style, for a plot in a file of its own: text, rules, then the series.
_COLOURS = ("#0b5cad", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
_STYLE = (
    "text{font-family:sans-serif;fill:#1b1f24}.tick{font-size:11.5px;fill:#57606a}.label{font-size:12.5px}"
    ".title{font-size:14px;font-weight:600}.grid{stroke:#d8dee4}.axis,.level{stroke:#57606a}.level{stroke-dasharray:1 4}"
    ".line{fill:none;stroke-width:2}.band{opacity:.16}"
) + "".join(
    f".line.s{n}{{stroke:{colour};stroke-dasharray:{dash}}}.mark.s{n},.band.s{n}{{fill:{colour}}}"
    for n, (colour, dash) in enumerate(zip(_COLOURS, _DASHES, strict=True))
)


def standalone(title: str, lines: Sequence[Line], x_label: str, y_label: str, note: str = "") -> str:
    """`line_plot` as an SVG file of its own: style, title, legend and a note below it are inside; "" when nothing is to draw."""
    figure = line_plot(title, lines, x_label, y_label)
    if not figure:
        return ""
    start = figure.index('<svg class="plot"')
    body = figure[figure.index(">", start) + 1 : figure.index("</svg>", start)]
    drawn = [line.name for line in lines if line.points]
    rows = [
        f'<line class="line s{n % SERIES}" x1="{_LEFT}" x2="{_LEFT + 26}" y1="{y - 4}" y2="{y - 4}"/>'
        f'<text class="label" x="{_LEFT + 34}" y="{y}">{escape(name)}</text>'
        for n, (name, y) in enumerate((name, _HEIGHT + 16 + 18 * n) for n, name in enumerate(drawn))
    ]
    height = _HEIGHT + 16 + 18 * len(drawn)
    if note:
        rows.append(f'<text class="tick" x="{_LEFT}" y="{height + 4}">{escape(note)}</text>')
        height += 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -26 {_WIDTH} {height + 26}" width="{2 * _WIDTH}" role="img">'
        f"<style>{_STYLE}</style>{body}"
        f'<text class="title" x="{_WIDTH / 2}" y="-8" text-anchor="middle">{escape(title)}</text>{"".join(rows)}</svg>\n'
    )


def dot_plot(title: str, dots: Sequence[Dot], x_label: str) -> str:
    """A figure with one row a value: a dot and its interval; "" when there is nothing to draw."""
    dots = [dot for dot in dots if math.isfinite(dot.value)]
    if not dots:
        return ""
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    low, high = _padded(min(ends), max(ends))
    row, left = 26, 150
    height = _TOP + row * len(dots) + _BOTTOM
    scale = (_WIDTH - left - _RIGHT) / (high - low)
    parts = []
    for value in ticks(low, high, 4):
        x = left + (value - low) * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - _BOTTOM + 15}" text-anchor="middle">{tick(value)}</text>')
    middle = (left + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle:.0f}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    for place, dot in enumerate(dots):
        y, x = _TOP + row * (place + 0.5), left + (dot.value - low) * scale
        style = f"s{place % SERIES}"
        parts.append(f'<text class="label" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(dot.name))}</text>')
        if dot.low is not None and dot.high is not None:
            a, b = (left + (end - low) * scale for end in (dot.low, dot.high))
            parts.append(f'<line class="whisker {style}" x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    said = "; ".join(
        f"{d.name} {number(d.value)}"
        + (f" ({number(d.low)} to {number(d.high)})" if d.low is not None and d.high is not None else "")
        for d in dots
    )
    return figure(title, f"{x_label}: {said}.", "".join(parts), height, [])


def _apart(labels: Sequence[tuple[str, float]], height: float = 13) -> list[tuple[str, float]]:
    """(names, y in pixels): labels that would overlap are joined into one, at the upper one's place."""
    joined: list[tuple[str, float]] = []
    for name, y in sorted(labels, key=lambda label: label[1]):
        if joined and y - joined[-1][1] < height:
            joined[-1] = (f"{joined[-1][0]}, {name}", joined[-1][1])
        else:
            joined.append((name, y))
    return joined


class _Frame:
    """Maps data to the plot's area."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float):
        self._x = x_low, (_WIDTH - _LEFT - _RIGHT) / ((x_high - x_low) or 1.0)
        self._y = y_low, (_HEIGHT - _TOP - _BOTTOM) / (y_high - y_low)
        self._ends = x_low, x_high, y_low, y_high

    def x(self, value: float) -> float:
        return _LEFT + (value - self._x[0]) * self._x[1]

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self._y[0]) * self._y[1]

    def at(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f},{self.y(y):.1f}"

    def axes(self, x_label: str, y_label: str) -> str:
        x_low, x_high, y_low, y_high = self._ends
        parts = []
        for value in ticks(y_low, y_high):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick(value)}</text>')
        for value in ticks(x_low, x_high, 4):
            # The last figure would stick out on the right.
            anchor = "end" if self.x(value) > _WIDTH - _RIGHT - 14 else "middle"
            parts.append(
                f'<text class="tick" x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="{anchor}">{tick(value)}</text>'
            )
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"/>'
        )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
        return "".join(parts)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return (max(low - margin, 0.0) if low >= 0 else low - margin), high + margin


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _told(line: Line) -> str:
    (x0, y0), (x1, y1) = line.points[0], line.points[-1]
    least = min(y for _, y in line.points)
    return f"{line.name or 'the line'}: from {number(y0)} at {number(x0)} to {number(y1)} at {number(x1)}, least {number(least)}"


def figure(title: str, description: str, content: str, height: float, legend: Sequence[str], note: str = "") -> str:
    """A plot's frame: title, text alternative, content, legend (one key a series) and a note below."""
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 26 8" aria-hidden="true"><line class="line s{n % SERIES}" x1="1" x2="25" y1="4" y2="4"/></svg>{escape(name)}</li>'
        for n, name in enumerate(legend)
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title + ". " + description)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{content}</svg>"
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + (f'<p class="soft note">{escape(note)}</p>' if note else "")
        + "</figure>"
    )

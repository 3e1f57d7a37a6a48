"""Curves over the steps of a run, or over anything else, as inline SVG.

A chart is drawn here, so that it is there without scripts and on paper; ``report.js`` draws it again from the
numbers that stand beside it when a person hovers, smooths or turns to a logarithmic axis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from intermodal.report.html import Html, clean, el
from intermodal.report.words import number

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 26
MOST_POINTS = 600
COLOURS = 10


@dataclass(frozen=True)
class Series:
    """A named curve.

    Attributes:
        name: for the legend.
        points: step and value; a value that is not finite leaves a gap.
    """

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def changes(self) -> bool:
        """Whether there is anything to see: one point, or values that differ."""
        return len(self.points) == 1 or len({v for _, v in self.points if math.isfinite(v)}) > 1

    def thinned(self) -> list[tuple[float, float]]:
        """Return at most :data:`MOST_POINTS` points, evenly taken, the last included."""
        if len(self.points) <= MOST_POINTS:
            return list(self.points)
        stride = (len(self.points) - 1) / (MOST_POINTS - 1)
        return [self.points[round(i * stride)] for i in range(MOST_POINTS)]


@dataclass(frozen=True)
class Axes:
    """What a chart's axes mean.

    Attributes:
        x, y: their names; ``x`` also stands before the value that a person points at.
        log_x, log_y: logarithmic; values must then be above 0.
    """

    x: str = "step"
    y: str = ""
    log_x: bool = False
    log_y: bool = False


STEPS = Axes()


def chart(title: str, series: Sequence[Series], *, about: str = "", smooth: bool = False, axes: Axes = STEPS) -> Html:
    """Return a chart of one or several curves.

    Args:
        title: a heading.
        series: the curves; those without a finite value are left out.
        about: a sentence under the heading.
        smooth: offer smoothing, and start with a little of it.
        axes: what the axes mean.
    """
    drawn = [_drawable(s, axes) for s in series]
    drawn = [s for s in drawn if any(math.isfinite(v) for _, v in s.points)][:COLOURS]
    if not drawn:
        return Html("")
    values = [v for s in drawn for _, v in s.points if math.isfinite(v)]
    legend = [el("li", el("span", class_=f"key c{i}"), s.name) for i, s in enumerate(drawn)]
    return el(
        "figure",
        el("figcaption", el("h3", title), el("p", about) if about else None),
        _controls(smooth, min(values) > 0, axes.log_y),
        el("div", _svg(title, drawn, axes), el("div", class_="tip", hidden=True), class_="plot"),
        el("p", f"Across: {axes.x}. Up: {axes.y}.", class_="axes") if axes.y else None,
        el("ul", legend, class_="legend") if len(drawn) > 1 else None,
        el("script", _data(drawn), type="application/json"),
        class_="chart",
        data_x=axes.x,
        data_logx=axes.log_x,
    )


def _drawable(series: Series, axes: Axes) -> Series:
    """Return the curve without what a logarithmic axis cannot show."""
    points = [(x, y) for x, y in series.points if x > 0 or not axes.log_x]
    return Series(series.name, [(x, y if y > 0 or not axes.log_y else math.nan) for x, y in points])


def _controls(smooth: bool, positive: bool, log: bool) -> Html | None:
    options = ((0, "as measured"), (0.6, "a little smoothed"), (0.9, "smoothed"), (0.97, "very smooth"))
    choice = [el("option", text, value=value, selected=value == 0.6) for value, text in options]
    parts = [
        el("select", choice, class_="smooth", aria_label="Smoothing") if smooth else None,
        el("label", el("input", type="checkbox", class_="log", checked=log), " log scale") if positive else None,
    ]
    return el("div", [p for p in parts if p is not None], class_="controls") if any(parts) else None


def _data(series: Sequence[Series]) -> Html:
    plain = [
        {
            "name": clean(s.name),
            "points": [[x, round_to(v) if math.isfinite(v) else None] for x, v in s.thinned()],
        }
        for s in series
    ]
    return Html(json.dumps(plain, separators=(",", ":")).replace("<", "\\u003c"))


def round_to(value: float, digits: int = 5) -> float:
    """Return a value with this many significant digits, for a small file."""
    return float(f"{value:.{digits}g}")


def _svg(title: str, series: Sequence[Series], axes: Axes) -> Html:
    points = [p for s in series for p in s.points if math.isfinite(p[1])]
    x_of, y_of = math.log10 if axes.log_x else float, math.log10 if axes.log_y else float
    x_low, x_high = spread(x_of(min(x for x, _ in points)), x_of(max(x for x, _ in points)))
    y_low, y_high = spread(y_of(min(y for _, y in points)), y_of(max(y for _, y in points)), margin=0.05)

    def x_at(x: float) -> float:
        return LEFT + (x_of(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y_of(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    grid = []
    for tick in log_ticks(y_low, y_high) if axes.log_y else ticks(y_low, y_high, 4):
        y = round(y_at(tick), 1)
        grid.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        grid.append(el("text", f"{tick:,.6g}", x=LEFT - 8, y=y + 4, text_anchor="end"))
    for tick in log_ticks(x_low, x_high) if axes.log_x else ticks(x_low, x_high, 5):
        grid.append(el("text", f"{tick:,.6g}", x=round(x_at(tick), 1), y=HEIGHT - 8, text_anchor="middle"))
    lines = [el("path", d=_path(s, x_at, y_at), class_=f"line c{i}") for i, s in enumerate(series)]
    return el(
        "svg",
        el("g", grid, class_="grid"),
        el("g", lines, class_="lines"),
        el("g", class_="cursor"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=f"{title}: {'; '.join(_in_words(s, axes.x) for s in series)}",
    )


def _in_words(series: Series, x: str) -> str:
    finite = [p for p in series.points if math.isfinite(p[1])]
    (first, start), (last, end) = finite[0], finite[-1]
    return f"{series.name} from {number(start)} at {x} {number(first)} to {number(end)} at {x} {number(last)}"


def _path(series: Series, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> str:
    parts, pen = [], "M"
    for x, y in series.thinned():
        if not math.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x_at(x):.1f} {y_at(y):.1f}")
        pen = "L"
    return "".join(parts)


def spread(low: float, high: float, margin: float = 0.0) -> tuple[float, float]:
    """Return bounds that are apart, with a share of room on both sides."""
    if high <= low:
        room = abs(low) * 0.1 or 0.5
        return low - room, low + room
    return low - margin * (high - low), high + margin * (high - low)


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers whose decimal logarithms lie within bounds; at least two where there is room for them."""
    factors = (1,) if high - low > 3 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [m * 10.0**p for p in powers for m in factors if low <= math.log10(m * 10.0**p) <= high]
    return found if len(found) > 1 else [t for t in ticks(10**low, 10**high, 4) if t > 0]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers within bounds: steps of 1, 2 or 5 times a power of ten, about this many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]

"""Maps: named points of the plane as inline SVG, with as many names as find room."""

from __future__ import annotations

import math

from intermodal.evaluate.result import Scatter
from intermodal.report.curves import COLOURS, spread
from intermodal.report.html import Html, el

WIDTH, HEIGHT, MARGIN = 900, 620, 14
DOT, LETTER, LINE = 3.5, 7.0, 14.0
"""The radius of a point, and about how wide a letter and how high a line is, in the drawing's units."""


def scatter(panel: Scatter) -> Html:
    """Return the map with a legend of its groups; a name that finds no room is shown when its point is pointed at."""
    finite = [i for i, (x, y) in enumerate(panel.points) if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return el("p", "Nothing to show.", class_="empty")
    groups = list(dict.fromkeys(panel.groups))[:COLOURS]
    x_low, x_high = spread(*_bounds([panel.points[i][0] for i in finite]))
    y_low, y_high = spread(*_bounds([panel.points[i][1] for i in finite]))
    places = [
        (
            MARGIN + (panel.points[i][0] - x_low) / (x_high - x_low) * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - (panel.points[i][1] - y_low) / (y_high - y_low) * (HEIGHT - 2 * MARGIN),
        )
        for i in finite
    ]
    points, names = [], []
    taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places]
    for i, (x, y) in zip(finite, places, strict=True):
        colour = f"c{groups.index(panel.groups[i])}" if panel.groups[i] in groups else ""
        dot = el("circle", cx=round(x, 1), cy=round(y, 1), r=DOT, class_=f"dot {colour}".strip())
        points.append(el("g", el("title", panel.names[i]) if panel.names[i] else None, dot))
        place = _room(panel.names[i], x, y, taken)
        if place is not None:
            at, anchor, box = place
            taken.append(box)
            names.append(el("text", panel.names[i], x=round(at, 1), y=round(y + 4, 1), text_anchor=anchor))
    legend = [el("li", el("span", class_=f"key c{i}"), name) for i, name in enumerate(groups)]
    drawing = el(
        "svg",
        el("g", points, class_="points"),
        el("g", names, class_="names"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{panel.title}: {len(finite)} points",
    )
    return Html(
        el("div", drawing, class_="scroll", tabindex=0, role="region", aria_label=panel.title)
        + (el("ul", legend, class_="legend") if len(groups) > 1 else Html(""))
    )


def _bounds(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def _room(
    name: str, x: float, y: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, str, tuple[float, float, float, float]] | None:
    """Return where a name fits beside its point, to the right or the left, or None."""
    wide = LETTER * len(name)
    if not name:
        return None
    for start, at, anchor in ((x + 6, x + 6, "start"), (x - 6 - wide, x - 6, "end")):
        box = (start, y - LINE / 2, start + wide, y + LINE / 2)
        inside = start >= 0 and start + wide <= WIDTH
        if inside and all(box[0] > b[2] or b[0] > box[2] or box[1] > b[3] or b[1] > box[3] for b in taken):
            return at, anchor, box
    return None

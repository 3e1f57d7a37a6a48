"""Panels of an evaluation as HTML: galleries, heatmaps, tables, bars, curves and maps, whatever the method."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from functools import singledispatch

import numpy as np
from PIL import Image

from intermodal.evaluate.result import Aligned, Bars, Figure, Gallery, Heatmap, Item, Lines, Panel, Scatter, Table
from intermodal.report.curves import Axes, Series, chart
from intermodal.report.html import Child, Html, el
from intermodal.report.maps import scatter
from intermodal.report.words import number, percent

LONGEST_SIDE = 160
"""Pictures are shrunk to this many pixels: twice what they are shown at, for sharp screens."""
FIGURE_SIDE = 2000
"""The same of a picture that has the page's whole width."""
FIGURES = re.compile(r"[\d.,+−-]+\s?%?( (to|±) [\d.,]+\s?%?)?")
"""How figures are written out in a table's cell."""


def draw(panel: Panel) -> Html:
    """Return one panel as a titled figure."""
    if isinstance(panel, Lines):
        return _lines(panel)
    return el(
        "figure",
        el("figcaption", el("h3", panel.title), el("p", panel.about) if panel.about else None),
        _body(panel),
        class_=f"panel {_kind(panel)}{' half' if _is_short(panel) else ''}",
    )


def _kind(panel: Panel) -> str:
    """Return how the style sheet knows a kind of panel; ``figure`` is a number there."""
    return "drawn" if isinstance(panel, Figure) else type(panel).__name__.lower()


def _is_short(panel: Panel) -> bool:
    return isinstance(panel, Bars) and len(panel.names) <= 6 and panel.baseline is None


def picture(image: Image.Image, alt: str, longest: int = LONGEST_SIDE) -> Html:
    """Return an ``img`` that holds its own data, with sides of at most ``longest`` pixels."""
    image = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
    if max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = min((_webp(image, lossless) for lossless in (True, False)), key=len)
    source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    return el("img", src=source, alt=alt, width=image.width, height=image.height, loading="lazy", decoding="async")


def _webp(image: Image.Image, lossless: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=75 if lossless else 84, method=4)
    return buffer.getvalue()


@singledispatch
def _body(panel: Panel) -> Html:
    raise TypeError(f"There is no drawing for a {type(panel).__name__}.")


@_body.register
def _gallery(panel: Gallery) -> Html:
    if not panel.rows:
        return el("p", "Nothing to show.", class_="empty")
    rows = []
    for query, items in panel.rows:
        cells = [el("li", _cell(item, rank), class_=_mark(item)) for rank, item in enumerate(items, 1)]
        rows.append(
            el(
                "div",
                el("div", _query(query), class_="query"),
                el("ol", cells, class_="answers"),
                class_="row",
            )
        )
    wordy = all(item.image is None for _, items in panel.rows for item in items)
    return el("div", rows, class_="rows wordy" if wordy else "rows")


def _query(item: Item) -> Child:
    words = el("p", item.text, class_="text") if item.text else None
    image = picture(item.image, item.text or "the picture asked about") if item.image is not None else None
    note = el("p", item.note, class_="note") if item.note else None
    return [image, el("div", words, note)]


def _cell(item: Item, rank: int) -> Child:
    alt = (item.text or f"answer {rank}") + ("" if item.good is None else ", right" if item.good else ", wrong")
    sign = None
    if item.good is not None:
        sign = el("span", "✓" if item.good else "✗", class_="sign", title="right" if item.good else "wrong")
    score = el("span", f"{item.score:.2f}", class_="score") if item.score is not None else None
    below = item.image is None
    note = el("span", item.note, class_="note" if below else None) if item.note else None
    return [
        el("span", picture(item.image, alt), class_="frame") if item.image is not None else None,
        el("span", item.text, class_="text", title=item.text) if item.text else None,
        el("span", sign, score, None if below else note, class_="small"),
        note if below else None,
    ]


def _mark(item: Item) -> str:
    return "plain" if item.good is None else "good" if item.good else "bad"


@_body.register
def _heatmap(panel: Heatmap) -> Html:
    finite = panel.values[np.isfinite(panel.values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    span = high - low or 1.0
    head = el("tr", el("td"), [el("th", _axis(item), scope="col") for item in panel.columns])
    body = []
    for r, row in enumerate(panel.rows):
        cells = []
        for c, column in enumerate(panel.columns):
            value = float(panel.values[r, c])
            place = f"{row.text} × {column.text}: {number(value)}"
            heat = f"--v:{(value - low) / span:.3f}" if math.isfinite(value) else None
            cells.append(el("td", style=heat, title=place, class_="same" if r == c and _square(panel) else None))
        body.append(el("tr", el("th", _axis(row), scope="row"), cells))
    scale = el("p", f"lowest {number(low)}", el("span", class_="scale"), f"highest {number(high)}", class_="legend")
    matrix = el("table", el("thead", head), el("tbody", body), aria_label=panel.title)
    return Html(el("div", matrix, class_="scroll", tabindex=0, role="region", aria_label=panel.title) + scale)


def _square(panel: Heatmap) -> bool:
    return len(panel.rows) == len(panel.columns)


def _axis(item: Item) -> Html:
    if item.image is not None:
        return picture(item.image, item.text)
    return el("span", item.text)


@_body.register
def _table(panel: Table) -> Html:
    numeric = [_numeric([row[c] for row in panel.rows if c < len(row)]) for c in range(len(panel.columns))]
    head = el(
        "tr",
        [el("th", c, scope="col", class_="n" if n else None) for c, n in zip(panel.columns, numeric, strict=True)],
    )
    body = []
    for i, row in enumerate(panel.rows):
        first = el("th", _value(row[0]), scope="row")
        cells = [el("td", _value(v), class_="n" if n else None) for v, n in zip(row[1:], numeric[1:], strict=False)]
        body.append(el("tr", first, cells, class_="own" if i == panel.emphasis else None))
    table = el("table", el("thead", head), el("tbody", body))
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=panel.title)


def _numeric(cells: Sequence[str | float | None]) -> bool:
    """Say whether a column holds figures, as numbers or written out (``5.4 %``, ``3.4 % to 7.7 %``): it is narrow then."""
    said = [cell for cell in cells if cell not in (None, "")]
    return any(isinstance(cell, int | float) for cell in said) or (
        bool(said) and all(FIGURES.fullmatch(str(cell)) for cell in said)
    )


def _value(value: str | float | None) -> str:
    return value if isinstance(value, str) else number(value)


@_body.register
def _bars(panel: Bars) -> Html:
    shown = [v for v in [*panel.values, *(panel.baseline or [])] if math.isfinite(v)]
    top = max([*shown, 0.0]) or 1.0
    rows = []
    for i, (name, value) in enumerate(zip(panel.names, panel.values, strict=True)):
        mark = panel.baseline[i] if panel.baseline is not None else None
        tick = None
        if mark is not None and math.isfinite(mark):
            said = f"{panel.baseline_name or 'baseline'}: {_with_unit(mark, panel.unit)}"
            tick = el("span", class_="tick", style=f"left:{_width(mark, top)}", title=said)
        bar = el("span", class_="fill", style=f"width:{_width(value, top)}")
        rows.append(
            el(
                "tr",
                el("th", name, scope="row"),
                el("td", el("span", bar, tick, class_="track"), class_="bar"),
                el("td", _with_unit(value, panel.unit), class_="n"),
                el("td", _with_unit(mark, panel.unit), class_="n faint") if panel.baseline is not None else None,
                class_="own" if i == panel.emphasis else None,
            )
        )
    head = None
    if panel.baseline is not None:
        names = ["", "", "value", panel.baseline_name or "baseline"]
        head = el(
            "thead",
            el("tr", [el("th", n, scope="col", class_="n" if i > 1 else None) for i, n in enumerate(names)]),
        )
    return el("table", head, el("tbody", rows))


@_body.register
def _figure(panel: Figure) -> Html:
    return el("div", picture(panel.image, panel.alt or panel.title, FIGURE_SIDE), class_="drawing")


@_body.register
def _aligned(panel: Aligned) -> Html:
    if not panel.rows:
        return el("p", "Nothing to show.", class_="empty")
    rows = [
        el(
            "li",
            el("span", name, class_="note"),
            el("p", [_place(right, made) for right, made in places] or "(nothing)"),
        )
        for name, places in panel.rows
    ]
    legend = "Above what was said, below what was made of it where that differs; – is nothing."
    return Html(el("ol", rows, class_="places") + el("p", legend, class_="legend"))


def _place(right: str, made: str) -> Html:
    """Return one place of an alignment: what is right, and below it what was made of it if that is another thing."""
    if right == made:
        return el("span", el("span", right), class_="place")
    said = "missed" if not made else "added" if not right else "wrong"
    return el(
        "span", el("span", right or "–"), el("span", made or "–", class_="made"), class_=f"place {said}", title=said
    )


@_body.register
def _scatter(panel: Scatter) -> Html:
    return scatter(panel)


def _lines(panel: Lines) -> Html:
    """Return curves as the charts of training are drawn, with their axes named."""
    axes = Axes(panel.x_label, panel.y_label, panel.log_x, panel.log_y)
    series = [Series(line.name, list(zip(line.x, line.y, strict=True))) for line in panel.series]
    return chart(panel.title, series, about=panel.about, axes=axes)


def _width(value: float, top: float) -> str:
    return f"{100 * min(max(value / top, 0.0), 1.0):.1f}%" if math.isfinite(value) else "0%"


def _with_unit(value: float | None, unit: str) -> str:
    if unit == "%":
        return percent(value)
    return f"{number(value)} {unit}".strip()

"""Numbers as a person writes them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Return a number with three or four significant digits; a dash for none, ``not a number`` for NaN."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 1:
        return f"{value:.2f}" if size < 100 else f"{value:.1f}"
    if size >= 0.001:
        return f"{value:.3f}"
    return f"{value:.2g}" if size >= 1e-4 else f"{value:.1e}"


def percent(share: float | None) -> str:
    """Return a share of one as per cent."""
    if share is None:
        return "–"
    if not math.isfinite(share):
        return "not a number"
    value = 100 * share
    said = f"{value:.0f}" if value >= 99.95 or value == 0 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
    return f"{said}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """Return a span of time in the two largest units that fit."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def megabytes(value: float) -> str:
    """Return megabytes, as gigabytes where they are many."""
    return f"{value / 1024:.1f} GB" if value >= 1024 else f"{value:.0f} MB"


def count(value: float) -> str:
    """Return a large count in short: 3.4 million, 12,345."""
    if value >= 1e9:
        return f"{value / 1e9:.2f} billion"
    return f"{value / 1e6:.2f} million" if value >= 1e6 else f"{value:,.0f}"


def spell(name: str) -> str:
    """Return a metric's or a setting's name with its underscores as spaces."""
    return name.replace("_", " ").replace("/", " · ")

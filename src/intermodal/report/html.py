"""HTML built of nested calls, escaped unless it is HTML already: ``<script>`` in a caption stays text."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"img", "input", "meta", "br", "hr", "path", "line", "rect", "circle", "use"})


class Html(str):
    """Text that is HTML already; every other string is escaped where it enters a page."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return one element.

    Args:
        tag: its name.
        children: strings (escaped), :class:`Html` (kept), lists of those, or None (left out).
        attributes: a trailing underscore is dropped (``class_``), others become hyphens; None and False are
            left out, True stands without a value.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Html(f"<{tag}{written}>" if tag in ("img", "input", "meta", "br", "hr") else f"<{tag}{written}/>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Child) -> Html:
    """Return children one after the other, plain strings escaped."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return Html(html.escape(clean(children), quote=False))
    return Html("".join(join(child) for child in children))


def clean(text: str) -> str:
    """Return a text without control characters, which no page may hold."""
    return "".join(c if c >= " " or c in "\n\t" else "�" for c in text)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(clean(str(value)), quote=True)}"'

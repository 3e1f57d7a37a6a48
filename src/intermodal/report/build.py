"""Writes a run's report: one HTML file with everything in it, that opens offline, anywhere, years later."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from intermodal.core.files import write_text
from intermodal.report import sections
from intermodal.report.html import Child, Html, el
from intermodal.report.record import Record, read_record

FILE = "report.html"

_SECTIONS = (
    ("reaches", "What it reaches", sections.reaches),
    ("pictures", "Pictures", sections.pictures),
    ("failures", "Failures worth seeing", sections.failures),
    ("curves", "While it trained", sections.curves),
    ("health", "Warnings", sections.health),
    ("cost", "What it cost", sections.cost),
    ("use", "Use it", sections.use),
    ("recipe", "Recipe", sections.recipe),
)


def build_report(run_folder: str | Path) -> Path:
    """Write ``report.html`` from what lies in a run's folder and return its path.

    ``recipe.json``, ``metrics.jsonl``, ``summary.json`` and ``evaluation/SPLIT/`` are read; each may be
    missing.

    Raises:
        IntermodalError: if the folder is not there or holds nothing of a run, or the report cannot be
            written.
    """
    path = Path(run_folder) / FILE
    write_text(path, page(read_record(run_folder)))
    return path


def page(record: Record) -> str:
    """Return the whole page."""
    drawn = [(name, title, build(record)) for name, title, build in _SECTIONS]
    return assemble(sections.title(record), sections.headline(record), drawn)


def assemble(title: str, head: Child, drawn: Sequence[tuple[str, str, Html]]) -> str:
    """Return a whole page that needs nothing but itself.

    Args:
        title: of the window.
        head: what stands above the sections.
        drawn: each section's anchor, heading and content; one without content is left out.
    """
    shown = [(name, heading, body) for name, heading, body in drawn if body]
    links = el("nav", [el("a", heading, href=f"#{name}") for name, heading, _ in shown], aria_label="Sections")
    body: list[Child] = [
        el("div", links, _themes(), class_="bar"),
        el(
            "main",
            head,
            [el("section", el("h2", heading), content, id=name) for name, heading, content in shown],
        ),
        el("footer", el("p", "Written by intermodal. Everything in this page is inside this file.")),
    ]
    return _document(title, body)


def _themes() -> Html:
    choices = (("auto", "As the system"), ("light", "Light"), ("dark", "Dark"))
    signs = {"auto": "◐", "light": "☀", "dark": "☾"}
    buttons = [
        el(
            "button",
            signs[name],
            type="button",
            value=name,
            title=said,
            aria_label=said,
            aria_pressed="false",
        )
        for name, said in choices
    ]
    return el("div", buttons, class_="themes", role="group", aria_label="Colours", hidden=True)


def _document(title: str, body: Child) -> str:
    style, script = _asset("report.css"), _asset("report.js")
    # Only this script may run and nothing may be fetched, whatever a caption tries.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(style)),
    )
    return "<!doctype html>\n" + el("html", head, el("body", body, el("script", Html(script))), lang="en") + "\n"


def _asset(name: str) -> str:
    return (resources.files("intermodal.report") / "assets" / name).read_text(encoding="utf-8")

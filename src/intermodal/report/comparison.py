"""A page that shows one evaluation of several models: what ``intermodal probe`` writes."""

from __future__ import annotations

from pathlib import Path

from intermodal.core.files import write_text
from intermodal.evaluate.result import Evaluation
from intermodal.report import sections
from intermodal.report.build import assemble
from intermodal.report.html import Child, el
from intermodal.report.record import Record


def write_comparison(path: str | Path, title: str, lead: str, evaluation: Evaluation) -> Path:
    """Write an evaluation that is of no single run as one self-contained HTML file, and return its path.

    Args:
        path: of the file; an existing one is replaced.
        title: what is compared.
        lead: a sentence below it.
        evaluation: its headline, panels and figures are shown.

    Raises:
        IntermodalError: if the file cannot be written.
    """
    path = Path(path)
    write_text(path, comparison_page(title, lead, evaluation))
    return path


def comparison_page(title: str, lead: str, evaluation: Evaluation) -> str:
    """Return the page that :func:`write_comparison` writes."""
    record = Record(Path(), {}, {}, [], {evaluation.split: evaluation}, [])
    head: list[Child] = [el("h1", title), el("p", lead, class_="lead"), sections.result_in_words(evaluation)]
    drawn = [
        ("reaches", "What they reach", sections.reaches(record)),
        ("pictures", "Pictures", sections.pictures(record)),
        ("failures", "Failures worth seeing", sections.failures(record)),
    ]
    return assemble(title, el("header", head, class_="headline"), drawn)

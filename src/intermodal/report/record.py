"""Reads a run's folder for the report, and takes what is there: a run may be unfinished or killed."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal.core.errors import IntermodalError
from intermodal.core.files import read_json
from intermodal.evaluate.result import FILE as EVALUATION_FILE
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.result import load as load_evaluation
from intermodal.report.curves import Series

_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Record:
    """What a run's folder says.

    Attributes:
        path: the folder.
        recipe: the resolved recipe's JSON data; empty if there is none.
        summary: the outcome; empty if the run has not ended.
        lines: the lines of metrics, in the order they were written.
        evaluations: by split, ``test`` first.
        notes: what could not be read, in words.
    """

    path: Path
    recipe: dict[str, Any]
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]
    notes: list[str]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of one kind."""
        return [line for line in self.lines if line.get("kind") == kind]

    def series(self, kind: str) -> dict[str, Series]:
        """Return every number that lines of one kind hold, as curves over the steps."""
        points: dict[str, list[tuple[float, float]]] = {}
        for line in self.of_kind(kind):
            step = line.get("step")
            if step is None or not _is_number(step):
                continue
            for name, value in _flat(line):
                points.setdefault(name, []).append((step, math.nan if value is None else float(value)))
        return {name: Series(name, values) for name, values in points.items()}

    def typical(self, name: str) -> float | None:
        """Return the median of a training figure over the run; None if it was not written."""
        values = [v for v in self.values(name) if math.isfinite(v)]
        return statistics.median(values) if values else None

    def values(self, name: str) -> list[float]:
        """Return a training figure's values."""
        return [float(line[name]) for line in self.of_kind("train") if _is_number(line.get(name))]

    def number(self, name: str) -> float | None:
        """Return a number of the summary; None if it is missing or no number."""
        value = self.summary.get(name)
        return value if _is_number(value) else None

    @property
    def last_step(self) -> float:
        """The last step of which anything was written."""
        return max((x for s in self.series("train").values() for x, _ in s.points), default=0)

    @property
    def main(self) -> Evaluation | None:
        """The evaluation that the report is about: of the test split, else the first there is."""
        return next(iter(self.evaluations.values()), None)


def read_record(path: str | Path) -> Record:
    """Read a run's folder; what is missing is left out, what is damaged is named in ``notes``.

    Raises:
        IntermodalError: if there is no such folder, or nothing of a run in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise IntermodalError(f"There is no run's folder at {path}.")
    notes: list[str] = []
    recipe, summary = (_object(path / name, notes) for name in ("recipe.json", "summary.json"))
    lines = _lines(path / "metrics.jsonl", notes)
    evaluations = _evaluations(path / "evaluation", notes)
    if not (recipe or summary or lines or evaluations or notes):
        raise IntermodalError(f"{path} is no run: it has no recipe.json, metrics.jsonl, summary.json or evaluation.")
    return Record(path, recipe, summary, lines, evaluations, notes)


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = read_json(path)
    except IntermodalError as error:
        notes.append(str(error))
        return {}
    if not isinstance(data, dict):
        notes.append(f"{path} should hold a JSON object, found {type(data).__name__}.")
        return {}
    return data


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    broken = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            broken += 1
            continue
        if isinstance(line, dict):
            lines.append(line)
    if broken > 1:  # one is the last line of a run that was killed while it wrote
        notes.append(f"{broken} lines of {path.name} could not be read.")
    return lines


def _evaluations(path: Path, notes: list[str]) -> dict[str, Evaluation]:
    if not path.is_dir():
        return {}
    names = sorted(p.name for p in path.iterdir() if (p / EVALUATION_FILE).exists() and not p.name.startswith("."))
    names.sort(key=lambda name: _SPLITS.index(name) if name in _SPLITS else len(_SPLITS))
    found = {}
    for name in names:
        try:
            found[name] = load_evaluation(path / name)
        except IntermodalError as error:
            notes.append(str(error))
    return found


def _flat(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float | None]]:
    """Return the numbers of a line, those of nested ``parts`` and ``metrics`` under their own names."""
    found: list[tuple[str, float | None]] = []
    for name, value in line.items():
        if isinstance(value, dict):
            found += _flat(value, "" if name in ("parts", "metrics") else f"{prefix}{name}/")
        elif name not in ("step", "kind") and (value is None or _is_number(value)):
            found.append((prefix + name, value))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""What an evaluation hands to the report: figures, tables and pictures, with no idea how they are drawn.

Everything here is plain data. :func:`save` writes it into a run's folder (JSON, pictures beside it as PNG),
:func:`load` reads it back; the report draws any :class:`Panel`, so a method's evaluation shows up in its
report by being returned.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.core.files import atomic_folder, read_json, write_json

FORMAT = 1
FILE = "evaluation.json"
PICTURES = "pictures"


@dataclass(frozen=True)
class Item:
    """One cell of a gallery: a picture, a text, or both.

    Attributes:
        image: the picture, if there is one.
        text: the words, if there are any.
        score: a similarity or probability to print.
        good: whether it is right; None where that has no meaning.
        note: a few more words, in small print (a style, a rank).
    """

    image: Image.Image | None = None
    text: str = ""
    score: float | None = None
    good: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Rows of a query and what it brought, best first.

    Attributes:
        title: a heading.
        about: one or two sentences that say what is seen, and by which rule it was picked.
        rows: query and items.
        failures: shows mistakes, which the report keeps in a section of their own.
    """

    title: str
    about: str
    rows: list[tuple[Item, list[Item]]]
    failures: bool = False


@dataclass(frozen=True)
class Heatmap:
    """A matrix as colours; ``rows`` and ``columns`` label its axes."""

    title: str
    about: str
    values: np.ndarray
    rows: list[Item]
    columns: list[Item]


@dataclass(frozen=True)
class Table:
    """A table of text and numbers; the first column names the row, ``emphasis`` is the method's own row."""

    title: str
    about: str
    columns: list[str]
    rows: list[list[str | float | None]]
    emphasis: int | None = None


@dataclass(frozen=True)
class Bars:
    """Named values side by side, with a baseline to compare with.

    Attributes:
        title: a heading.
        about: one or two sentences.
        names: of the bars.
        values: their lengths.
        unit: ``"%"`` where the values are shares of one, else what is printed after each value.
        baseline: a value to mark on each bar, such as chance.
        baseline_name: what the mark is.
        emphasis: the bar of the method itself.
    """

    title: str
    about: str
    names: list[str]
    values: list[float]
    unit: str = ""
    baseline: list[float] | None = None
    baseline_name: str = ""
    emphasis: int | None = None


@dataclass(frozen=True)
class Line:
    """One curve of :class:`Lines`.

    Attributes:
        name: for the legend.
        x: places, rising.
        y: a value for each place; one that is not finite leaves a gap.
    """

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Lines:
    """Curves over one axis.

    Attributes:
        title: a heading.
        about: one or two sentences.
        x_label, y_label: what the axes are, with their units.
        series: the curves, at most ten.
        log_x, log_y: logarithmic axes; values must then be above 0.
    """

    title: str
    about: str
    x_label: str
    y_label: str
    series: list[Line]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points of the plane: a map.

    Attributes:
        title: a heading.
        about: one or two sentences; says that the axes have no meaning where they have none.
        points: where each lies.
        names: what stands beside each point; empty for none.
        groups: which group each belongs to, which gives its colour; at most ten groups.
    """

    title: str
    about: str
    points: list[tuple[float, float]]
    names: list[str]
    groups: list[str]


@dataclass(frozen=True)
class Figure:
    """One picture across the whole page: a drawing with axes of its own.

    Attributes:
        title: a heading.
        about: one or two sentences that say what is seen.
        image: the picture, at twice the size that it is shown at, for sharp screens.
        alt: what it shows, for those who do not see it.
    """

    title: str
    about: str
    image: Image.Image
    alt: str = ""


@dataclass(frozen=True)
class Aligned:
    """Texts word by word above what was made of them; what differs is marked.

    Attributes:
        title: a heading.
        about: one or two sentences, with the rule by which they were picked.
        rows: what each is called, and its places: what is right and what was made of it, ``""`` for nothing.
        failures: shows mistakes, which the report keeps in a section of their own.
    """

    title: str
    about: str
    rows: list[tuple[str, list[tuple[str, str]]]]
    failures: bool = False


Panel = Gallery | Heatmap | Table | Bars | Lines | Scatter | Figure | Aligned
_KINDS: dict[str, type[Panel]] = {
    cls.__name__.lower(): cls for cls in (Gallery, Heatmap, Table, Bars, Lines, Scatter, Figure, Aligned)
}


@dataclass(frozen=True)
class Headline:
    """The result in words.

    Attributes:
        figure: the one number, as a person writes it (``"52 %"``).
        sentence: what it says, and what the baselines reach, with no jargon.
    """

    figure: str
    sentence: str


def in_percent(share: float) -> str:
    """Return a share of one in words: whole per cents, with a decimal below ten."""
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Evaluation:
    """A judged method.

    Attributes:
        split: what it was judged on.
        metrics: named figures; the first is the headline.
        panels: what a person should see.
        seconds: how long judging took.
        headline: the result in words; None where the evaluation is too small to say.
    """

    split: str
    metrics: dict[str, float]
    panels: list[Panel] = field(default_factory=list)
    seconds: float = 0.0
    headline: Headline | None = None


def save(evaluation: Evaluation, folder: str | Path) -> None:
    """Write an evaluation into ``folder``, in one step: ``evaluation.json``, and pictures beside it as PNG.

    A picture that occurs several times is written once. A figure that is not a number is written as null.

    Raises:
        IntermodalError: if the disk is full or writing is not permitted; what was there before is then
            untouched.
    """
    with atomic_folder(folder) as temporary:
        (temporary / PICTURES).mkdir()
        data = {
            "format": FORMAT,
            "split": evaluation.split,
            "seconds": evaluation.seconds,
            "headline": None
            if evaluation.headline is None
            else [evaluation.headline.figure, evaluation.headline.sentence],
            "metrics": {name: _finite(value) for name, value in evaluation.metrics.items()},
            "panels": [_panel_to_plain(panel, temporary / PICTURES) for panel in evaluation.panels],
        }
        write_json(temporary / FILE, data)


def load(folder: str | Path) -> Evaluation:
    """Read what :func:`save` wrote.

    Raises:
        DataError: if it was altered, cut short, or is of a newer format.
        IntermodalError: if it is missing or not JSON.
    """
    folder = Path(folder)
    data = read_json(folder / FILE, "evaluation")
    try:
        if data["format"] > FORMAT:
            raise DataError(f"{folder / FILE} is of format {data['format']}; this version reads up to {FORMAT}.")
        pictures: dict[str, Image.Image] = {}
        return Evaluation(
            split=data["split"],
            metrics={k: math.nan if v is None else float(v) for k, v in data["metrics"].items()},
            panels=[_panel_from_plain(panel, folder / PICTURES, pictures) for panel in data["panels"]],
            seconds=float(data["seconds"]),
            headline=None if data["headline"] is None else Headline(*data["headline"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"The evaluation {folder / FILE} is damaged ({type(error).__name__}: {error}).") from error
    except OSError as error:
        raise DataError(f"The evaluation {folder} lacks a picture or holds a damaged one ({error}).") from error


def _finite(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _panel_to_plain(panel: Panel, pictures: Path) -> dict[str, Any]:
    kind = next(name for name, cls in _KINDS.items() if isinstance(panel, cls))
    values = {f.name: _to_plain(getattr(panel, f.name), pictures) for f in fields(panel)}
    return {"kind": kind, **values}


def _to_plain(value: Any, pictures: Path) -> Any:
    if isinstance(value, Line):
        return {"name": value.name, "x": _to_plain(value.x, pictures), "y": _to_plain(value.y, pictures)}
    if isinstance(value, Item):
        plain = {f.name: _to_plain(getattr(value, f.name), pictures) for f in fields(value)}
        return {k: v for k, v in plain.items() if v not in (None, "")}
    if isinstance(value, Image.Image):
        return _write_picture(value, pictures)
    if isinstance(value, (list, tuple)):
        return [_to_plain(v, pictures) for v in value]
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist(), pictures)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return _finite(float(value))
    return int(value) if isinstance(value, np.integer) else value


def _write_picture(image: Image.Image, pictures: Path) -> str:
    content = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()[:16]
    path = pictures / f"{content}.png"
    if not path.exists():
        image.save(path, "PNG")
    return path.name


def _panel_from_plain(data: dict[str, Any], pictures: Path, opened: dict[str, Image.Image]) -> Panel:
    def picture(name: str) -> Image.Image:
        if name not in opened:
            with Image.open(pictures / Path(name).name) as file:
                opened[name] = file.copy()
        return opened[name]

    def item(plain: dict[str, Any]) -> Item:
        name = plain.get("image")
        return Item(**{**plain, "image": None if name is None else picture(name)})

    values = dict(data)
    cls = _KINDS[values.pop("kind")]
    if cls is Gallery:
        values["rows"] = [(item(query), [item(i) for i in items]) for query, items in values["rows"]]
    elif cls is Heatmap:
        values["rows"] = [item(i) for i in values["rows"]]
        values["columns"] = [item(i) for i in values["columns"]]
        values["values"] = np.array(values["values"], dtype=np.float64)
    elif cls is Bars:
        for name in ("values", "baseline"):
            if values[name] is not None:
                values[name] = _numbers(values[name])
    elif cls is Lines:
        values["series"] = [Line(s["name"], _numbers(s["x"]), _numbers(s["y"])) for s in values["series"]]
    elif cls is Scatter:
        values["points"] = [(float(x), float(y)) for x, y in values["points"]]
    elif cls is Figure:
        values["image"] = picture(values["image"])
    elif cls is Aligned:
        values["rows"] = [(name, [(right, made) for right, made in places]) for name, places in values["rows"]]
    return cls(**values)


def _numbers(plain: list[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in plain]

"""What the commands that draw pictures share: the options of a drawing, and how pictures are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from intermodal.cli.common import OnDevice, OptionalText, UsageError
from intermodal.core.drawing import Drawing, Sampler, Spacing

if TYPE_CHECKING:
    from PIL import Image

PNG, SHEET, TRAJECTORY = ".png", "sheet.png", "trajectory"
Write = Callable[[Path], None]
"""Writes a file to the path that it is given."""


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(OnDevice):
    """The settings of a drawing; what is not given is the model's own choice.

    Attributes:
        steps: steps of the sampler; of a model of texts, the number of words.
        guidance: how strongly the prompt is followed: 1 as trained, more to exaggerate.
        sampler: ddpm is ancestral, dpm is DPM-Solver++, dpm-sde its stochastic form.
        negative: what is to be avoided, in words; it acts through guidance.
        eta: of ddim: 0 adds no noise, 1 as much as ddpm.
        order: of dpm and dpm-sde, 1 to 3.
        spacing: how the steps are spaced.
        rescale: how much of a guided picture's contrast is brought back, 0 to 1.
        interval: guide only where sigma / alpha is between these two numbers.
        precision: of the network's arithmetic: bf16 is faster where the processor has it.
    """

    steps: int | None = None
    guidance: float | None = None
    sampler: Sampler | None = None
    negative: OptionalText = None
    eta: float | None = None
    order: int | None = None
    spacing: Spacing | None = None
    rescale: float | None = None
    interval: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    precision: Literal["fp32", "bf16"] | None = None

    def given(self) -> dict[str, Any]:
        """Return the settings that were given, by the names of a :class:`~intermodal.core.drawing.Drawing`.

        Raises:
            ConfigError: if one is out of range.
        """
        own = {f.name for f in dataclasses.fields(OnDevice)}
        names = [f.name for f in dataclasses.fields(DrawingOptions) if f.name not in own]
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        Drawing().replace(**found)
        return found


def flags(given: Sequence[str]) -> str:
    """Return settings as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in given)


def is_file(out: Path) -> bool:
    """Return whether pictures go into one file of that name rather than into a folder.

    Raises:
        UsageError: if it is named as a picture of another format.
    """
    from intermodal.data.images import SUFFIXES

    suffix = out.suffix.lower()
    if suffix in SUFFIXES - {PNG}:
        raise UsageError(f"Pictures are written as PNG: name {out.with_suffix(PNG)}, or a folder.")
    return suffix == PNG


def beside(out: Path, ending: str) -> Path:
    """Return the path of a file that goes with another: ``-more.gif`` beside ``heart.png`` is ``heart-more.gif``."""
    return out.with_name(out.stem + ending)


def write_files(files: Mapping[Path, Write]) -> None:
    """Write files, each whole or not at all; all are written before the first takes its place."""
    from contextlib import ExitStack

    from intermodal.core.files import atomic_file

    with ExitStack() as stack:
        for path, write in files.items():
            write(stack.enter_context(atomic_file(path)))


def write_folder(
    folder: Path, pictures: Sequence[Image.Image], facts: Sequence[Mapping[str, str]], more: Mapping[str, Write]
) -> None:
    """Write pictures as ``0001.png`` ... and further files, in one step: the folder is there in full or not at all.

    Args:
        folder: where.
        pictures: any number.
        facts: what is written into the file of each.
        more: further files, by name.
    """
    from intermodal.core.files import atomic_folder
    from intermodal.data.picture_files import save_png

    digits = max(4, len(str(len(pictures))))
    with atomic_folder(folder) as temporary:
        for number, (picture, said) in enumerate(zip(pictures, facts, strict=True), 1):
            save_png(picture, temporary / f"{number:0{digits}d}{PNG}", said)
        for name, write in more.items():
            write(temporary / name)

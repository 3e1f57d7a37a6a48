"""``intermodal interpolate``: pictures between two pictures, or between two texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import Model, UsageError, errors, open_session, parse, progress, refuse_existing
from intermodal.cli.drawing import PNG, DrawingOptions, Write, beside, flags, is_file, write_files

if TYPE_CHECKING:
    from PIL import Image

MOST = 1_000


@dataclass(frozen=True, kw_only=True)
class Arguments(DrawingOptions):
    """Draw a strip of pictures from one picture to another, or from one text to another.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        first: a picture's file, or a text.
        second: another, of the same kind.
        count: how many pictures, the two ends included.
        seed: of what the two do not decide.
        out: write the strip here, a PNG file.
        gif: write an animation as well, there and back, beside the strip.
        overwrite: replace what is there.
    """

    model: Model
    first: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FIRST")]]
    second: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SECOND")]]
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = Path("interpolation.png")
    gif: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "interpolate")
    if not 2 <= arguments.count <= MOST:
        raise UsageError(f"--count takes a number from 2 to {MOST:,}, the two ends included; found {arguments.count}.")
    if not is_file(arguments.out):
        raise UsageError(f"A strip is one picture: name a file that ends in {PNG}, found {arguments.out}.")
    animation = beside(arguments.out, ".gif")
    for path in [arguments.out, *([animation] if arguments.gif else [])]:
        refuse_existing(path, arguments.overwrite)
    from intermodal.index.prompts import checked

    checked(arguments.negative, "negative prompt")
    given, first, second = arguments.given(), read_end(arguments.first), read_end(arguments.second)
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.data.images import contact_sheet
        from intermodal.data.picture_files import Origin, save_png
        from intermodal.data.token_pictures import enlarged
        from intermodal.data.trajectories import save_animation
        from intermodal.index.drawing import interpolates, seeds_from, settings
        from intermodal.index.prompts import unheard

        model = interpolates(session.model, "To interpolate")
        drawing = settings(session.model, given, f"To interpolate with {flags(list(given))}")
        notes = [note for end in (first, second) if isinstance(end, str) for note in unheard(session.model, end)]
        [seed] = seeds_from(arguments.seed, 1)
        report(f"drawing {arguments.count} pictures from one to the other", 0.0)
        made = model.interpolate(first, second, arguments.count, seed=seed, drawing=drawing)
    origin = Origin(model=arguments.model, method=session.model.id, drawing=drawing)
    facts = origin.facts([seed], {"first": arguments.first, "second": arguments.second})
    strip = contact_sheet(made, columns=len(made))
    files: dict[Path, Write] = {arguments.out: lambda path: save_png(strip, path, facts)}
    if arguments.gif:
        large = [enlarged(picture) for picture in made]
        files[animation] = lambda path: save_animation([*large, *large[-2:0:-1]], path, held=0)
    write_files(files)
    for note in dict.fromkeys(notes):
        errors().print(note, markup=False)
    also = f", and {animation.name}" if arguments.gif else ""
    errors().print(f"{arguments.out}: {len(made)} pictures side by side{also}.", markup=False)
    return 0


def read_end(given: str) -> Image.Image | str:
    """Return the picture at a path, or the text that was given.

    Raises:
        DataError: if it is named as a picture and there is none, or the file is none; or if a text is empty.
    """
    from intermodal.data.images import SUFFIXES, open_image
    from intermodal.index.prompts import checked

    text = checked(given, "text")
    assert text is not None
    path = Path(text)
    if path.suffix.lower() in SUFFIXES or (len(text) < 256 and path.is_file()):
        return open_image(path)
    return text

"""``intermodal tokens``: shows what an image tokenizer makes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    open_session,
    output,
    parse,
    print_json,
    progress,
    refuse_existing,
)


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Draw a picture, its tokens and what comes back side by side, and say how many bits the tokens take.

    Each code has a colour of its own, the same in every picture; of real numbers the three principal channels are shown.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        picture: what to encode.
        output: write the drawing here: PICTURE-tokens.png in the current folder by default.
        levels: keep the first few codes of each place only, where the model's codes refine each other.
        json: print the latent and the figures as JSON.
        overwrite: replace what is there.
    """

    model: Model
    picture: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="PICTURE")]]
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = None
    levels: int | None = None
    json: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "tokens")
    path = arguments.output or Path(f"{arguments.picture.stem}-tokens.png")
    refuse_existing(path, arguments.overwrite)
    from intermodal.core.files import atomic_file
    from intermodal.data.images import open_image
    from intermodal.data.token_pictures import enlarged, side_by_side

    image = open_image(arguments.picture)
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.index.embedding import reconstructs
        from intermodal.index.tokens import show

        report("encoding the picture", 0.0)
        codebook = reconstructs(session.model, "To show tokens").codebook_size
        shown = show(session.model, image, arguments.levels)
    with atomic_file(path) as temporary:
        side_by_side([enlarged(shown.original), *shown.tokens, enlarged(shown.returned)]).save(temporary, "PNG")
    figures = {"bits": shown.bits, "bits_per_pixel": shown.bits_per_pixel, "psnr": shown.psnr}
    if arguments.json:
        print_json(
            {**figures, "codebook": codebook, "shape": list(shown.latent.shape), "latent": shown.latent.tolist()}
        )
        return 0
    out = output()
    out.print(shown.in_words(codebook), markup=False)
    out.print(f"{path}: the picture, its tokens, and what comes back.", markup=False)
    return 0

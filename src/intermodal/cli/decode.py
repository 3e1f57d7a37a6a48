"""``intermodal decode``: turns a file of tokens into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import Model, OnDevice, errors, open_session, parse, progress, refuse_existing


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Turn the tokens of a file into pictures, PNG files under the names that they had, with the model that made them.

    Attributes:
        model: the run, checkpoint, published folder or hub id that encoded them.
        file: the file of tokens.
        output: write into this folder, which must not exist yet.
        levels: decode the first few codes of each place only, where the model's codes refine each other.
        original_size: enlarge each picture to the size that it had (the part of it that the model kept).
        overwrite: replace what is there.
    """

    model: Model
    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o", "--out"], metavar="FOLDER")] = Path("decoded")
    levels: int | None = None
    original_size: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "decode")
    refuse_existing(arguments.output, arguments.overwrite)
    from intermodal.data.tokens import TokenFile, picture_names

    tokens = TokenFile(arguments.file)
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.errors import ConfigError
        from intermodal.core.files import atomic_folder
        from intermodal.data.processors import ImageProcessor
        from intermodal.index.tokens import BATCH, as_it_was, decoded, kept

        tokens.check(session.tokenizer)
        processor = session.model.processors.get("image")
        if arguments.original_size and not isinstance(processor, ImageProcessor):
            raise ConfigError("This model does not say how it fits pictures: leave --original-size out.")
        what = f"decoding {len(tokens):,} pictures"
        report(what, 0.0)
        names = picture_names(tokens.names)
        with atomic_folder(arguments.output) as temporary:
            for first in range(0, len(tokens), BATCH):
                latents = kept(session.model, tokens.read(first, first + BATCH), arguments.levels)
                for place, picture in enumerate(decoded(session.model, latents), first):
                    path = temporary / names[place]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if arguments.original_size:
                        assert isinstance(processor, ImageProcessor)
                        picture = as_it_was(picture, _size(tokens.sizes[place]), processor)  # noqa: PLW2901
                    picture.save(path, "PNG")
                report(what, min(first + BATCH, len(tokens)) / len(tokens))
    errors().print(f"{arguments.output}: {len(tokens):,} pictures.", markup=False)
    return 0


def _size(row: Sequence[int]) -> tuple[int, int]:
    return int(row[0]), int(row[1])

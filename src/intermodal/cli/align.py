"""``intermodal align``: where in a recording the words and phones of a known text are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalText,
    UsageError,
    open_session,
    output,
    parse,
    print_json,
    progress,
    refuse_existing,
)

PICTURE = ".png"


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Find the words (and phones) of a known text in a recording.

    Attributes:
        model: a run or a checkpoint that can align: HMMs, CTC models.
        recording: a file of sound.
        text: what is said in it.
        text_file: read the text from this file.
        output: write here: .TextGrid (Praat), .ctm or .json, or .png for a picture over the spectrogram.
        json: print JSON.
        overwrite: replace what is there.
    """

    model: Model
    recording: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RECORDING")]]
    text: tyro.conf.Positional[Annotated[OptionalText, tyro.conf.arg(metavar="TEXT")]] = None
    text_file: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = None
    json: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "align")
    text = _text(arguments)
    path = arguments.output
    if path is not None:
        _check_suffix(path)
        refuse_existing(path, arguments.overwrite)
    import dataclasses

    from intermodal.core.files import atomic_file, write_text
    from intermodal.data.alignments import written
    from intermodal.data.audio import read_audio
    from intermodal.index.listening import aligns

    wave = read_audio(arguments.recording)
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        model = aligns(session.model, "To align a text")
        report("aligning", 0.0)
        alignment = model.align(wave, text)
    if path is not None and path.suffix.lower() == PICTURE:
        from intermodal.evaluate.alignment_picture import draw_alignment

        with atomic_file(path) as temporary:
            draw_alignment(wave, alignment, text).save(temporary, "PNG")
    elif path is not None:
        write_text(path, written(alignment, path.suffix, arguments.recording.stem))
    if arguments.json:
        print_json({"file": str(arguments.recording), **dataclasses.asdict(alignment)})
        return 0
    out = output()
    if path is not None:
        out.print(f"{path}: {len(alignment.words)} words, {len(alignment.phones)} phones.", markup=False)
        return 0
    for word in alignment.words:
        sure = "" if word.confidence is None else f"  {word.confidence:4.0%}"
        out.print(f"{_seconds(word.start)} {_seconds(word.end)}  {word.text}{sure}", markup=False)
    return 0


def _seconds(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.3f}"


def _text(arguments: Arguments) -> str:
    """Return the text that was given.

    Raises:
        UsageError: if none or two were given, or it has no word.
        DataError: if its file cannot be read.
    """
    if (arguments.text is None) == (arguments.text_file is None):
        raise UsageError("Give the text that is said, either itself or as --text-file PATH.")
    text = arguments.text
    if arguments.text_file is not None:
        from intermodal.data.layouts import read_text

        text = read_text(arguments.text_file)
    if not text or not text.split():
        raise UsageError("There is no word in the text to align.")
    return " ".join(text.split())


def _check_suffix(path: Path) -> None:
    from intermodal.data.alignments import SUFFIXES

    if path.suffix.lower() not in (*SUFFIXES, PICTURE):
        raise UsageError(f"Alignments are written as .TextGrid, .ctm, .json or .png, not as {path.name}.")

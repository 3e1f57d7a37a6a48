"""``intermodal ask``: answers questions about pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalFloat,
    OptionalInt,
    Output,
    UsageError,
    errors,
    open_session,
    output,
    parse,
    progress,
    refuse_existing,
    show_unreadable,
)
from intermodal.cli.pictures import Walk, lines_to, listed

if TYPE_CHECKING:
    from intermodal.core.captioning import Captioning


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Ask a question about a picture, about each picture of a folder, or several in a chat.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        words: pictures or folders of them, and last the question; with --chat pictures alone.
        chat: read one question a line from the standard input; the pictures are shown with the first, and a line that names
            a picture file shows it with the next question. What was said and read before is remembered; what cannot be
            answered is said so, and the chat goes on.
        beam: how many hypotheses are kept; 1, the default, answers greedily.
        temperature: draw tokens at this temperature; 0, the default, takes the most probable one.
        top_p: draw from the most probable tokens that together have this probability.
        length: the most tokens of an answer.
        seed: of drawing. Same seed, same answers.
        output: write a line of JSON a picture here.
        overwrite: replace what is there.
    """

    model: Model
    words: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE|FOLDER... QUESTION")]]
    chat: bool = False
    beam: OptionalInt = None
    temperature: OptionalFloat = None
    top_p: OptionalFloat = None
    length: OptionalInt = None
    seed: OptionalInt = None
    output: Output = None
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "ask")
    if arguments.chat and arguments.output is not None:
        raise UsageError("A chat is answered on the standard output: leave --output out, or --chat.")
    if not arguments.chat and not arguments.words:
        raise UsageError('Say what to ask: pictures or folders of them, and the question last, as in "What is this?".')
    if arguments.output is not None:
        refuse_existing(arguments.output, arguments.overwrite)
    from intermodal.index.captioning import caption_settings

    names = ("beam", "temperature", "top_p", "seed")
    settings = caption_settings({name: getattr(arguments, name) for name in names} | {"most": arguments.length})
    if arguments.chat:
        return _chat(arguments, settings)
    *inputs, question = arguments.words
    if os.path.exists(question):  # noqa: PTH110 - a long question is no error here
        raise UsageError(f"The question is missing: the last word, {question!r}, is a picture or folder.")
    return _ask(arguments, [Path(word) for word in inputs], question, settings)


def _ask(arguments: Arguments, inputs: list[Path], question: str, settings: Captioning) -> int:
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        from intermodal.core.chat import Turn
        from intermodal.index.asking import answers

        files = listed(inputs) if inputs else []
        model = answers(open_session(arguments.model, arguments.device, report).model, "To ask")
        sink = stack.enter_context(lines_to(arguments.output))
        walk = Walk(files, f"asking about {len(files):,} pictures" if len(files) > 1 else "answering", report)
        for names, pictures, _ in walk.batches():
            chats = [[Turn(question, None, (picture,))] for picture in pictures]
            found = model.answer(chats, settings.replace(seed=settings.seed + walk.made))
            for name, answer in zip(names, found, strict=True):
                _write(sink, name, question, answer, alone=walk.alone)
        if not files:
            _write(sink, None, question, model.answer([[Turn(question)]], settings)[0], alone=True)
    show_unreadable(walk.unreadable)
    if arguments.output is not None:
        errors().print(f"{arguments.output}: {max(walk.made, 1):,} answers.", markup=False)
    return 0


def _chat(arguments: Arguments, settings: Captioning) -> int:
    with progress() as report:
        from intermodal.core.chat import Turn
        from intermodal.core.errors import IntermodalError
        from intermodal.data.images import open_image
        from intermodal.index.asking import answers

        model = answers(open_session(arguments.model, arguments.device, report).model, "To ask")
        shown = [open_image(Path(word)) for word in arguments.words]
    turns: list[Turn] = []
    memory, code = model.memory(), 0
    for line in filter(str.strip, sys.stdin):
        try:
            if os.path.isfile(line.strip()):  # noqa: PTH113 - a long question is no error here
                shown.append(open_image(Path(line.strip())))
                continue
            asked, said = Turn(line.strip(), None, tuple(shown)), ""
            for piece in model.answering([*turns, asked], settings, memory):
                print(piece, end="", flush=True)
                said += piece
        except IntermodalError as error:
            errors().print(f"intermodal: {error}", markup=False)
            code = error.exit_code
            continue
        print(flush=True)
        turns.append(Turn(asked.question, said.strip(), asked.pictures))
        shown = []
    return code


def _write(sink: Any, name: str | None, question: str, answer: Any, *, alone: bool) -> None:
    if sink is None:
        output().print(answer.text if alone else f"{name}\t{answer.text}", markup=False)
        return
    row = {
        "path": name,
        "question": question,
        "answer": answer.text,
        "log_prob": answer.log_prob,
        "ended": answer.ended,
    }
    sink.write(json.dumps(row, ensure_ascii=False) + "\n")

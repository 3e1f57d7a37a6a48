"""``intermodal generate``: makes pictures or texts with a model that can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from intermodal.cli.common import (
    Model,
    OptionalPath,
    OptionalText,
    Report,
    UsageError,
    errors,
    open_session,
    parse,
    progress,
    refuse_existing,
)
from intermodal.cli.drawing import (
    SHEET,
    TRAJECTORY,
    DrawingOptions,
    Write,
    beside,
    flags,
    is_file,
    write_files,
    write_folder,
)

if TYPE_CHECKING:
    from PIL import Image

    from intermodal.core.drawing import Drawing
    from intermodal.data.trajectories import Moment
    from intermodal.index.session import Session

MOST, CANDIDATES = 10_000, 8
SIDE = 256
"""Moments of larger pictures are kept at this size."""


@dataclass(frozen=True, kw_only=True)
class Arguments(DrawingOptions):
    """Make samples: pictures into files, texts onto the output.

    Settings that are not given are the model's own. Each PNG file says how it came about: `intermodal info FILE.png`.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        text: the prompt: what the pictures are to show, or what texts go on from, where the model takes that.
        prompt: the same as an option.
        count: how many.
        seed: of the first picture; the next has the next. Same seed, same samples.
        out: FILE.png for one picture, or a sheet of all; else a folder, with a file for each and a sheet. Texts: a file.
        trajectory: show how the pictures came about, step by step: a strip (PNG) and an animation (GIF).
        rerank: a model of pictures and texts that chooses those that show the prompt best.
        candidates: with --rerank, how many are made for each that is kept; 8 by default.
        complete: a picture whose upper part stands, and is gone on with, by models that can.
        keep: with --complete, the share that stands, 0 to 1; 0.5 by default.
        overwrite: replace what is there.
    """

    model: Model
    text: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="PROMPT")]] = None
    prompt: OptionalText = None
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    seed: int = 0
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None
    trajectory: bool = False
    rerank: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    candidates: int | None = None
    complete: OptionalPath = None
    keep: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Made:
    """Samples, and how they came about.

    Attributes:
        items: pictures, texts or points.
        facts: what is said of each in its file.
        together: what is said of all of them.
        moments: of their drawing; empty if they were not watched.
    """

    items: list[Any]
    facts: list[dict[str, str]]
    together: dict[str, str]
    moments: list[Moment]


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "generate")
    prompt, given = _checked(arguments)
    if arguments.out is not None:
        _refuse_existing(arguments.out, arguments)
    with progress() as report:
        session = open_session(arguments.model, arguments.device, report)
        from intermodal.core.capabilities import Draws
        from intermodal.index.drawing import draws
        from intermodal.index.embedding import generates
        from intermodal.index.prompts import unheard

        model = generates(session.model, "To generate")
        out = arguments.out or Path("generated")
        if model.generates == "image":
            _refuse_existing(out, arguments)
        elif arguments.rerank is not None:
            raise UsageError(f"--rerank chooses among pictures; this model makes another kind: {model.generates}.")
        drawing = None
        if arguments.complete is None:
            only = [name for name in given if name != "steps"] + (["trajectory"] if arguments.trajectory else [])
            if only or isinstance(model, Draws):
                drawing = draws(model, f"To generate with {flags(only)}").drawing.replace(**given)
        notes = [*unheard(session.model, prompt), *unheard(session.model, arguments.negative)]
        made = _made(session, arguments, prompt, drawing, report)
    for note in notes:
        errors().print(note, markup=False)
    if model.generates == "image":
        return _written(out, made)
    lines = "".join(f"{in_words(item)}\n" for item in made.items)
    if arguments.out is None:
        print(lines, end="")
        return 0
    from intermodal.core.files import write_text

    write_text(arguments.out, lines)
    errors().print(f"{arguments.out}: {len(made.items)} lines.", markup=False)
    return 0


def in_words(item: Any) -> str:
    """Return a generated text, or the coordinates of a point, as one line."""
    return " ".join(f"{x:.6g}" for x in item) if isinstance(item, tuple) else " ".join(str(item).split())


def _checked(arguments: Arguments) -> tuple[str | None, dict[str, Any]]:
    """Return the prompt and the settings that were given, having checked all that can be before a model is loaded."""
    if not 1 <= arguments.count <= MOST:
        raise UsageError(f"--count takes a number from 1 to {MOST:,}, found {arguments.count}.")
    if arguments.steps is not None and arguments.steps < 1:
        raise UsageError(f"--steps takes a number of at least 1, found {arguments.steps}.")
    if arguments.seed < 0:
        raise UsageError(f"--seed takes a number of at least 0, found {arguments.seed}.")
    if arguments.text is not None and arguments.prompt is not None:
        raise UsageError("The prompt was given twice: after the model, and as --prompt.")
    from intermodal.index.prompts import checked

    prompt = checked(arguments.prompt if arguments.text is None else arguments.text)
    checked(arguments.negative, "negative prompt")
    given, trajectory = arguments.given(), arguments.trajectory
    if arguments.rerank is not None:
        if prompt is None:
            raise UsageError("--rerank chooses the pictures that show the prompt best: give a prompt.")
        if trajectory:
            raise UsageError(
                "--rerank throws most pictures away, --trajectory shows how each came about: one of the two."
            )
        if not 1 <= _times(arguments) <= MOST // arguments.count:
            raise UsageError(
                f"--candidates for each of {arguments.count} pictures go from 1 to {MOST // arguments.count}."
            )
    elif arguments.candidates is not None:
        raise UsageError("--candidates are what --rerank chooses among: name a model with --rerank.")
    if arguments.complete is None and arguments.keep is not None:
        raise UsageError("--keep is the share of a picture that stands: name the picture with --complete.")
    if arguments.complete is not None and (given or trajectory):
        named = flags([*given, *(["trajectory"] if trajectory else [])])
        raise UsageError(f"--complete goes on with a picture, which knows nothing of {named}.")
    return prompt, given


def _times(arguments: Arguments) -> int:
    """Return how many samples are made for each that is kept."""
    return 1 if arguments.rerank is None else CANDIDATES if arguments.candidates is None else arguments.candidates


def _refuse_existing(out: Path, arguments: Arguments) -> None:
    extra = [beside(out, f"-{TRAJECTORY}{ending}") for ending in (".png", ".gif")]
    for path in [out, *(extra if arguments.trajectory and is_file(out) else [])]:
        refuse_existing(path, arguments.overwrite)


def _made(session: Session, arguments: Arguments, prompt: str | None, drawing: Drawing | None, report: Report) -> Made:
    """Make the samples: as many as are asked for, or the best of many."""
    judge = None
    if arguments.rerank is not None:
        from intermodal.methods.image_generation.rerank import check_judge

        judge = open_session(arguments.rerank, arguments.device, report).model
        check_judge(judge)
    total = arguments.count * _times(arguments)
    report(f"generating {total:,}", 0.0)
    if drawing is not None:
        made = _drawn(session, arguments, prompt, drawing, report)
    else:
        made = _generated(session, arguments, prompt)
    if judge is None:
        return made
    from intermodal.methods.image_generation.rerank import best

    assert prompt is not None
    report(f"choosing {arguments.count:,} of {total:,}", 0.9)
    kept, cosine = best(made.items, prompt, arguments.count, judge)
    chosen = {"judge": str(arguments.rerank), "candidates": str(total)}
    facts = [{**made.facts[i], **chosen, "cosine": f"{cosine[i]:.4f}"} for i in kept]
    seeds = ", ".join(dict.fromkeys(said["seed"] for said in facts))
    return Made([made.items[i] for i in kept], facts, {**made.together, "seed": seeds, **chosen}, [])


def _drawn(session: Session, arguments: Arguments, prompt: str | None, drawing: Drawing, report: Report) -> Made:
    from intermodal.data.picture_files import Origin
    from intermodal.data.trajectories import Trajectory
    from intermodal.index.drawing import Steps, draws, seeds_from

    seeds = seeds_from(arguments.seed, arguments.count * _times(arguments))
    trajectory = Trajectory(side=SIDE) if arguments.trajectory else None
    watch = Steps(len(seeds), report, trajectory)
    pictures = draws(session.model, "To draw").draw([prompt] * len(seeds), seeds, drawing, watch=watch)
    origin = Origin(model=arguments.model, method=session.model.id, prompt=prompt, drawing=drawing)
    moments = [] if trajectory is None else trajectory.end(pictures)
    return Made(pictures, [origin.facts([seed]) for seed in seeds], origin.facts(seeds), moments)


def _generated(session: Session, arguments: Arguments, prompt: str | None) -> Made:
    from intermodal.data.picture_files import Origin
    from intermodal.index.drawing import completes, seeds_from
    from intermodal.index.embedding import generates

    total, more = arguments.count * _times(arguments), dict[str, str]()
    seed = seeds_from(arguments.seed, total)[0]
    if arguments.complete is not None:
        from intermodal.data.images import open_image

        given, keep = open_image(arguments.complete), 0.5 if arguments.keep is None else arguments.keep
        items: list[Any] = completes(session.model, "--complete").complete(
            [given] * total, keep, prompt=prompt, seed=seed
        )
        more = {"completes": str(arguments.complete), "keep": f"{keep:g}"}
    else:
        items = generates(session.model, "To generate").generate(total, prompt=prompt, seed=seed, steps=arguments.steps)
        more = {} if arguments.steps is None else {"steps": str(arguments.steps)}
    origin = Origin(model=arguments.model, method=session.model.id, prompt=prompt)
    facts = [origin.facts([seed], {"number": f"{i} of {total}", **more}) for i in range(1, total + 1)]
    return Made(items, facts, origin.facts([seed], more), [])


def _written(out: Path, made: Made) -> int:
    """Write pictures, and say where they are."""
    from intermodal.data.images import contact_sheet

    pictures: list[Image.Image] = made.items
    single = is_file(out)
    one = single and len(pictures) == 1
    sheet, about = (pictures[0], made.facts[0]) if one else (contact_sheet(pictures), made.together)
    extra = _trajectory(made)
    if single:
        write_files({out: _png(sheet, about), **{beside(out, f"-{name}"): write for name, write in extra.items()}})
        what = "a picture" if len(pictures) == 1 else f"{len(pictures)} pictures on one sheet"
    else:
        write_folder(out, pictures, made.facts, {SHEET: _png(sheet, about), **extra})
        what = f"{len(pictures)} pictures, and {SHEET} with all of them"
    if extra:
        what += f"; how they came about: {', '.join(beside(out, f'-{n}').name if single else n for n in extra)}"
    errors().print(f"{out}: {what}.", markup=False)
    return 0


def _trajectory(made: Made) -> dict[str, Write]:
    """Return what writes the strip and the animation; nothing if the drawing was not watched."""
    if not made.moments:
        return {}
    from intermodal.data.trajectories import frames, save_animation, strip

    return {
        f"{TRAJECTORY}.png": _png(strip(made.moments), made.together),
        f"{TRAJECTORY}.gif": lambda path: save_animation(frames(made.moments), path),
    }


def _png(picture: Image.Image, facts: Mapping[str, str]) -> Write:
    from intermodal.data.picture_files import save_png

    return lambda path: save_png(picture, path, facts)

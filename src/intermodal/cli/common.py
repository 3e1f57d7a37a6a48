"""What the commands share: parsing, progress, the opening of a model, and the way results are printed."""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from intermodal.cli.options import options_of
from intermodal.core.config import suggestion
from intermodal.core.errors import ConfigError, IntermodalError

if TYPE_CHECKING:
    from intermodal.data.source import Unreadable
    from intermodal.index.session import Session

T = TypeVar("T")
Report = Callable[[str, float], None]

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
"""A run, a checkpoint, a published folder or a hub id."""
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
Output = Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")]

"""The set that the library ships, beside those of the catalog."""

PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


class UsageError(ConfigError):
    """A command line that cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Arguments of commands that run a model.

    Attributes:
        device: where the model runs: auto, cpu, cuda, cuda:1 ...
    """

    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"


def parse(arguments: type[T], argv: Sequence[str], command: str) -> T:
    """Read a command's arguments.

    Raises:
        UsageError: for an unknown option (the nearest is suggested), a missing or wrong value.
        SystemExit: with code 0, when help was asked for and printed.
    """
    parsed, unknown = parse_known(arguments, argv, command)
    refuse(unknown, [flag for option in options_of(arguments) for flag in option.flags], command)
    return parsed


def parse_known(arguments: type[T], argv: Sequence[str], command: str, default: T | None = None) -> tuple[T, list[str]]:
    """Read the arguments that are known; return them and the words that are not."""
    errors = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                arguments,
                prog=f"intermodal {command}",
                args=list(argv),
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                **given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_sentence(errors.getvalue())} See `intermodal {command} --help`.") from stop


def refuse(unknown: Sequence[str], flags: Sequence[str], command: str) -> None:
    """Raise a UsageError if there are words that no option takes."""
    if not unknown:
        return
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        raise UsageError(f"`intermodal {command}` does not take the further argument {unknown[0]!r}.")
    word = option.partition("=")[0].replace("_", "-")
    raise UsageError(f"`intermodal {command}` has no option {word}{suggestion(word, [*flags, '--help'])}")


def _sentence(box: str) -> str:
    """Return the words of the box in which tyro puts an error, up to its first rule."""
    words: list[str] = []
    for line in box.splitlines():
        text = line.strip(" │")
        if text.startswith("─") and words:
            break
        if text and not text.startswith(("╭", "╰")):
            words.append(text)
    return " ".join(words).rstrip(".") + "."


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Yield a function that shows what is done and how far: a bar on a terminal, else now and then a line."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _PlainProgress(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        current = ""

        def report(what: str, share: float) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset(task, description=what)
            bar.update(task, completed=share)

        yield report


class _PlainProgress:
    def __init__(self, console: Console) -> None:
        self._console, self._what, self._last = console, "", 0.0

    def __call__(self, what: str, share: float) -> None:
        now = time.monotonic()
        if what == self._what and now - self._last < PLAIN_SECONDS:
            return
        self._console.print(f"{what}: {share:.0%}" if what == self._what else f"{what} ...", markup=False)
        self._what, self._last = what, now


def open_session(model: str, device: str, report: Report) -> Session:
    """Load a model, with progress from the first moment on."""
    report(f"loading {model}", 0.0)
    from intermodal.index.session import Session

    return Session(model, device=pick_device(device))


def pick_device(name: str) -> str:
    """Return the device that a person means: ``auto`` is the accelerator if there is one, else the processor.

    Raises:
        ConfigError: if there is no such device.
    """
    import torch

    if name == "auto":
        return str(torch.accelerator.current_accelerator() or "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"There is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return name


def show_unreadable(unreadable: Sequence[Unreadable], most: int = 10) -> None:
    """Say on the error stream which pictures were skipped and why."""
    console = errors()
    for problem in unreadable[:most]:
        console.print(f"skipped: {problem.reason}", markup=False)
    if len(unreadable) > most:
        console.print(f"skipped: {len(unreadable) - most} more.")


def output() -> Console:
    """Return the console for results."""
    return Console(highlight=False, soft_wrap=True)


def errors() -> Console:
    """Return the console for everything that is no result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_metrics(metrics: Mapping[str, float | None], most: int = 12) -> None:
    """Print the first figures of an evaluation (the first is the headline), and how many more there are.

    A figure that is not a number (null where it was saved) is said to be undefined.
    """
    out = output()
    shown = list(metrics.items())[:most]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        said = "undefined" if value is None or math.isnan(value) else f"{value:.4f}"
        out.print(f"{name:<{width}}  {said}", markup=False)
    if len(metrics) > most:
        out.print(f"... and {len(metrics) - most} more: --json, or the report.")


def print_json(data: Any) -> None:
    """Print a result as JSON; a figure that is not a number, which JSON does not have, becomes null."""
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise an IntermodalError if something stands where a command is to write and may not be replaced."""
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise IntermodalError(f"{path} exists already: choose another place, or replace it with --overwrite.")

"""``intermodal completion``: the completion script of a shell, from a mirror of the commands in argparse."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import shtab
import tyro

from intermodal.cli.common import errors, parse
from intermodal.cli.main import COMMANDS
from intermodal.cli.options import Option, options_of
from intermodal.core.registry import cards
from intermodal.recipes import RECIPES

Shell = Literal["bash", "zsh", "fish"]
WHERE: dict[str, str] = {
    "bash": "intermodal completion bash > ~/.local/share/bash-completion/completions/intermodal",
    "zsh": "intermodal completion zsh > a file _intermodal in a folder of your $fpath",
    "fish": "intermodal completion fish > ~/.config/fish/completions/intermodal.fish",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print the completion script of a shell.

    Attributes:
        shell: which one.
    """

    shell: tyro.conf.Positional[Shell]


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "completion")
    errors().print(f"to install: {WHERE[arguments.shell]}", markup=False)
    print(shtab.complete(mirror(), shell=arguments.shell))
    return 0


def mirror() -> argparse.ArgumentParser:
    """Return an argparse parser that has every command and option; it is only ever read, never run."""
    root = argparse.ArgumentParser("intermodal", description="multimodal learning")
    root.add_argument("-v", "--version", action="store_true", help="print the version")
    commands = root.add_subparsers(dest="command")
    for name, (module, about) in COMMANDS.items():
        parser = commands.add_parser(name, help=about, description=about)
        for option in options_of(importlib.import_module(module).Arguments):
            _add(parser, option)
    return root


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    about = option.help.replace("%", "%%")
    if option.flags and not option.takes_value:
        for flag in option.flags:
            parser.add_argument(flag, action="store_true", help=about)
        return
    choices: Any = option.choices or None
    if option.name == "recipe":
        choices = list(dict.fromkeys([*RECIPES, *cards()]))
    names = option.flags or (option.name,)
    action = parser.add_argument(*names, help=about, choices=choices, nargs="*" if option.many else None)
    if option.takes_path or option.name in ("model", "path", "data", "inputs"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]

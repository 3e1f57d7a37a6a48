"""``intermodal train``: a recipe or a method, on its own data or on a person's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import OptionalPath, OptionalText, errors, parse_known, refuse
from intermodal.cli.options import options_of, override_flags
from intermodal.core.config import suggestion
from intermodal.core.errors import ConfigError
from intermodal.core.registry import cards
from intermodal.recipes import RECIPES, get_recipe

if TYPE_CHECKING:
    from intermodal.recipes.base import Recipe

HELP = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a recipe. Each of its fields is an option too: --train.steps 200 --optim.lr 1e-3.

    Attributes:
        recipe: the name of a recipe, the id of a method (its first recipe), or a saved recipe.json.
        data: train on this instead: a folder or file of pictures or text, hub:owner/name, or a known set.
        run: the folder of the run; a new one under runs/ by default.
        resume: go on from the newest checkpoint of the run's folder.
        smoke: the same path in seconds, too short to learn much.
    """

    recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]
    data: OptionalText = None
    run: OptionalPath = None
    resume: bool = True
    smoke: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    asks_help = any(word in HELP for word in argv)
    words = [word for word in argv if word not in HELP]
    name = recipe_word(words)
    if name is None:
        if asks_help:
            parse_known(Arguments, HELP[:1], "train")
        raise ConfigError(f"Say what to train: intermodal train RECIPE, one of {', '.join(RECIPES)}.")
    words.remove(name)
    arguments, rest = parse_known(Arguments, [name, *words], "train")
    errors().print(f"reading the recipe {name} ...", markup=False)
    recipe = resolve(arguments)
    if asks_help:
        _help(recipe)
        return 0
    recipe, unknown = parse_known(type(recipe), rest, "train", recipe)
    own = [flag for option in options_of(Arguments) for flag in option.flags]
    refuse(unknown, [*own, *override_flags(recipe)], "train")

    from intermodal.train.run import fit

    fit(recipe, arguments.run, resume=arguments.resume)
    return 0


def recipe_word(words: Sequence[str]) -> str | None:
    """Return the word that names the recipe: a known name, else the first word if it is no option."""
    known = [word for word in words if word in RECIPES or word in cards()]
    if known:
        return known[0]
    return words[0] if words and not words[0].startswith("-") else None


def resolve(arguments: Arguments) -> Recipe:
    """Return the recipe that the arguments name, on the data that they name."""
    recipe = named(arguments.recipe)
    if arguments.smoke:
        recipe = recipe.smoke()
    if arguments.data is None:
        return recipe
    return recipe.on_named(arguments.data)


def named(name: str) -> Recipe:
    """Return the recipe of a name, of a method's id, or in a file.

    Raises:
        ConfigError: if there is none; the nearest name is suggested.
    """
    if name in RECIPES:
        return get_recipe(name)
    if name in cards():
        return get_recipe(cards()[name].recipes[0])
    if name.endswith(".json") and Path(name).is_file():
        from intermodal.recipes.base import Recipe

        return Recipe.from_json(Path(name).read_text(encoding="utf-8"))
    raise ConfigError(f"There is no recipe or method {name!r}{suggestion(name, [*RECIPES, *cards()])}")


def _help(recipe: Recipe) -> None:
    """Print the command's options, then the recipe's fields with their values."""
    for arguments, default in ((Arguments, None), (type(recipe), recipe)):
        try:
            parse_known(arguments, ["--help"], "train", default)
        except SystemExit:
            sys.stdout.flush()

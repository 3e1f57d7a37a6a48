"""``intermodal recipes``: the recipes, or one of them in full."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import output, parse, print_json
from intermodal.recipes import RECIPES, get_recipe
from intermodal.recipes.measured import in_words, measured


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the recipes, or print one as the JSON that training would save.

    Attributes:
        recipe: the name of one.
        json: print the list as JSON.
    """

    recipe: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[RECIPE]")]] = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "recipes")
    if arguments.recipe is not None:
        print(get_recipe(arguments.recipe).to_json(), end="")
        return 0
    figures = measured()
    if arguments.json:
        print_json([{"name": name, "about": about(name), "measured": figures.get(name)} for name in RECIPES])
        return 0
    out = output()
    width = max(map(len, RECIPES))
    for name in RECIPES:
        out.print(f"{name:<{width}}  {about(name)}", markup=False)
        if name in figures:
            out.print(f"{'':<{width}}  reaches {in_words(figures[name])}", markup=False)
    return 0


def about(name: str) -> str:
    """Return the first line of a recipe's docstring, read without importing it (and torch with it)."""
    module, _, function = RECIPES[name].partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""

"""``intermodal methods``: what the library holds, what each method can do, and what it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intermodal.cli.common import output, parse, print_json
from intermodal.core.registry import cards
from intermodal.recipes.measured import in_words, measured


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the methods.

    Attributes:
        json: print JSON instead of a table.
    """

    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "methods")
    figures = measured()
    rows: list[dict[str, Any]] = [
        {
            **asdict(card),
            "field": card.field,
            "measured": {r: figures[r] for r in card.recipes if r in figures},
        }
        for card in cards().values()
    ]
    if arguments.json:
        print_json(rows)
        return 0
    out = output()
    for row in rows:
        out.print(f"[bold]{row['id']}[/bold]  {row['title']}")
        out.print(f"  paper      {row['paper']}", markup=False)
        out.print(f"  field      {row['field']}", markup=False)
        out.print(f"  can        {', '.join(row['capabilities'])}", markup=False)
        out.print(f"  recipes    {', '.join(row['recipes'])}", markup=False)
        out.print(f"  equals     {row['reference']}", markup=False)
        for recipe, figure in row["measured"].items():
            out.print(f"  reaches    {recipe}: {in_words(figure)}", markup=False)
    return 0

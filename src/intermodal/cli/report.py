"""``intermodal report``: writes a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import output, parse, progress
from intermodal.core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the report of a run anew, from what is in its folder.

    Attributes:
        run: the run's folder.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "report")
    if not arguments.run.is_dir():
        raise DataError(f"There is no run at {arguments.run}.")
    with progress() as report:
        report(f"writing the report of {arguments.run}", 0.0)
        from intermodal.report.build import build_report

        page = build_report(arguments.run)
    output().print(str(page), markup=False)
    return 0

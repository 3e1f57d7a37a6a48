"""``intermodal studio``: a page on which a model can be used by hand."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from intermodal.cli.common import Model, OnDevice, errors, open_session, output, parse, progress
from intermodal.core.errors import IntermodalError, MissingExtraError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Open a page with a tab for each thing the model can do.

    On this machine's own address (the default) it also searches folders by name; open to others it does not.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        host: the address to listen on; 0.0.0.0 lets other machines in, and there is no password.
        port: the port to listen on.
        open: open the page in the browser.
    """

    model: Model
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    port: int = 7860
    open: bool = True


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "studio")
    with progress() as report:
        report("loading the page", 0.0)
        try:
            from intermodal.studio.app import create_studio, serve
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "gradio", "studio") from error
        session = open_session(arguments.model, arguments.device, report)
        page = create_studio(session, report, folders=arguments.host in LOOPBACK)
        report("starting the page", 1.0)
        try:
            address = serve(page, arguments.host, arguments.port)
        except OSError as error:
            raise IntermodalError(
                f"The page could not start: is port {arguments.port} of {arguments.host} taken? "
                "Choose another with --port."
            ) from error
    output().print(f"Studio: {address}", markup=False)
    errors().print("Ctrl-C ends it.")
    if arguments.open:
        webbrowser.open(address)
    page.block_thread()
    return 0

"""``intermodal serve``: a model for other programs, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalPath,
    errors,
    open_session,
    parse,
    progress,
    show_unreadable,
)
from intermodal.core.errors import IntermodalError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Serve a model's capabilities; its own page /docs describes the requests.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        host: the address to listen on; 0.0.0.0 lets other machines in, and there is no password.
        port: the port to listen on.
        folder: search in this folder of pictures instead of the model's held-out ones.
        index: where the folder's index lives; FOLDER/.intermodal-index by default.
    """

    model: Model
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1"
    port: int = 8000
    folder: Annotated[Path | None, tyro.conf.arg(name="in", metavar="FOLDER")] = None
    index: OptionalPath = None


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "serve")
    with progress() as report:
        report(f"loading {arguments.model}", 0.0)
        try:
            import uvicorn

            from intermodal.api.app import create_app
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "fastapi", "api") from error
        session = open_session(arguments.model, arguments.device, report)
        index = None
        if arguments.folder is not None:
            index, update = session.folder(arguments.folder, report, index=arguments.index)
            show_unreadable(update.unreadable)
        app = create_app(session, index)
    errors().print(f"http://{arguments.host}:{arguments.port}/docs describes the requests.", markup=False)
    server = uvicorn.Server(uvicorn.Config(app, host=arguments.host, port=arguments.port, log_level="warning"))
    try:
        server.run()
    except SystemExit as stop:  # uvicorn's way of saying that it could not start
        raise IntermodalError(
            f"The server could not start: is port {arguments.port} of {arguments.host} taken? Choose another "
            "with --port."
        ) from stop
    return 0

"""The commands that serve: what they start, and what they say when they cannot."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn

Cli = Any


def test_serve_starts_the_application(cli: Cli, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: started.append(server.config))
    ran = cli("serve", model, "--in", pictures, "--port", 8123)
    assert ran.code == 0 and "http://127.0.0.1:8123/docs" in ran.err
    assert (started[0].host, started[0].port) == ("127.0.0.1", 8123)
    assert {"/health", "/info", "/embed", "/search", "/classify"} <= set(started[0].app.openapi()["paths"])


def test_a_port_that_is_taken(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(page: Any, host: str, port: int) -> str:
        raise OSError(f"Cannot find empty port in range: {port}-{port}.")

    monkeypatch.setattr("intermodal.studio.app.serve", refuse)
    monkeypatch.setattr("intermodal.studio.app.create_studio", lambda *arguments, **options: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in ("serve", "studio"):
            ran = cli(command, model, "--port", port)
            assert ran.code == 2 and f"is port {port} of 127.0.0.1 taken?" in ran.sentence


@pytest.mark.parametrize(("command", "package", "extra"), [("serve", "fastapi", "api"), ("studio", "gradio", "studio")])
def test_an_extra_that_is_not_installed(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, command: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"intermodal.{extra}.app", raising=False)
    ran = cli(command, model)
    assert ran.code == 2 and f'pip install "intermodal[{extra}]"' in ran.sentence and package in ran.sentence

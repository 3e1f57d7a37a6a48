from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from intermodal.core.errors import DataError
from intermodal.data.download import OFFLINE, fetch, offline

CONTENT = bytes(range(256)) * 12_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + (100 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    for variable in OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_file_is_fetched_once_with_progress(server, tmp_path):
    steps: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "file.bin"
    for _ in range(2):
        assert fetch(f"{server}/file", SHA256.upper(), path, lambda *step: steps.append(step)) == path
    assert path.read_bytes() == CONTENT
    assert Handler.asked == ["/file"]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert len(steps) >= 2
    assert leftovers(tmp_path) == ["file.bin"]


def test_a_file_that_is_not_the_right_one_is_replaced(server, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    fetch(f"{server}/file", SHA256, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server, tmp_path):
    with pytest.raises(DataError, match=f"expected SHA-256 {'0' * 64}, found {SHA256}"):
        fetch(f"{server}/file", "0" * 64, tmp_path / "file.bin")
    assert leftovers(tmp_path) == []


def test_errors_of_the_server(server, tmp_path):
    with pytest.raises(DataError, match=r"refused .*/missing: 404"):
        fetch(f"{server}/missing", SHA256, tmp_path / "file.bin")
    with pytest.raises(DataError, match=r"incomplete|Cannot reach"):
        fetch(f"{server}/short", SHA256, tmp_path / "file.bin", timeout=1)
    assert leftovers(tmp_path) == []


def test_no_server(server, tmp_path):
    with pytest.raises(DataError, match=r"Cannot reach http://127"):
        fetch("http://127.0.0.1:9/file", SHA256, tmp_path / "file.bin", timeout=2)
    with pytest.raises(DataError, match="https:// and http://"):
        fetch("file:///etc/hostname", SHA256, tmp_path / "file.bin")


@pytest.mark.parametrize("variable", OFFLINE)
def test_offline(server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert offline() == variable
    with pytest.raises(DataError, match=rf"file\.bin is not here and the network is off \({variable} is set\)"):
        fetch(f"{server}/file", SHA256, tmp_path / "file.bin")
    assert Handler.asked == []
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch(f"{server}/file", SHA256, tmp_path / "file.bin")
    monkeypatch.setenv(variable, "0")
    assert offline() is None

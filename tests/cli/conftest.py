"""A command line in the same process, and models to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from intermodal.cli.main import main
from intermodal.methods.contrastive.clip import CLIP


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of error, without the progress before it."""
        lines = [line for line in self.err.splitlines() if line.startswith("intermodal: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]) and "Traceback" not in self.err
        return lines[0].removeprefix("intermodal: ")


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("INTERMODAL_DATA", raising=False)
    monkeypatch.delenv("INTERMODAL_DEBUG", raising=False)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def model(small_clip: CLIP, tmp_path: Path) -> Path:
    """A checkpoint folder."""
    small_clip.save(tmp_path / "model")
    return tmp_path / "model"

"""The dispatcher: quick, clear about mistakes, quiet when its reader goes away."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import intermodal
from intermodal.cli import main as dispatcher
from intermodal.cli.main import COMMANDS, main
from intermodal.core.errors import IntermodalError, TrainingError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from intermodal.cli.main import main; main(['--help']); "
        "print([m for m in ('torch', 'tyro', 'rich', 'numpy', 'lancedb', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_lists_import_no_torch() -> None:
    code = (
        "import sys; from intermodal.cli.main import main; "
        "assert main(['methods']) == main(['recipes']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=ENVIRONMENT)


def test_every_command_has_its_module_and_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (path, about) in COMMANDS.items():
        module = importlib.import_module(path)
        assert callable(module.run) and module.Arguments.__doc__ and about
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert f"usage: intermodal {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-v"]) == main(["--version"]) == 0
    assert capsys.readouterr().out == f"intermodal {intermodal.__version__}\n" * 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serch"], "There is no command 'serch'; did you mean 'search'?"),
        (["--verbose"], "There is no option --verbose; say a command first"),
        (["methods", "--jsno"], "`intermodal methods` has no option --jsno; did you mean '--json'?"),
        (["methods", "all"], "does not take the further argument 'all'"),
        (["search"], "Missing from intermodal search: MODEL"),
        (["search", "m", "q", "--k", "ten"], "invalid literal for int() with base 10: 'ten'"),
        (["convert", "a", "b", "--to", "onnx"], "onnx"),
        (["recipes", "clpi"], "There is no recipe 'clpi'; did you mean 'clip'?"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("intermodal: ") and err.count("\n") == 1
    assert sentence in err


def stub(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(dispatcher, "_dispatch", fail)
    monkeypatch.delenv("INTERMODAL_DEBUG", raising=False)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((IntermodalError("no"), 2), (TrainingError("no"), 3), (KeyboardInterrupt(), 130)):
        stub(monkeypatch, error)
        assert main(["x"]) == code
        assert "Traceback" not in capsys.readouterr().err
    stub(monkeypatch, IntermodalError("no"))
    monkeypatch.setenv("INTERMODAL_DEBUG", "1")
    with pytest.raises(IntermodalError):
        main(["x"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m intermodal methods --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.stdout == "[" and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr

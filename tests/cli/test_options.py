"""The mirror of options, and shell completion from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.cli import options
from intermodal.cli.completion import mirror
from intermodal.cli.main import COMMANDS
from intermodal.cli.search import Arguments as SearchArguments
from intermodal.cli.train import Arguments as TrainArguments
from intermodal.recipes import get_recipe


def test_options_as_tyro_spells_them() -> None:
    found = {option.name: option for option in options.options_of(SearchArguments)}
    assert found["folder"].flags == ("--in",) and found["folder"].takes_path
    assert found["k"].flags == ("-k", "--k")
    assert found["model"].flags == () and "run" in found["model"].help
    assert found["json"].flags == ("--json", "--no-json") and not found["json"].takes_value
    assert found["device"].help, "what a base class says counts"
    assert all(option.help for option in options.options_of(TrainArguments))


def test_override_flags_are_those_that_tyro_takes() -> None:
    flags = options.override_flags(get_recipe("clip"))
    assert {"--train.batch-size", "--model.image.width", "--optim.lr", "--source.unit"} <= set(flags)


def test_mirror_has_every_command_and_parses() -> None:
    parser = mirror()
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            parser.parse_args([name, "--help"])
        assert stop.value.code == 0
    assert parser.parse_args(["search", "run", "words", "--in", "x", "-k", "3"]).k == "3"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_written(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    from intermodal.cli.main import main

    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert "doctor" in out and "to install" in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["intermodal", "se"], {"search", "serve"}),
        (["intermodal", "search", "--ima"], {"--image"}),
        (["intermodal", "train", "sig"], {"siglip"}),
        (["intermodal", "convert", "a", "b", "--to", "tr"], {"transformers"}),
    ],
)
def test_bash_completes(typed: list[str], expected: set[str], tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    with script.open("w") as file:
        command = [sys.executable, "-m", "intermodal", "completion", "bash"]
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True)
    words = " ".join(f"'{word}'" for word in typed)
    ask = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; COMP_LINE='{' '.join(typed)}'; "
        f"COMP_POINT=${{#COMP_LINE}}; _shtab_intermodal; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert {word.strip() for word in done.stdout.splitlines()} == expected

"""``intermodal generate``: pictures into a folder, texts onto the output, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from intermodal.core.checkpoint import MANIFEST
from intermodal.data.images import contact_sheet

Cli = Any


def _methods(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "methods" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of tiny models: of pictures, texts and points."""
    folder = tmp_path_factory.mktemp("models")
    _methods("test_ebm").of_pictures().save(folder / "pictures")
    _methods("test_ebm").of_points().save(folder / "points")
    _methods("test_nce").writer().save(folder / "texts")
    return folder


def test_pictures_and_a_sheet_of_them(cli: Cli, models: Path) -> None:
    ran = cli("generate", models / "pictures", "--count", 5, "--seed", 3, "--steps", 2, "--out", "made")
    assert ran.code == 0 and "made: 5 pictures" in ran.err and ran.out == ""
    names = sorted(file.name for file in Path("made").iterdir())
    assert names == ["0001.png", "0002.png", "0003.png", "0004.png", "0005.png", "sheet.png"]
    with Image.open("made/sheet.png") as sheet, Image.open("made/0002.png") as second:
        assert sheet.size == (3 * 10 - 2, 2 * 10 - 2) and second.size == (8, 8)
        assert sheet.crop((10, 0, 18, 8)).tobytes() == second.tobytes()
    assert cli("generate", models / "pictures", "--count", 5, "--seed", 3, "--steps", 2, "--out", "again").code == 0
    for name in names:
        assert Path("made", name).read_bytes() == Path("again", name).read_bytes()


def test_nothing_is_replaced_unless_it_is_asked_for(cli: Cli, models: Path) -> None:
    assert cli("generate", models / "pictures", "--count", 1, "--steps", 1).code == 0
    before = Path("generated/0001.png").read_bytes()
    ran = cli("generate", models / "pictures", "--count", 1, "--steps", 1, "--seed", 1)
    assert ran.code == 2 and "generated exists already" in ran.sentence
    assert Path("generated/0001.png").read_bytes() == before
    ran = cli("generate", models / "pictures", "--count", 1, "--steps", 1, "--seed", 1, "--overwrite")
    assert ran.code == 0 and Path("generated/0001.png").read_bytes() != before


def test_texts_go_on_from_the_prompt(cli: Cli, models: Path) -> None:
    ran = cli("generate", models / "texts", "--prompt", "the dog", "--count", 3, "--steps", 4)
    assert ran.code == 0 and len(ran.out.splitlines()) == 3
    assert all(line.startswith("the dog") for line in ran.out.splitlines())
    ran = cli("generate", models / "texts", "--count", 2, "--out", "texts.txt")
    assert ran.code == 0 and ran.out == "" and len(Path("texts.txt").read_text().splitlines()) == 2


def test_points_are_numbers(cli: Cli, models: Path) -> None:
    ran = cli("generate", models / "points", "--count", 4)
    rows = [[float(x) for x in line.split()] for line in ran.out.splitlines()]
    assert len(rows) == 4 and all(len(row) == 2 for row in rows)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--count", 0), "--count takes a number from 1"),
        (("--count", 10_001), "--count takes a number from 1 to 10,000"),
        (("--steps", 0), "--steps takes a number of at least 1, found 0"),
        (("--seed", -1), "--seed takes a number of at least 0"),
        (("--seed", 2**63), "Seeds go from 0 to"),
        (("--prompt", "a cat"), "takes no prompt ('a cat' was given)"),
        (("--cuont", 3), "did you mean '--count'?"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    cli: Cli, models: Path, words: tuple[object, ...], sentence: str
) -> None:
    ran = cli("generate", models / "pictures", *words)
    assert ran.code == 2 and sentence in ran.sentence
    assert not Path("generated").exists()


def test_a_model_that_cannot_says_which_can(cli: Cli, model: Path) -> None:
    assert (model / MANIFEST).exists()
    ran = cli("generate", model)
    assert ran.code == 2 and "capability 'generate'" in ran.sentence and "ebm" in ran.sentence


def test_a_sheet_needs_a_picture() -> None:
    from intermodal.core.errors import DataError

    with pytest.raises(DataError, match="at least one picture"):
        contact_sheet([])

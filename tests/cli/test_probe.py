"""``intermodal probe``: several models in one table, one page, or one JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intermodal.methods.contrastive.clip import CLIP

Cli = Any


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Pictures of three colours in one folder a class."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 180, 60)), ("blue", (40, 60, 220))):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(100):
            array = np.array(colour) + rng.integers(-20, 20, (24, 24, 3))
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(tmp_path / "labelled" / name / f"{i}.png")
    return tmp_path / "labelled"


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.evaluate.frozen.PIXELS_SIDE", 4)


@pytest.fixture
def run(small_clip: CLIP, tmp_path: Path) -> Path:
    """A second model, in a run's folder."""
    small_clip.image_projection.weight.data.normal_()
    small_clip.save(tmp_path / "trained" / "model")
    (tmp_path / "trained" / "recipe.json").write_text("{}")
    return tmp_path / "trained"


def test_a_table_and_a_page(cli: Cli, model: Path, run: Path, labelled: Path) -> None:
    ran = cli("probe", model, run, "--data", labelled, "--split", "validation", "--out", "page.html")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines if line] == [
        *("", "model", "trained", "random weights", "raw pixels", "most frequent class", "chance"),
        *("invariance to", "model", "trained", "random weights", "raw pixels"),
    ]
    assert "k-NN" in lines[0] and "rotation" in ran.out and "Report: page.html" in ran.err
    page = Path("page.html").read_text(encoding="utf-8")
    for words in ("The features of 2 models", "Who is invariant to what", "Invariance to rotation", "raw pixels"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page, "nothing is fetched"


def test_too_few_pictures_for_invariance(cli: Cli, model: Path, labelled: Path) -> None:
    for folder in labelled.iterdir():
        for file in sorted(folder.iterdir())[30:]:
            file.unlink()
    ran = cli("probe", model, "--data", labelled)
    assert ran.code == 0 and "k-NN" in ran.out and "invariance" not in ran.out


def test_json_of_one_model(cli: Cli, run: Path, labelled: Path) -> None:
    ran = cli("probe", run / "model", "--data", labelled, "--json")
    result = json.loads(ran.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert result["split"] == "test" and 0 <= result["metrics"]["trained/knn"] <= 1, "named after the run"
    assert {"raw pixels/probe", "random weights/knn", "chance_top1"} <= set(result["metrics"])


def test_bad_input(cli: Cli, model: Path, run: Path, pictures: Path, labelled: Path) -> None:
    for words, said in (
        ((), "Say whose features to judge"),
        (("nowhere",), "nowhere"),
        ((model, "--data", "nothing"), "There is no file or folder nothing"),
        ((model, "--data", pictures), "no field 'label'"),
        ((model, "--data", labelled, "--split", "tset"), "tset"),
        ((model, run, model, "--data", labelled), "is given twice"),
        ((model, "--data", labelled, "--out", "no/such/page.html"), "The folder of no/such/page.html does not exist"),
        ((model, "--data", labelled, "--out", labelled), "is a folder: name the file to write"),
        ((model, "--outt", "x"), "did you mean"),
    ):
        ran = cli("probe", *words)
        assert ran.code == 2 and said in ran.sentence, words


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from intermodal.cli.probe import names_of

    def names(*paths: str) -> list[str]:
        return names_of([SimpleNamespace(path=tmp_path / path) for path in paths])  # type: ignore[misc]

    assert names("a/run", "b/run") == ["a/run", "b/run"]
    assert names("one/model", "two/model") == ["one/model", "two/model"]
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "recipe.json").write_text("{}")
        (tmp_path / run / "model").mkdir()
    assert names("one/model", "two") == ["one", "two"]
    assert names("run") == ["run"]

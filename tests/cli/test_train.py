"""The commands that make and judge runs: train, eval, report, recipes, methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intermodal.core.registry import cards
from intermodal.data.folder import FolderSource
from intermodal.recipes import RECIPES, get_recipe, measured
from intermodal.recipes.base import Recipe

Cli = Any
TINY = (
    *("--model.image.image-size", 16, "--model.image.width", 16, "--model.image.depth", 1),
    *("--model.image.heads", 2, "--model.text.width", 16, "--model.text.depth", 1, "--model.text.heads", 2),
    *("--model.embed-dim", 8, "--train.steps", 2, "--train.batch-size", 4, "--train.workers", 0),
)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Any, bool]]:
    calls: list[tuple[Recipe, Any, bool]] = []
    monkeypatch.setattr("intermodal.train.run.fit", lambda recipe, run, resume: calls.append((recipe, run, resume)))
    return calls


def test_overrides_reach_the_recipe_with_their_types(cli: Cli, fitted: list[Any]) -> None:
    words = ("--train.steps", "200", "--optim.lr", "1e-3", "--optim.betas", "0.8", "0.9", "--optim.clip-norm", "None")
    ran = cli("train", "--run", "here", "clip", *words, "--model.image.width", 252, "--no-resume")
    assert ran.code == 0, ran.err
    recipe, run, resume = fitted[0]
    base = get_recipe("clip")
    assert recipe == base.replace(
        train__steps=200,
        optim__lr=1e-3,
        optim__betas=(0.8, 0.9),
        optim__clip_norm=None,
        model__image__width=252,
    )
    assert (run, resume) == (Path("here"), False)


def test_a_method_a_file_and_smoke(cli: Cli, fitted: list[Any]) -> None:
    method = next(iter(cards()))
    assert cli("train", method).code == 0
    assert fitted[-1][0] == get_recipe(cards()[method].recipes[0])
    Path("mine.json").write_text(get_recipe("siglip").replace(train__steps=7).to_json())
    assert cli("train", "mine.json").code == 0
    assert fitted[-1][0] == get_recipe("siglip").replace(train__steps=7)
    assert cli("train", "clip", "--smoke").code == 0
    assert fitted[-1][0] == get_recipe("clip").smoke()


def test_data_by_path_and_by_hub_id(cli: Cli, fitted: list[Any], pictures: Path) -> None:
    for data in (pictures, "hub:somebody/something"):
        assert cli("train", "clip", "--data", data).code == 0
        assert fitted[-1][0].source == FolderSource(path=Path(data))
        assert fitted[-1][0].expect == ()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("clpi",), "There is no recipe or method 'clpi'; did you mean 'clip'?"),
        (("clip", "--train.stpes", "3"), "no option --train.stpes; did you mean '--train.steps'?"),
        (("clip", "--train.steps=x"), "invalid literal for int()"),
        (("clip", "--moedl.image.width", "3"), "did you mean '--model.image.width'?"),
        (("clip", "--smok"), "did you mean '--smoke'?"),
        (("clip", "siglip"), "further argument 'siglip'"),
        (("clip", "--optim.schedule", "linear"), "linear"),
        (("--smoke",), "Say what to train"),
        ((), "Say what to train"),
    ],
)
def test_mistakes_name_the_nearest(cli: Cli, fitted: list[Any], words: tuple[str, ...], sentence: str) -> None:
    ran = cli("train", *words)
    assert ran.code == 2 and sentence in ran.sentence
    assert not fitted


def test_help_shows_the_fields_of_the_recipe(cli: Cli, fitted: list[Any]) -> None:
    ran = cli("train", "clip", "--help")
    assert ran.code == 0 and "--data" in ran.out and "--model.image.width" in ran.out and not fitted
    assert "--model.text.depth" in ran.out and "--model.text.depth" not in cli("train", "--help").out


def test_a_persons_folder_from_training_to_search(cli: Cli, pictures: Path) -> None:
    ran = cli("train", "clip", "--data", pictures, "--run", "run", "--smoke", *TINY)
    assert ran.code == 0, ran.err
    assert Path("run/report.html").exists()
    facts = json.loads(cli("info", "run", "--json").out)
    assert facts["is"] == "a run" and facts["evaluation"]["test"] and facts["parameters"]
    assert "judged on test" in cli("info", "run").out
    assert len(cli("search", "run", "a red square", "-k", 1).out.splitlines()) == 1, "among its own held-out pictures"
    assert len(cli("search", "run", "a red square", "-k", 2, "--in", pictures).out.splitlines()) == 2

    ran = cli("eval", "run", "--split", "validation")
    assert ran.code == 0 and "Report: run/report.html" in ran.err
    assert Path("run/evaluation/validation/evaluation.json").exists()
    figures = json.loads(cli("eval", "run/model", "--data", pictures, "--json").out)
    assert figures["split"] == "test" and figures["metrics"]
    Path("run/report.html").unlink()
    assert cli("report", "run").out == "run/report.html\n" and Path("run/report.html").exists()
    assert "There is no split" in cli("eval", "run", "--split", "tset").sentence
    again = cli("train", "clip", "--data", pictures, "--run", "run", "--smoke", *TINY[:-4], "--train.batch-size", 5)
    assert again.code == 2 and "another recipe" in again.sentence


def test_recipes(cli: Cli) -> None:
    out = cli("recipes").out
    assert all(name in out for name in RECIPES) and "CLIP on the shipped emoji set" in out
    listed = json.loads(cli("recipes", "--json").out)
    assert [entry["name"] for entry in listed] == list(RECIPES) and all(entry["about"] for entry in listed)
    assert Recipe.from_json(cli("recipes", "clip").out) == get_recipe("clip")


def test_methods_and_their_measured_figures(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figure = {
        **{"metric": "recall@10", "value": 0.5, "baseline": 0.2, "split": "test"},
        **{"date": "2026-01-01", "hardware": "2 cores", "minutes": 4.2},
    }
    (tmp_path / "measured.json").write_text(json.dumps({"clip": figure}))
    monkeypatch.setattr(measured.resources, "files", lambda package: tmp_path)
    rows = {row["id"]: row for row in json.loads(cli("methods", "--json").out)}
    assert rows["clip"]["measured"] == {"clip": figure} and rows["clip"]["field"] == "contrastive"
    assert {"id", "title", "paper", "capabilities", "recipes", "reference"} <= set(rows["clip"])
    assert "clip: recall@10 0.500 (baseline 0.200) on test, 4 min (2 cores, 2026-01-01)" in cli("methods").out
    (tmp_path / "measured.json").unlink()
    assert "reaches" not in cli("methods").out

"""The table over all generators, with untrained models: it goes on where it was killed, and says what is drawn."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.processors import signed_pixels
from intermodal.evaluate.generation_sets import training_of
from intermodal.metrics.frechet import frechet_distance
from intermodal.recipes import get_recipe

ROOT = Path(__file__).parents[2]


def module_of(path):
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location(f"{path.stem}_tested", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def table():
    """The benchmark's module."""
    return module_of(ROOT / "benchmarks" / "generators.py")


@pytest.fixture(scope="module")
def models():
    return {name: get_recipe(name).smoke().build().eval() for name in ("cfg", "vae", "vqgan-prior", "clip")}


class Few(EmojiSource):
    """Few of the emoji, so that looking at the training pictures takes no time."""

    def open(self, split):
        opened = super().open(split)
        opened._units = opened._units[:: 40 if split == "train" else 10]
        return opened


@pytest.fixture
def run(table, models, monkeypatch, tmp_path):
    """Runs the table with models in memory, and notes what is drawn."""
    monkeypatch.setattr(table.intermodal, "load", lambda name: models[name])
    monkeypatch.setattr(table, "CHUNK", 8)
    monkeypatch.setattr(table, "HALVES", 5)
    monkeypatch.setattr(table, "yardstick", lambda: 0.02)
    monkeypatch.setattr(table, "SHOWN", [("a red cat", 0), ("a red cat", 1), ("a blue apple", 0)])
    training_of.cache_clear()
    threads = torch.get_num_threads()

    def go(*arguments, count=20):
        folders = [f"--{name}={tmp_path / name}" for name in ("keep", "out", "images")]
        return table.main([*arguments, f"--count={count}", *folders], Few())

    yield go
    torch.set_num_threads(threads)


def read(tmp_path):
    return json.loads((tmp_path / "out" / "generators.json").read_text())


def test_the_table_holds_every_row_and_its_references(run, tmp_path, monkeypatch, table):
    short = (dataclasses.replace(row, steps=row.steps and 1 + row.steps // 50) for row in table.ROWS)
    monkeypatch.setattr(table, "ROWS", tuple(short))
    assert run("--cfg=cfg", "--vae=vae", "--prior=vqgan-prior", "--judge=clip") == 0
    data = read(tmp_path)
    found = {row["name"]: row for row in data["rows"]}
    assert set(found) == {row.name for row in table.ROWS} - {"gan", "dalle", "dalle-best", "ddim-50-g1"}
    assert data["pictures"] == 20 and data["size"] == [32, 32]
    for row in found.values():
        assert row["frechet"] > 0 and row["frechet_spread"] > 0 and row["cpu_seconds"] > 0 and row["threads"] == [1]
        assert 0 <= row["precision"] <= 1 and 0 <= row["novelty"] <= 1
        assert ("clip_r1" in row) == row["takes_prompt"] == (row["steps"] is not None)
    assert found["ddpm-1000"]["frechet_ratio"] == 1 and found["ddpm-1000"]["frechet_ratio_spread"] == 0
    assert found["ddim-10"]["frechet_ratio"] == pytest.approx(
        found["ddim-10"]["frechet"] / found["ddpm-1000"]["frechet"]
    )
    assert found["ddim-100"]["evaluations"] == 3 and found["ddim-50-g4"]["evaluations"] == 4
    assert found["vq-prior"]["evaluations"] == 65 and found["vae"]["evaluations"] == 1
    references = data["references"]
    assert set(references) == {name for _, name in table.REFERENCES}
    assert {"frechet", "kid", "precision", "recall"} <= set(references["training pictures"])
    assert (
        set(references["held-out pictures"]) == {"clip_score", "clip_r1", "clip_r10"} == set(references["wrong texts"])
    )
    assert {file.name for file in (tmp_path / "images").iterdir()} == {"generators.png", "generators-memory.png"}
    handbook(tmp_path, monkeypatch)


def handbook(folder, monkeypatch):
    """Check what the handbook says of the record."""
    figures = module_of(ROOT / "docs" / "figures_generators.py")
    for name, path in (
        ("RECORD", "out/generators.json"),
        ("IMAGES", "images"),
        ("PLOT", "images/generators-steps.png"),
    ):
        monkeypatch.setattr(figures, name, folder / path)
    figures.draw()
    text = figures.tables()
    assert text.count("\n| ") == 11 + 4 + 1 + 8 and text.count("![") == 3
    assert "| VAE, its prior | " in text and "| *held-out pictures* | " in text and "nan" not in text
    monkeypatch.setattr(figures, "RECORD", folder / "nothing.json")
    assert figures.tables() == "Not measured yet.\n"


def test_a_killed_table_goes_on_and_grows(run, models, tmp_path, monkeypatch):
    drawn, whole = [], type(models["cfg"]).draw

    def counted(self, prompts, seeds, drawing=None, **options):
        if len(drawn) == 2 and not any(drawn[2:]):
            drawn.append(())
            raise DataError("killed")
        drawn.append(tuple(seeds))
        return whole(self, prompts, seeds, drawing, **options)

    monkeypatch.setattr(type(models["cfg"]), "draw", counted)
    with pytest.raises(DataError, match="killed"):
        run("--cfg=cfg", "--only", "dpm-10")
    assert run("--only", "dpm-10") == 1  # nothing is whole yet
    drawn.append(("gone on",))
    assert run("--cfg=cfg", "--only", "dpm-10") == 0
    assert drawn[4:] == [(16, 17, 18, 19), (0, 1, 0)]
    first = read(tmp_path)["rows"]
    assert run("--cfg=cfg", "--only", "dpm-10") == 0
    assert len(drawn) == 6 and read(tmp_path)["rows"] == first
    run("--cfg=cfg", "--only", "dpm-10", count=30)
    assert drawn[6:] == [tuple(range(16, 24)), tuple(range(24, 30))]
    run("--cfg=cfg", "--only", "dpm-10", "--guidance=3", "--draw-only")
    assert drawn[8] == tuple(range(8)) and len(drawn) == 12  # other settings: all anew


def test_the_best_of_several_is_what_the_chooser_finds(table):
    class Chooser:
        modalities = ("image", "text")

        def embed(self, modality, inputs):
            levels = [float(x.getpixel((0, 0))[0] % 5 if modality == "image" else 1.0) for x in inputs]
            return np.array(levels, np.float32)[:, None]

    def draw(prompts, seeds):
        return [Image.new("RGB", (2, 2), (seed, 0, 0)) for seed in seeds]

    made = table.choosing(draw, 4, Chooser())(["one", "two"], [0, 3])
    assert [image.getpixel((0, 0))[0] for image in made] == [3, 14]  # of 0, 1, 2, 3 and of 12, 13, 14, 15


def test_the_first_prompts_are_the_same_for_every_count(table):
    def texts(count):
        return table.Task(Few(), "test", signed_pixels(16, "crop"), count).held_out().texts

    assert texts(30)[:10] == texts(10) and len(set(texts(30))) > 20


def test_the_spread_is_that_of_drawing_again(table):
    """The jackknife's spread is near the standard deviation over independent sets of pictures."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 3, generator=generator)
    sets = [torch.randn(400, 3, generator=generator) * 1.5 + 0.5 for _ in range(60)]
    truth = np.std([frechet_distance(real, drawn) for drawn in sets], ddof=1)
    said = np.mean([table.half_distances(real, drawn).std(ddof=1) for drawn in sets[:10]])
    assert said == pytest.approx(truth, rel=0.25)

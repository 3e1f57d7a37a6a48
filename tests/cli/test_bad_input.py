"""Bad input: one sentence, a non-zero exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

Cli = Any


def test_missing_models(cli: Cli) -> None:
    for command in (
        ("search", "nowhere", "x"),
        ("eval", "nowhere"),
        ("info", "nowhere"),
        ("embed", "/no/such/run", "x"),
    ):
        ran = cli(*command)
        assert ran.code == 2 and command[1] in ran.sentence
    assert "There is no run at nowhere" in cli("report", "nowhere").sentence


def test_empty_folder(cli: Cli, model: Path) -> None:
    Path("empty").mkdir()
    for command in (
        ("search", model, "x", "--in", "empty"),
        ("index", model, "empty"),
        ("embed", model, "empty"),
        ("classify", model, "empty", "--labels", "a"),
    ):
        assert "no picture in empty" in cli(*command).sentence
    for command in (("train", "clip", "--data", "empty"), ("info", "empty")):
        ran = cli(*command)
        assert ran.code == 2 and "empty" in ran.sentence


def test_damaged_checkpoints(cli: Cli, model: Path) -> None:
    weights = model / "model.safetensors"
    good = load_file(weights)
    for change, words in (
        ({k: v for k, v in good.items() if k != "logit_scale"}, "1 missing: logit_scale"),
        ({**good, "spare": good["logit_scale"].clone()}, "1 left over: spare"),
        (
            {**good, "image_projection.weight": good["logit_scale"].clone().reshape(1, 1)},
            "image_projection.weight should be",
        ),
    ):
        save_file(change, weights)
        ran = cli("embed", model, "x")
        assert ran.code == 2 and words in ran.sentence
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cut short" in cli("embed", model, "x").sentence
    (model / "extra.bin").write_bytes(b"\x80\x04N.")
    assert "pickle" in cli("embed", model, "x").sentence
    (model / "extra.bin").unlink()
    (model / "intermodal.json").write_text("{")
    assert "not valid JSON" in cli("info", model).sentence


def test_queries_that_are_no_pictures(cli: Cli, model: Path, pictures: Path) -> None:
    Path("words.png").write_text("not a picture")
    good = (pictures / "000.png").read_bytes()
    Path("cut.png").write_bytes(good[: len(good) // 2])
    header = bytearray(good)
    header[16:24] = struct.pack(">II", 50_000, 50_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    Path("bomb.png").write_bytes(bytes(header))
    for name, words in (
        ("words.png", "cannot be read as a picture"),
        ("cut.png", "cannot be read as a picture"),
        ("bomb.png", "pixels, more than the"),
        ("gone.png", "does not exist"),
        (pictures, "is a folder"),
    ):
        ran = cli("search", model, "--image", name, "--in", pictures)
        assert ran.code == 2 and str(name) in ran.sentence and words in ran.sentence
    assert "There is no picture gone.png" in cli("embed", model, "gone.png").sentence
    assert "cut.png" in cli("embed", model, pictures, "cut.png", "-o", "out.npy").sentence
    assert not Path("out.npy").exists(), "all or nothing"
    ran = cli("classify", model, "cut.png", "words.png", "--labels", "a", "-o", "out.jsonl")
    assert ran.code == 2 and "None of the pictures can be read" in ran.sentence and not Path("out.jsonl").exists()


def test_a_picture_of_one_pixel_is_a_picture(cli: Cli, model: Path) -> None:
    Image.new("L", (1, 1)).save("dot.png")
    assert cli("embed", model, "dot.png").code == 0


def test_queries_that_say_nothing_or_too_much(cli: Cli, model: Path, pictures: Path) -> None:
    for extra in ((), ("",), ("words", "--image", pictures / "000.png")):
        assert "one of the two" in cli("search", model, *extra, "--in", pictures).sentence
    assert "at least 1" in cli("search", model, "x", "--in", pictures, "-k", 0).sentence
    assert "no {}" in cli("classify", model, pictures, "--labels", "a", "--templates", "plain").sentence
    assert "at least one picture" in cli("classify", model, "--labels", "a").sentence
    assert ".npy or .jsonl" in cli("embed", model, "x", "-o", "out.txt").sentence
    assert "There is no device 'cuda:77'" in cli("embed", model, "x", "--device", "cuda:77").sentence


def test_a_model_that_cannot(cli: Cli, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.index.embedding.capabilities_of", lambda model: ("transcribe",))
    for command in (
        ("search", model, "x"),
        ("index", model, pictures),
        ("embed", model, "x"),
        ("classify", model, pictures, "--labels", "a"),
    ):
        ran = cli(*command)
        assert ran.code == 2 and "needs a model with the capability" in ran.sentence and "clip" in ran.sentence


def test_a_full_disk_while_an_index_is_written(
    cli: Cli, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("index", model, pictures)
    Image.new("RGB", (9, 9)).save(pictures / "new.png")

    def full(*arguments: object) -> None:
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("intermodal.index.folder.FolderIndex._commit", full)
        ran = cli("index", model, pictures)
        assert ran.code == 2 and "disk is full" in ran.sentence
    assert "13 pictures (1 new, 0 changed, 0 gone)" in cli("index", model, pictures).out


def test_data_that_lacks_something(cli: Cli, pictures: Path) -> None:
    for text in pictures.glob("*.txt"):
        text.unlink()
    ran = cli("train", "clip", "--data", pictures, "--smoke")
    assert ran.code == 2 and str(pictures) in ran.sentence
    (pictures / "metadata.csv").write_text("file,words\n000.png,red\n")
    ran = cli("train", "clip", "--data", pictures, "--smoke")
    assert ran.code == 2 and "metadata.csv" in ran.sentence
    assert "no known set of that name" in cli("train", "clip", "--data", "flicker").sentence


def test_a_recipe_that_names_another_python_module(cli: Cli) -> None:
    Path("recipe.json").write_text(json.dumps({"type": "os:system", "name": "x"}))
    ran = cli("train", "recipe.json")
    assert ran.code == 2 and "os:system" in ran.sentence

"""``intermodal generate`` and ``interpolate`` with models that draw in steps: files, what they say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from intermodal.core.capabilities import Completes
from intermodal.core.drawing import Drawing
from intermodal.data.images import contact_sheet, open_image
from intermodal.data.picture_files import read_facts

Cli = Any


@pytest.fixture
def drawer(small_cfg: Any, tmp_path: Path) -> Path:
    small_cfg.save(tmp_path / "drawer")
    return tmp_path / "drawer"


@pytest.fixture
def plain(small_ddpm: Any, tmp_path: Path) -> Path:
    small_ddpm.save(tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def maker(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that generates pictures, and does not draw them in steps."""
    toys.toy(size=16).save(tmp_path / "model")
    monkeypatch.setattr(toys.Toy, "generates", "image", raising=False)
    monkeypatch.setattr(toys.Toy, "generate", lambda *_, **__: [], raising=False)
    return tmp_path / "model"


def files() -> set[str]:
    """Return the names of what was written."""
    return {path.name for path in Path().iterdir()} - {
        "drawer",
        "plain",
        "model",
        "judge",
        "pictures",
        "cache",
        "models",
    }


def test_one_picture_says_how_it_came_about(cli: Cli, drawer: Path, small_cfg: Any) -> None:
    settings = ("--steps", 3, "--guidance", 4, "--sampler", "dpm", "--negative", "blue", "--rescale", 0.5)
    more = ("--spacing", "karras", "--interval", 0.1, 5, "--eta", 0, "--precision", "fp32")
    ran = cli("generate", drawer, "a red square", *settings, *more, "-n", 1, "--seed", 7, "-o", "heart.png")
    assert ran.code == 0 and "heart.png: a picture." in ran.err and ran.out == ""
    drawing = Drawing(
        steps=3, guidance=4.0, sampler="dpm", negative="blue", rescale=0.5, spacing="karras", interval=(0.1, 5.0)
    )
    assert open_image("heart.png").tobytes() == small_cfg.draw(["a red square"], [7], drawing)[0].tobytes()
    facts = read_facts("heart.png")
    assert facts["prompt"] == "a red square" and facts["seed"] == "7" and facts["method"] == "cfg"
    assert facts["model"] == str(drawer) and Drawing.from_dict(facts["drawing"]) == drawing
    shown = cli("info", "heart.png")
    assert shown.code == 0 and "a red square" in shown.out and "drawing.guidance       4.0" in shown.out
    assert json.loads(cli("info", "heart.png", "--json").out)["drawing"]["steps"] == 3


def test_several_pictures_on_a_sheet_or_in_a_folder(cli: Cli, drawer: Path, small_cfg: Any) -> None:
    expected = small_cfg.draw(["red"] * 3, [2, 3, 4], small_cfg.drawing)
    assert cli("generate", drawer, "red", "-n", 3, "--seed", 2, "-o", "sheet.png").code == 0
    assert open_image("sheet.png").tobytes() == contact_sheet(expected).tobytes()
    assert read_facts("sheet.png")["seed"] == "2, 3, 4"
    ran = cli("generate", drawer, "--prompt", "red", "--count", 3, "--seed", 2, "--out", "folder")
    assert ran.code == 0 and "3 pictures, and sheet.png" in ran.err
    assert {p.name for p in Path("folder").iterdir()} == {"0001.png", "0002.png", "0003.png", "sheet.png"}
    for i in range(3):
        assert open_image(f"folder/000{i + 1}.png").tobytes() == expected[i].tobytes()
        assert read_facts(f"folder/000{i + 1}.png")["seed"] == str(2 + i)


def test_the_trajectory(cli: Cli, drawer: Path) -> None:
    ran = cli("generate", drawer, "red", "-n", 2, "-o", "a.png", "--trajectory", "--steps", 12)
    assert ran.code == 0 and "how they came about: a-trajectory.png, a-trajectory.gif." in ran.err
    assert files() == {"a.png", "a-trajectory.png", "a-trajectory.gif"}
    assert read_facts("a-trajectory.png")["prompt"] == "red"
    with Image.open("a-trajectory.gif") as gif:
        assert 2 <= gif.n_frames <= 13 and gif.info["loop"] == 0
    cli("generate", drawer, "red", "-n", 2, "-o", "b.png", "--steps", 12)
    assert open_image("a.png").tobytes() == open_image("b.png").tobytes(), "looking changes nothing"
    ran = cli("generate", drawer, "red", "-n", 2, "-o", "folder", "--trajectory")
    assert ran.code == 0 and {"trajectory.png", "trajectory.gif"} < {p.name for p in Path("folder").iterdir()}
    Path("a.png").unlink()
    ran = cli("generate", drawer, "red", "-n", 2, "-o", "a.png", "--trajectory")
    assert ran.code == 2 and "a-trajectory.png exists already" in ran.sentence and not Path("a.png").exists()


def test_words_that_are_not_heard_are_named(cli: Cli, drawer: Path) -> None:
    ran = cli("generate", drawer, "a purple square", "-n", 1, "-o", "a.png")
    assert ran.code == 0 and "The model does not know 'purple'." in ran.err
    ran = cli("generate", drawer, "red " * 30, "-n", 1, "-o", "b.png")
    assert ran.code == 0 and "reads the first 6 of the prompt's 30 words" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("",), "The prompt is empty"),
        (("   ",), "The prompt is empty"),
        (("heart " * 10_000,), "at most 10,000 characters, found 60,000"),
        (("зелёный 青",), "knows none of the words 'зелёный', '青'"),
        (("a\udcff",), "holds bytes that are no text"),
        (("red", "--steps", 0), "--steps takes a number of at least 1, found 0"),
        (("red", "--steps", -3), "--steps takes a number of at least 1, found -3"),
        (("red", "--steps", 1001), "trained with 1000 steps"),
        (("red", "--steps", "many"), "--steps"),
        (("red", "--guidance", "nan"), "must be a finite number, found nan"),
        (("red", "--guidance", "inf"), "must be a finite number, found inf"),
        (("red", "--guidance", 1, "--negative", "blue"), "A negative prompt acts through guidance"),
        (("red", "--negative", " "), "The negative prompt is empty"),
        (("red", "--sampler", "magic"), "magic"),
        (("red", "--eta", 2), "eta and rescale go from 0 to 1"),
        (("red", "--order", 7), "rder"),
        (("red", "--rescale", "nan"), "eta and rescale go from 0 to 1"),
        (("red", "--interval", 5, 1), "a smaller and a larger"),
        (("red", "--size", 64), "has no option --size"),
        (("red", "--seed", -1), "--seed takes a number of at least 0"),
        (("red", "--seed", 2**63), "Seeds go from 0 to"),
        (("red", "--count", 0), "--count takes a number from 1 to 10,000, found 0"),
        (("red", "--prompt", "blue"), "The prompt was given twice"),
        (("red", "-o", "a.jpg"), "Pictures are written as PNG: name a.png"),
        (("red", "--candidates", 3), "--candidates are what --rerank chooses among"),
        (("--rerank", "judge"), "give a prompt"),
        (("red", "--rerank", "judge", "--trajectory"), "one of the two"),
        (("red", "--rerank", "judge", "--candidates", 0), "go from 1 to"),
        (("red", "--keep", 0.5), "name the picture with --complete"),
        (("red", "--complete", "a.png", "--eta", 0), "knows nothing of --eta"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    cli: Cli, drawer: Path, words: tuple[object, ...], sentence: str
) -> None:
    ran = (
        cli("generate", drawer, *words, "--trajectory") if "--rerank" not in words else cli("generate", drawer, *words)
    )
    if "--complete" in words:
        ran = cli("generate", drawer, *words)
    assert ran.code == 2 and sentence in ran.sentence
    assert files() == set()


def test_a_model_without_texts_takes_none(cli: Cli, plain: Path) -> None:
    ran = cli("generate", plain, "red")
    assert ran.code == 2 and "takes no prompt ('red' was given)" in ran.sentence
    ran = cli("generate", plain, "--guidance", 3)
    assert ran.code == 2 and "There is no guidance 3 of this model: it was trained without texts" in ran.sentence
    ran = cli("interpolate", plain, "red", "blue")
    assert ran.code == 2 and "takes no prompt" in ran.sentence
    assert files() == set()
    assert cli("generate", plain, "-n", 1, "--sampler", "ddpm").code == 0


def test_settings_of_a_drawing_need_a_model_that_draws(cli: Cli, maker: Path) -> None:
    ran = cli("generate", maker, "--guidance", 3, "--sampler", "dpm")
    assert ran.code == 2 and "--guidance, --sampler needs a model with the capability 'draw'" in ran.sentence
    assert "'toy' has generate, reconstruct" in ran.sentence or "'toy' has reconstruct, generate" in ran.sentence
    ran = cli("generate", maker, "--trajectory")
    assert ran.code == 2 and "--trajectory needs a model with the capability 'draw'" in ran.sentence
    ran = cli("interpolate", maker, "a", "b")
    assert ran.code == 2 and "capability 'interpolate'" in ran.sentence
    Image.new("RGB", (9, 9), "red").save("model/given.png")
    ran = cli("generate", maker, "--complete", "model/given.png")
    assert ran.code == 2 and "--complete needs a model with the capability 'complete'" in ran.sentence
    assert files() == set()


def test_the_best_of_many(cli: Cli, drawer: Path, small_clip: Any, small_cfg: Any, tmp_path: Path) -> None:
    small_clip.save(tmp_path / "judge")
    options = ("-n", 2, "--candidates", 4, "--seed", 5, "--rerank", tmp_path / "judge")
    ran = cli("generate", drawer, "a red square", *options, "-o", "best")
    assert ran.code == 0
    drawn = small_cfg.draw(["a red square"] * 8, list(range(5, 13)), small_cfg.drawing)
    cosine = small_clip.embed("image", drawn) @ small_clip.embed("text", ["a red square"])[0]
    first, second = sorted(range(8), key=lambda i: -cosine[i])[:2]
    for name, place in (("0001", first), ("0002", second)):
        assert open_image(f"best/{name}.png").tobytes() == drawn[place].tobytes()
        facts = read_facts(f"best/{name}.png")
        assert facts["seed"] == str(5 + place) and float(facts["cosine"]) == pytest.approx(cosine[place], abs=1e-4)
    ran = cli("generate", drawer, "a red square", "--rerank", drawer, "-o", "x.png")
    assert ran.code == 2 and "cannot choose among pictures" in ran.sentence and not Path("x.png").exists()


def test_a_picture_is_gone_on_with(cli: Cli, maker: Path, toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(
        self: Any, images: Sequence[Image.Image], keep: float = 0.5, *, prompt: Any = None, seed: int = 0
    ) -> Any:
        del self
        assert prompt == "a heart" and keep == 0.25 and seed == 3
        return [Image.new("RGB", (4, 4), image.getpixel((0, 0))) for image in images]

    monkeypatch.setattr(toys.Toy, "complete", complete, raising=False)
    assert isinstance(toys.toy(), Completes)
    Image.new("RGB", (9, 9), "red").save("given.png")
    words = ("a heart", "--complete", "given.png", "--keep", 0.25, "--seed", 3, "-n", 2, "-o", "whole.png")
    assert cli("generate", maker, *words).code == 0
    assert open_image("whole.png").size == (10, 4) and open_image("whole.png").getpixel((0, 0)) == (255, 0, 0)
    facts = read_facts("whole.png")
    assert facts["completes"] == "given.png" and facts["keep"] == "0.25"


def test_from_a_text_to_a_text(cli: Cli, drawer: Path, small_cfg: Any) -> None:
    words = ("-n", 4, "--seed", 3, "--steps", 2, "-o", "strip.png", "--gif")
    ran = cli("interpolate", drawer, "red", "a blue square", *words)
    assert ran.code == 0 and "strip.png: 4 pictures side by side, and strip.gif." in ran.err
    made = small_cfg.interpolate("red", "a blue square", 4, seed=3, drawing=small_cfg.drawing.replace(steps=2))
    assert open_image("strip.png").tobytes() == contact_sheet(made, columns=4).tobytes()
    facts = read_facts("strip.png")
    assert (facts["first"], facts["second"], facts["seed"]) == ("red", "a blue square", "3")
    with Image.open("strip.gif") as gif:
        assert gif.size == (256, 256) and gif.n_frames <= 6
    ran = cli("interpolate", drawer, "red", "a blue square", *words)
    assert ran.code == 2 and "strip.png exists already" in ran.sentence


def test_from_a_picture_to_a_picture(cli: Cli, drawer: Path, plain: Path, pictures: Path) -> None:
    for model in (drawer, plain):
        ran = cli("interpolate", model, pictures / "000.png", pictures / "001.png", "--overwrite")
        assert ran.code == 0 and open_image("interpolation.png").size == (8 * 10 - 2, 8)


@pytest.mark.parametrize(
    ("ends", "words", "sentence"),
    [
        (("none.png", "pictures/001.png"), (), "none.png does not exist"),
        (("pictures/000.txt", "pictures/001.png"), (), "cannot be read as a picture"),
        (("red", "pictures/001.png"), (), "from a picture to a picture, or from a text to a text"),
        (("red", ""), (), "The text is empty"),
        (("red", "青"), (), "knows none of the words"),
        (("red", "blue"), ("-n", 1), "from 2 to 1,000, the two ends included; found 1"),
        (("red", "blue"), ("-o", "folder"), "name a file that ends in .png"),
        (("red", "blue"), ("-o", "a.gif"), "written as PNG"),
        (("red", "blue"), ("--seed", -1), "Seeds go from 0"),
        (("red", "blue"), ("--steps", 0), "at least 1 step"),
        (("red", "blue"), ("--guidance", "nan"), "finite"),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_ends_that_are_none(
    cli: Cli, drawer: Path, ends: tuple[str, str], words: tuple[object, ...], sentence: str
) -> None:
    ran = cli("interpolate", drawer, *ends, *words)
    assert ran.code == 2 and sentence in ran.sentence and files() == set()

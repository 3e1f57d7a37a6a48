"""``intermodal encode``, ``decode`` and ``tokens``: there and back, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intermodal.data.images import open_image
from intermodal.data.tokens import TokenFile

Cli = Any


@pytest.fixture
def saved(toys: ModuleType, tmp_path: Path) -> Path:
    """Checkpoints of codes, of codes in three levels, of numbers, and of codes with other weights."""
    folder = tmp_path / "models"
    toys.toy().save(folder / "codes")
    toys.toy(levels=3).save(folder / "levels")
    toys.toy(kind="map").save(folder / "numbers")
    other = toys.toy()
    other.book_QKC.data += 0.01
    other.save(folder / "other")
    return folder


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of pictures of every kind, and of files that are none."""
    folder = tmp_path / "odd"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (50, 30), "red").save(folder / "a.png")
    Image.new("L", (1, 1), 200).save(folder / "sub" / "grey.png")
    Image.new("RGBA", (40, 40), (0, 0, 255, 128)).save(folder / "sub" / "alpha.webp")
    Image.new("P", (33, 65)).save(folder / "palette.gif")
    Image.new("CMYK", (37, 37), (255, 0, 0, 0)).save(folder / "cmyk.jpg")
    Image.fromarray((np.arange(48 * 48).reshape(48, 48) * 28).astype(np.uint16)).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_there_and_back_is_what_the_model_does(cli: Cli, saved: Path, toys: ModuleType, pictures: Path) -> None:
    ran = cli("encode", saved / "codes", pictures, "-o", "mine.imtok")
    assert ran.code == 0 and ran.out == ""
    assert "mine.imtok: 12 pictures (toy, 8 x 8 codes of 16, " in ran.err and "256 bits a picture" in ran.err
    model, file = toys.toy(), TokenFile("mine.imtok")
    originals = [open_image(path) for path in sorted(pictures.glob("*.png"))]
    np.testing.assert_array_equal(file.read(0, 12), model.encode(originals))
    assert file.names[0] == "000.png" and file.sizes.tolist() == [[24, 24]] * 12
    ran = cli("decode", saved / "codes", "mine.imtok", "-o", "back")
    assert ran.code == 0 and "back: 12 pictures." in ran.err
    expected = model.decode(model.encode(originals))
    for name, picture in zip(file.names, expected, strict=True):
        assert open_image(Path("back", name)).tobytes() == picture.tobytes()


def test_odd_pictures_and_broken_ones(cli: Cli, saved: Path, odd: Path) -> None:
    ran = cli("encode", saved / "numbers", odd, "-o", "odd.imtok")
    assert ran.code == 0 and "skipped:" in ran.err and "broken.png" in ran.err and "1 could not be read" in ran.err
    names = ["a.png", "cmyk.jpg", "deep.png", "palette.gif", "sub/alpha.webp", "sub/grey.png"]
    assert TokenFile("odd.imtok").names == names
    assert cli("decode", saved / "numbers", "odd.imtok").code == 0
    found = sorted(p.relative_to("decoded").as_posix() for p in Path("decoded").rglob("*.png"))
    assert found == [*(n.rpartition(".")[0] + ".png" for n in names)]
    assert open_image("decoded/a.png").size == (32, 32)
    ran = cli("decode", saved / "numbers", "odd.imtok", "-o", "large", "--original-size")
    assert ran.code == 0
    sizes = {name: open_image(Path("large", name)).size for name in found}
    # The model keeps the square in the middle.
    assert sizes["a.png"] == (30, 30) and sizes["palette.png"] == (33, 33) and sizes["sub/grey.png"] == (1, 1)


def test_names_of_several_inputs(cli: Cli, saved: Path, odd: Path, pictures: Path) -> None:
    assert cli("encode", saved / "codes", odd / "a.png", "-o", "one.imtok").code == 0
    assert TokenFile("one.imtok").names == ["a.png"]
    assert cli("encode", saved / "codes", "./odd/a.png", "pictures", "-o", "more.imtok").code == 0
    assert TokenFile("more.imtok").names[:2] == ["odd/a.png", "pictures/000.png"]


def test_half_of_the_bytes(cli: Cli, saved: Path, pictures: Path) -> None:
    for name, options in (("full", ()), ("half", ("--half",))):
        assert cli("encode", saved / "numbers", pictures, "-o", f"{name}.imtok", *options).code == 0
    full, half = (TokenFile(f"{name}.imtok").read(0, 12) for name in ("full", "half"))
    np.testing.assert_allclose(half, full, rtol=1e-3, atol=1e-6)
    assert Path("full.imtok").stat().st_size - Path("half.imtok").stat().st_size == full.size * 2


def test_levels(cli: Cli, saved: Path, toys: ModuleType, pictures: Path) -> None:
    assert cli("encode", saved / "levels", pictures, "-o", "a.imtok").code == 0
    latents = TokenFile("a.imtok").read(0, 12)
    assert latents.shape == (12, 8, 8, 3)
    assert cli("decode", saved / "levels", "a.imtok", "--levels", 1, "-o", "coarse").code == 0
    coarse = toys.toy(levels=3).decode(latents[..., :1])[0]
    assert open_image("coarse/000.png").tobytes() == coarse.tobytes()
    for levels, words in ((0, "the levels 1 to 3, found 0"), (4, "the levels 1 to 3, found 4")):
        ran = cli("decode", saved / "levels", "a.imtok", "--levels", levels, "-o", "x")
        assert ran.code == 2 and words in ran.sentence and not Path("x").exists()
    cli("encode", saved / "codes", pictures, "-o", "b.imtok")
    ran = cli("decode", saved / "codes", "b.imtok", "--levels", 2, "-o", "x")
    assert ran.code == 2 and "no coarser picture" in ran.sentence


def test_tokens_draws_them(cli: Cli, saved: Path, pictures: Path) -> None:
    ran = cli("tokens", saved / "codes", pictures / "000.png")
    assert (
        ran.code == 0 and "32 x 32 pixels: 8 x 8 codes of 16" in ran.out and "256 bits, 0.25 bits per pixel" in ran.out
    )
    with Image.open("000-tokens.png") as drawn:
        assert drawn.size == (3 * 256 + 2 * 8, 256)
    ran = cli("tokens", saved / "levels", pictures / "000.png", "-o", "drawn.png", "--json")
    found = json.loads(ran.out)
    assert np.array(found["latent"]).shape == (8, 8, 3) and found["codebook"] == 16 and found["bits"] == 768
    ran = cli("tokens", saved / "levels", pictures / "000.png", "-o", "two.png", "--levels", 2, "--json")
    assert json.loads(ran.out)["bits"] == 512 and json.loads(ran.out)["psnr"] <= found["psnr"] + 1e-9
    with Image.open("two.png") as drawn:
        assert drawn.size == (4 * 256 + 3 * 8, 256)
    ran = cli("tokens", saved / "numbers", pictures / "000.png", "-o", "numbers.png")
    assert ran.code == 0 and "3 x 8 x 8 numbers, 1,536 bits" in ran.out


def test_nothing_is_replaced_unless_it_is_asked_for(cli: Cli, saved: Path, pictures: Path) -> None:
    for words in (("encode", saved / "codes", pictures), ("tokens", saved / "codes", pictures / "000.png")):
        assert cli(*words).code == 0
        ran = cli(*words)
        assert ran.code == 2 and "exists already" in ran.sentence
        assert cli(*words, "--overwrite").code == 0
    assert cli("decode", saved / "codes", "tokens.imtok").code == 0
    ran = cli("decode", saved / "codes", "tokens.imtok")
    assert ran.code == 2 and "decoded exists already" in ran.sentence
    assert cli("decode", saved / "codes", "tokens.imtok", "--overwrite").code == 0


def test_a_file_of_another_tokenizer_is_refused(cli: Cli, saved: Path, pictures: Path) -> None:
    cli("encode", saved / "codes", pictures)
    ran = cli("decode", saved / "other", "tokens.imtok")
    assert ran.code == 2 and "Its weights or settings are others" in ran.sentence and not Path("decoded").exists()
    ran = cli("decode", saved / "numbers", "tokens.imtok")
    assert ran.code == 2 and "another tokenizer" in ran.sentence


def test_bad_files_are_one_sentence(cli: Cli, saved: Path, pictures: Path, odd: Path) -> None:
    cli("encode", saved / "codes", pictures)
    Path("cut.imtok").write_bytes(Path("tokens.imtok").read_bytes()[:-5])
    for file, words in (
        ("cut.imtok", "cut short"),
        ("none.imtok", "no file of tokens"),
        (odd / "a.png", "cannot be read"),
    ):
        ran = cli("decode", saved / "codes", file, "-o", "x")
        assert ran.code == 2 and words in ran.sentence and not Path("x").exists()
    ran = cli("encode", saved / "codes", odd / "broken.png", "-o", "y.imtok")
    assert ran.code == 2 and "None of the pictures can be read" in ran.sentence and not Path("y.imtok").exists()
    assert cli("encode", saved / "codes", odd / "none.png", "-o", "y.imtok").code == 2
    assert cli("encode", saved / "codes", "-o", "y.imtok").code == 2 and not list(Path().glob(".y*"))
    ran = cli("tokens", saved / "codes", odd / "broken.png")
    assert ran.code == 2 and "broken.png cannot be read" in ran.sentence


def test_a_model_that_cannot_says_which_capability_lacks(cli: Cli, model: Path, pictures: Path) -> None:
    for words in (("encode", model, pictures), ("tokens", model, pictures / "000.png")):
        ran = cli(*words)
        assert ran.code == 2 and "capability 'reconstruct'" in ran.sentence
    assert not Path("tokens.imtok").exists() and not Path("000-tokens.png").exists()

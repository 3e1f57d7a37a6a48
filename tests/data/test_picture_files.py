"""Pictures that say how they came about."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from intermodal.core.drawing import Drawing
from intermodal.core.errors import DataError
from intermodal.core.version import __version__
from intermodal.data.picture_files import Origin, png_bytes, read_facts, save_png

PROMPT = 'ein rotes Herz, "красное" \u2764 \\n {}'


def test_there_and_back(tmp_path: Path) -> None:
    drawing = Drawing(steps=7, guidance=3.5, negative="blau ü 青", interval=(0.5, 2.0))
    facts = Origin(model="runs/x", method="cfg", prompt=PROMPT, drawing=drawing).facts([3, 4], {"number": "1 of 2"})
    picture = Image.linear_gradient("L").convert("RGB")
    save_png(picture, tmp_path / "a.png", facts)
    found = read_facts(tmp_path / "a.png")
    assert found["size"] == "256 x 256 pixels" and found["Software"] == f"intermodal {__version__}"
    assert (found["model"], found["method"], found["seed"], found["number"]) == ("runs/x", "cfg", "3, 4", "1 of 2")
    assert found["prompt"] == PROMPT and Drawing.from_dict(found["drawing"]) == drawing
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.tobytes() == picture.tobytes() and opened.mode == "RGB"
    assert png_bytes(picture, facts) == (tmp_path / "a.png").read_bytes()


def test_latin_texts_are_text_and_others_international_text() -> None:
    data = png_bytes(Image.new("RGB", (2, 2)), {"prompt": "heart", "other": "青"})
    assert b"tEXtprompt\0heart" in data and b"iTXtother\0" in data


def test_what_is_not_said_is_not_written() -> None:
    facts = Origin(model="m", method="vae").facts([0])
    assert set(facts) == {"Software", "model", "method", "seed"}


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(DataError, match="The prompt holds bytes that are no text"):
        save_png(Image.new("RGB", (2, 2)), io.BytesIO(), {"prompt": "a\udcff"})


def test_other_pictures_say_what_they_say(tmp_path: Path) -> None:
    Image.new("L", (3, 5)).save(tmp_path / "plain.png")
    assert read_facts(tmp_path / "plain.png") == {"size": "3 x 5 pixels"}
    save_png(Image.new("RGB", (2, 2)), tmp_path / "odd.png", {"Comment": "{no json", "deep": "{" * 9})
    assert read_facts(tmp_path / "odd.png")["Comment"] == "{no json"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_facts(tmp_path / "broken.png")

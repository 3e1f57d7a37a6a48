from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intermodal.core.errors import DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.sketch import Sketched, SketchedSource, sketch
from intermodal.data.text import TextSource


def test_edges_are_dark_on_white_and_fills_and_colours_are_gone():
    picture = Image.new("RGB", (40, 30), "white")
    ImageDraw.Draw(picture).rectangle((10, 8, 29, 21), fill="red")
    drawn = np.asarray(sketch(picture))
    assert drawn.shape == (30, 40, 3) and drawn.dtype == np.uint8
    assert (drawn[..., 0] == drawn[..., 1]).all()
    assert drawn[15, 10].max() < 60 and drawn[8, 20].max() < 60  # on the left and the upper edge
    assert drawn[15, 20].min() == 255 and drawn[2, 2].min() == 255  # inside and outside


def test_the_gradient_is_sobels(monkeypatch):
    monkeypatch.setattr("intermodal.data.sketch.BLUR", 0)
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (12, 1))
    drawn = np.asarray(sketch(Image.fromarray(ramp)))[..., 0]
    assert (drawn[:, 1:-1] == 0).all()  # the same slope everywhere: the strongest
    assert set(drawn[:, 0].tolist() + drawn[:, -1].tolist()) == {127} or set(drawn[:, 0].tolist()) <= {127, 128}


def test_a_flat_picture_gives_an_empty_sheet():
    assert np.asarray(sketch(Image.new("RGB", (5, 5), "blue"))).min() == 255
    assert sketch(Image.new("RGB", (1, 1))).size == (1, 1)


def test_a_sketched_source_adds_one_field_and_changes_nothing_else():
    plain = EmojiSource().open("validation")
    drawn = SketchedSource(pictures=EmojiSource()).open("validation")
    assert len(drawn) == len(plain) and set(drawn.fields) == {*plain.fields, "sketch"}
    one, other = drawn.sample(3), plain.sample(3)
    assert one["text"] == other["text"] and one["sketch"].tobytes() == sketch(other["image"]).tobytes()
    assert drawn.sample_name(3) == plain.sample_name(3)


def test_what_has_no_pictures_cannot_be_drawn(tmp_path):
    (tmp_path / "a.txt").write_text("Words and more words. And again.")
    with pytest.raises(DataError, match="no pictures to draw"):
        Sketched(TextSource(path=tmp_path / "a.txt").open("train"))

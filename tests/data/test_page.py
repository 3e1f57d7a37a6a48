"""A page is cut into lines; Otsu's threshold is the best one; a blank page has none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intermodal.core.errors import DataError
from intermodal.data.ocr import DrawnLines, RenderedLines, draw_line, drawable, made_up
from intermodal.data.page import lines, otsu


def page(rows, size=(300, 200), paper=235, dark=30, noise=0.0) -> Image.Image:
    image = Image.new("L", size, paper)
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in rows:
        for x in range(left, right, 6):  # strokes with gaps, as letters have
            pen.rectangle((x, top, min(x + 3, right - 1), bottom - 1), fill=dark)
    values = np.asarray(image, np.float32) + np.random.default_rng(0).normal(0, noise, (size[1], size[0]))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def test_otsu_is_the_threshold_of_the_largest_variance_between_classes():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        grey = np.concatenate([rng.normal(60, 20, 300), rng.normal(190, 25, 700)]).clip(0, 255).astype(np.uint8)
        best, most = -1, -1.0
        for t in range(255):
            low, high = grey[grey <= t].astype(float), grey[grey > t].astype(float)
            if (
                len(low)
                and len(high)
                and (v := len(low) * len(high) * (low.mean() - high.mean()) ** 2) > most * (1 + 1e-12)
            ):
                best, most = t, v
        assert otsu(grey) == best


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_lines_are_found_where_they_stand(noise):
    rows = [(20, 10, 200, 30), (40, 60, 280, 82), (10, 120, 60, 140)]
    found = lines(page(rows, noise=noise))
    assert len(found) == 3
    for (left, top, right, bottom), box in zip(rows, found, strict=True):
        assert box[0] <= left and box[1] <= top and box[2] >= right - 6 and box[3] >= bottom
        assert max(left - box[0], top - box[1], box[2] - right, box[3] - bottom) <= 5


def test_light_text_on_a_dark_page_is_found_too():
    assert len(lines(page([(20, 10, 200, 30), (20, 60, 200, 80)], paper=20, dark=220))) == 2


def test_a_dot_above_a_letter_does_not_part_a_line():
    image = page([(20, 40, 200, 60)])
    ImageDraw.Draw(image).rectangle((50, 36, 53, 38), fill=30)
    assert len(lines(image)) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "CMYK", "P"])
def test_a_blank_page_has_no_lines_in_any_mode(mode):
    assert lines(Image.new(mode, (60, 40), "white")) == []
    assert lines(Image.new(mode, (1, 1), "black")) == []


def test_faint_noise_alone_is_blank():
    assert lines(page([], noise=3.0)) == []


def test_drawn_lines_are_the_same_every_time_and_differ_between_splits():
    one, two = RenderedLines().open("train"), DrawnLines("validation", RenderedLines().wear)
    assert np.array_equal(np.asarray(one.sample(3)["image"]), np.asarray(one.sample(3)["image"]))
    assert one.sample(3)["text"] == one.text(3)
    assert one.texts()[:200] != two.texts()[:200]
    drawn = [draw_line("TOTAL 12.50", np.random.default_rng(i)) for i in range(6)]
    assert all(18 <= d.height <= 44 and d.width > d.height for d in drawn)
    assert len({d.size for d in drawn}) > 3


def test_text_that_no_font_has_is_named():
    with pytest.raises(DataError, match="No font"):
        drawable("TOTAL 合計")
    with pytest.raises(DataError, match="no text"):
        draw_line("  ", np.random.default_rng(0))
    assert all(0 < len(made_up(np.random.default_rng(i), most=12)) <= 12 for i in range(50))

"""A page is cut into lines; Otsu's threshold is the best one; a blank page has none."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.ocr import DrawnLines, ReceiptLines, RenderedLines, draw_line, drawable, made_up, wear_line
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


def test_dots_that_stand_for_grey_paper_are_no_ink():
    sheet = page([(20, 40, 200, 60), (20, 90, 260, 112)], paper=245)
    dotted = lines(sheet.convert("1"))
    assert sheet.convert("1").getextrema() == (0, 255) and len(dotted) == 2
    for found, wanted in zip(dotted, lines(sheet), strict=True):
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 3


def test_a_real_line_worn_once_more_differs_each_time_and_keeps_its_ink():
    line = draw_line("TOTAL 12.50", np.random.default_rng(0))
    worn = [wear_line(line, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert worn[0].tobytes() == worn[1].tobytes() != worn[2].tobytes()
    for picture in worn:
        assert picture.height == line.height and 0.85 <= picture.width / line.width <= 1.17
        ink = [np.percentile(grey, 75) - grey for grey in (np.asarray(p, np.float32) for p in (line, picture))]
        assert 0.7 < ink[1].clip(20).mean() / ink[0].clip(20).mean() < 1.3


@pytest.fixture
def receipts(tmp_path, monkeypatch):
    """SROIE's table in small: receipts 0 to 5 of two lines for training, 6 for validation."""
    rows = [(f"{number}-{line}", f"receipt {number}") for number in range(7) for line in range(2)]
    pictures = []
    for text, _ in rows:
        draw_line(text, np.random.default_rng(0)).save(file := io.BytesIO(), "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    table = {
        "image": pictures,
        "text": [text for text, _ in rows],
        "receipt": [name for _, name in rows],
        "split": ["validation" if name == "receipt 6" else "train" for _, name in rows],
    }
    pq.write_table(pa.table(table), tmp_path / "sroie-lines.parquet")
    monkeypatch.setenv("INTERMODAL_DATA", str(tmp_path))


@pytest.mark.usefixtures("receipts")
def test_receipts_are_set_aside_whole_and_only_in_training_lines_are_drawn_or_worn():
    assert len(ReceiptLines().open("train")) == 12 and len(ReceiptLines().open("validation")) == 2
    parted = ReceiptLines(aside=3, drawn=0.5, worn=1.0)
    train, aside = parted.open("train"), parted.open("aside")
    assert aside.texts() == ["2-0", "2-1", "5-0", "5-1"] and not set(train.texts()) & set(aside.texts())
    assert len(train) == 8
    assert aside.sample(0)["image"].tobytes() == aside.sample(0)["image"].tobytes()
    said = [train.sample(0, np.random.default_rng(seed)) for seed in range(20)]
    assert 3 < sum(sample["text"] == "0-0" for sample in said) < 17
    assert len({sample["image"].tobytes() for sample in said if sample["text"] == "0-0"}) > 3
    with pytest.raises(DataError, match="aside"):
        ReceiptLines().open("aside")
    with pytest.raises(ConfigError, match="at least 2"):
        ReceiptLines(aside=1)

"""Draw the pictures of the page on TrOCR: ``python docs/figures_trocr.py [RUN]`` (seconds).

Lines as they are drawn for training, and a page with the lines that are found in it. With a finished run of the recipe
also lines of SROIE, what is read in them and where the decoder looked (needs INTERMODAL_DATA).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from intermodal.data.ocr import ReceiptLines, Wear, draw_line, made_up
from intermodal.data.page import lines
from intermodal.evaluate.reading_picture import draw_reading
from intermodal.hub.load import load
from intermodal.methods.vision_language.trocr import TrOCR

IMAGES = Path(__file__).resolve().parent / "images"
TEXT = (
    "THE SMALL SHOP",
    "12 HIGH STREET",
    "02/11/2026 14:05",
    "TEA      2 x 1.80   3.60",
    "CAKE     1 x 4.25   4.25",
    "TOTAL 7.85",
)
MARK = (200, 60, 40)
CLEAN = Wear(turn=0.0, blur=0.3, noise=0.0, paper=0.0)


def drawn(count: int = 14) -> Image.Image:
    """Return lines as they are drawn for training, in two columns."""
    sheet = Image.new("L", (900, 52 * (count // 2)), 255)
    for number in range(count):
        line = draw_line(made_up(np.random.default_rng(number), most=24), np.random.default_rng(number))
        line.thumbnail((430, 44))
        sheet.paste(line, (10 + 450 * (number % 2), 4 + 52 * (number // 2)))
    return sheet


def page() -> Image.Image:
    """Return a page with a box around each line that is found."""
    sheet = Image.new("L", (620, 64 * len(TEXT) + 30), 236)
    rng = np.random.default_rng(3)
    for number, text in enumerate(TEXT):
        line = draw_line(text, np.random.default_rng(number + 20), CLEAN)
        ink = line.resize((round(line.width * 32 / line.height), 32)).point(lambda v: 0 if v < 170 else 236)
        sheet.paste(ink, (24 + int(rng.integers(0, 30)), 20 + 64 * number))
    marked = sheet.convert("RGB")
    pen = ImageDraw.Draw(marked)
    for left, top, right, bottom in lines(sheet):
        pen.rectangle((left, top, right - 1, bottom - 1), outline=MARK, width=2)
    return marked


def looking(run: str) -> Image.Image:
    """Return some validation lines, and where a trained reader looked for each character that it read."""
    model, source = load(run), ReceiptLines().open("validation")
    assert isinstance(model, TrOCR)
    return draw_reading([model.looks_of(source.sample(i)["image"]) for i in (10, 200, 700)])


if __name__ == "__main__":
    drawn().save(IMAGES / "trocr-lines.png", optimize=True)
    page().save(IMAGES / "trocr-page.png", optimize=True)
    if len(sys.argv) > 1:
        looking(sys.argv[1]).save(IMAGES / "trocr-looking.png", optimize=True)

"""The evaluation of captioners: figures of a captioner that says what is given, baselines, and the picture of looking."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from intermodal.core.captioning import Caption
from intermodal.core.errors import DataError
from intermodal.core.progress import silent
from intermodal.evaluate.captions import evaluate_captions
from intermodal.evaluate.looking_picture import draw_looking, lit
from toy_captioner import TEXTS, Colours, pictures, tiny


class Parrot:
    """Says the right text of each picture, by its colour; embeds a colour as itself."""

    id = "parrot"
    modalities = ("image", "text")

    def __init__(self, says: list[str]) -> None:
        self.says = dict(zip([p.getpixel((0, 0)) for p in pictures()], says, strict=True))

    def caption(self, images, settings=None, *, watch=None):
        return [Caption(self.says[image.convert("RGB").getpixel((0, 0))], -1.0, 4) for image in images]

    def embed(self, modality, inputs):
        def place(x):
            return (
                TEXTS.index(x)
                if isinstance(x, str)
                else [p.getpixel((0, 0)) for p in pictures()].index(x.getpixel((0, 0)))
            )

        return np.eye(4, dtype=np.float32)[[place(x) for x in inputs]].reshape(-1, 4)


def test_right_captions_are_perfect_and_one_for_all_is_not():
    found = evaluate_captions(Parrot(TEXTS), Colours(), "test", silent)
    m = found.metrics
    # Three words: no 4-gram, so CIDEr is the mean of three cosines of 1 and nothing, and BLEU-4 is 0.
    assert next(iter(m)) == "cider" and m["cider"] == pytest.approx(7.5)
    assert (m["bleu4"], m["rouge_l"], m["distinct"], m["clip_score"], m["r1"]) == pytest.approx((0, 1, 1, 2.5, 1))
    assert m["nearest_cider"] == pytest.approx(7.5)  # the training pictures are the same
    assert m["frequent_cider"] == pytest.approx(7.5 / 4) and m["frequent_distinct"] == 0.25
    assert found.headline is not None and "repeat" not in found.headline.sentence

    same = evaluate_captions(Parrot([TEXTS[1]] * 4), Colours(), "test", silent)
    assert same.metrics["cider"] == pytest.approx(7.5 / 4) and same.metrics["clip_score"] == pytest.approx(2.5 / 4)
    quick = evaluate_captions(Parrot(TEXTS), Colours(), "test", silent, full=False)
    assert quick.panels == [] and quick.metrics["cider"] == pytest.approx(7.5)


def test_a_real_captioner_is_judged_and_shows_where_words_look():
    model = tiny(resnet=True).eval()
    looks, grid = model.looks_of(pictures())
    assert grid == (2, 2) and all(weights.shape == (len(words), 4) for _, words, weights in looks)
    found = evaluate_captions(model, Colours(), "test", silent)
    assert {"captions", "what it writes"} <= {panel.title.lower() for panel in found.panels}


def test_light_falls_where_words_look():
    white = Image.new("RGB", (8, 8), (200, 200, 200))
    found = lit(white, np.array([[2.0, 0.0]]))
    assert found[0, 0, 0] == 200 and found[0, -1, 0] == 30
    drawn = draw_looking([(white, ["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]]))], (1, 2))
    assert drawn.width > 8 * 90
    with pytest.raises(DataError, match="do not fit"):
        draw_looking([(white, ["a"], np.ones((1, 3)))], (1, 2))
    with pytest.raises(DataError, match="Nothing to draw"):
        draw_looking([], (1, 2))

"""The picture of CTC's lattice: where the colours and the path are."""

import numpy as np
import pytest

from intermodal.core.errors import DataError
from intermodal.core.transcript import Emissions
from intermodal.evaluate.ctc_lattice import draw_lattice


def _emissions(symbols):
    probs = np.full((len(symbols), 4), 0.01, np.float32)
    probs[np.arange(len(symbols)), symbols] = 0.97
    return Emissions(np.log(probs), ("_", "A", "$", " "), 0, 0.03)


def test_the_occupied_states_are_dark_and_the_others_light():
    image = np.asarray(draw_lattice(_emissions([0] * 20 + [1] * 20 + [0] * 20), [1])).astype(int)
    height, width, _ = image.shape
    assert width == 1600
    dark = (image.sum(2) < 200).mean(0)  # of each column
    assert (dark[int(width * 0.1) : int(width * 0.9)] > 0).all()
    top, bottom = image[: height // 2], image[height // 2 :]
    ink = [(half.sum(2) < 200)[:, : width // 4].sum() for half in (top, bottom)]
    assert ink[1] > ink[0]  # at the start the path is in the first blank, which stands below


@pytest.mark.parametrize("text", [[], [1], [2, 3, 2], [1] * 10, [1, 2, 3] * 30])
def test_texts_of_any_length_and_symbol_are_drawn(text):
    assert draw_lattice(_emissions([0, 1, 2, 3] * 30), text).size[0] == 1600


def test_a_text_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="needs 3 frames"):
        draw_lattice(_emissions([0, 1]), [1, 1])

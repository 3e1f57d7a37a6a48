"""How captions may be asked for."""

from __future__ import annotations

import math

import pytest

from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError
from intermodal.index.captioning import caption_settings


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beam": 0}, "beam is 1 to"),
        ({"beam": 2, "temperature": 0.5}, "searches and draws nothing"),
        ({"temperature": -1.0}, "at least 0"),
        ({"temperature": math.inf}, "finite"),
        ({"top_k": 5}, "temperature above 0"),
        ({"temperature": 1.0, "top_k": 0}, "at least 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "at most 1"),
        ({"most": 0}, "1 to"),
        ({"length_penalty": math.nan}, "finite"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Captioning(**wrong)


def test_what_is_not_given_is_the_default_and_drawing_needs_a_temperature():
    assert caption_settings({"beam": None, "top_k": None}) == Captioning()
    assert caption_settings({"top_p": 0.9}) == Captioning(temperature=1.0, top_p=0.9)
    with pytest.raises(ConfigError, match="temperature above 0"):
        caption_settings({"top_k": 3, "temperature": 0.0})

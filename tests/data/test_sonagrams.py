"""Pictures of sounds: a tone lies at its frequency, a word stands in the middle, silence is white."""

import os

import numpy as np
import pytest

from intermodal.data.sonagrams import SonagramSource, sonagram
from intermodal.data.speech import SpeechSource


@pytest.mark.parametrize("frequency", [500.0, 1500.0, 3000.0])
def test_a_tone_lies_at_its_frequency(frequency):
    """The darkest row is that of the tone, counted from below; 64 rows are 0 to 4 kHz."""
    time = np.arange(8000) / 8000
    grey = np.asarray(sonagram(np.sin(2 * np.pi * frequency * time), 8000, 64, 0.0125).convert("L"), np.float64)
    assert grey.shape == (64, 64)
    row = 63 - int(grey.mean(1).argmin())
    assert row * 4000 / 63 == pytest.approx(frequency, abs=60)


def test_a_short_word_stands_in_the_middle_and_a_long_one_loses_both_ends():
    """Noise of a fifth of a second, and of three."""
    rng = np.random.default_rng(0)
    grey = np.asarray(sonagram(rng.normal(size=1600), 8000, 64, 0.0125).convert("L"), np.float64).mean(0)
    dark = np.flatnonzero(grey < 200)
    assert abs((dark.min() + dark.max()) / 2 - 31.5) <= 1.5
    assert len(dark) == pytest.approx(1600 / 100, abs=3)
    tone = np.concatenate([np.zeros(8000), rng.normal(size=8000), np.zeros(8000)])
    assert np.asarray(sonagram(tone, 8000, 64, 0.0125).convert("L")).mean() < 150


@pytest.mark.parametrize("samples", [np.zeros(8000), np.zeros(0), np.ones(1)])
def test_silence_and_nothing_give_a_picture(samples):
    """No loudest, no samples: a picture all the same."""
    assert sonagram(samples, 8000, 32, 0.01).size == (32, 32)


@pytest.mark.skipif("INTERMODAL_DATA" not in os.environ, reason="INTERMODAL_DATA is not set")
def test_a_source_of_spoken_words():
    """Pictures, and what is said as class; a speaker left out is the test."""
    source = SonagramSource(speech=SpeechSource(path="fsdd", validation_share=0.0, left_out="theo"))
    test = source.open("test")
    assert set(test.labels()) == set(source.open("train").labels()) and len(set(test.labels())) == 10
    sample = test.sample(3)
    assert sample["image"].size == (64, 64) and sample["label"] == sample["text"] == test.labels()[3]

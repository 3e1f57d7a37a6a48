"""Recordings through other channels: the tilt is what it says, the noise as loud as drawn, the rest as it was."""

from __future__ import annotations

import numpy as np
import pytest

from intermodal.core.errors import ConfigError
from intermodal.data.channel import BROWN, ChannelConfig, through, tilt_gain, tilted

RATE = 8000


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def test_an_octave_is_so_many_decibels_louder():
    gain = tilt_gain(np.array([250.0, 500.0, 1000.0, 2000.0, 4000.0]), 6.0)
    np.testing.assert_allclose(20 * np.log10(gain), [-12, -6, 0, 6, 12], atol=1e-12)
    assert tilt_gain(np.array([0.0, 100.0]), 6.0)[0] == tilt_gain(np.array([0.0, 100.0]), 6.0)[1], "level below 100 Hz"


@pytest.mark.parametrize("tilt", [-6.0, 3.0])
def test_two_tones_are_apart_by_the_tilt(tilt):
    out = tilted(tone(500) + tone(2000), RATE, tilt)
    spectrum = np.abs(np.fft.rfft(out[1000:-1000]))
    bins = np.fft.rfftfreq(len(out) - 2000, 1 / RATE)
    low, high = (spectrum[np.abs(bins - f).argmin()] for f in (500, 2000))
    assert 20 * np.log10(high / low) == pytest.approx(2 * tilt, abs=0.1)
    assert rms(out) == pytest.approx(rms(tone(500) + tone(2000)), rel=1e-4)
    assert out.dtype == np.float32 and len(out) == RATE


def test_noise_is_as_loud_as_drawn_and_as_often():
    config = ChannelConfig(noise=(10.0, 10.0), share=0.5)
    speech, noisy = tone(440), []
    for seed in range(60):
        out = through(speech, RATE, config, np.random.default_rng(seed))
        if out is not speech:
            noisy.append(20 * np.log10(rms(speech) / rms(out - speech)))
    assert 15 <= len(noisy) <= 45
    np.testing.assert_allclose(noisy, 10.0, atol=0.01)
    assert BROWN < 0


def test_the_same_draw_gives_the_same_bits_and_nothing_asked_changes_nothing():
    config = ChannelConfig(tilt=6.0, noise=(5.0, 20.0), share=1.0)
    first, second = (through(tone(300), RATE, config, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second) and not np.allclose(first, tone(300))
    assert ChannelConfig().changes is False and config.changes
    same = through(tone(300), RATE, ChannelConfig(), np.random.default_rng(7))
    assert np.array_equal(same, tone(300))


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(50, np.float32)])
def test_silence_stays_silent(samples):
    config = ChannelConfig(tilt=6.0, noise=(5.0, 20.0), share=1.0)
    assert np.array_equal(through(samples, RATE, config, np.random.default_rng(0)), samples)


@pytest.mark.parametrize(
    "wrong", [{"tilt": -1.0}, {"share": 1.5}, {"noise": (20.0, 5.0)}, {"noise": (0.0, float("nan"))}]
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ConfigError):
        ChannelConfig(**wrong)


def test_training_recordings_alone_are_changed(tones, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    from intermodal.data.speech import SpeechSource

    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", tone(300 + i), RATE)
        (tmp_path / f"{i}.txt").write_text("A\n", encoding="utf-8")
    source = SpeechSource(path=tmp_path, channel=ChannelConfig(tilt=6.0), validation_share=0.5)
    train, held_out = source.open("train"), source.open("validation")
    rng = np.random.default_rng(0)
    assert not np.array_equal(train.sample(0, rng)["audio"].samples, train.sample(0)["audio"].samples)
    assert np.array_equal(held_out.sample(0, rng)["audio"].samples, held_out.sample(0)["audio"].samples)

"""Reading sound: formats, rates, channels, blocks, and everything that can be wrong with a file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import DataError
from intermodal.data.audio import Waveform, audio_blocks, audio_info, notes_on, read_audio, resample

RATE = 16_000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **({"format": "WAV"} | options))
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"subtype": "FLOAT"}, 0.0),
        ({"subtype": "PCM_16"}, 2**-15),
        ({"subtype": "PCM_24"}, 2**-23),
        ({"subtype": "PCM_U8"}, 2**-7),
        ({"subtype": "ULAW"}, 0.02),
        ({"format": "FLAC", "subtype": "PCM_24"}, 2**-23),
    ],
)
def test_samples_are_those_that_were_written(options, tolerance):
    wave = read_audio(encoded(tone(), **options))
    assert wave.rate == RATE
    assert wave.samples.dtype == np.float32
    np.testing.assert_allclose(wave.samples, tone(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "options", [{"format": "OGG", "subtype": "VORBIS"}, {"format": "MP3", "subtype": "MPEG_LAYER_III"}]
)
def test_lossy_formats_are_read(options):
    wave = read_audio(encoded(tone(1.0), **options))
    assert abs(wave.seconds - 1.0) < 0.1
    assert np.corrcoef(np.abs(np.fft.rfft(wave.samples[:15_000])), np.abs(np.fft.rfft(tone(1.0)[:15_000])))[0, 1] > 0.99


def test_channels_are_averaged():
    left, right = tone(), np.zeros_like(tone())
    np.testing.assert_allclose(
        read_audio(encoded(np.stack([left, right], 1), subtype="FLOAT")).samples, left / 2, atol=1e-7
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled_to_the_same_tone(rate):
    wave = read_audio(encoded(tone(1.0, rate), rate, subtype="FLOAT"), RATE)
    assert len(wave.samples) == RATE
    np.testing.assert_allclose(wave.samples[1000:-1000], tone(1.0)[1000:-1000], atol=2e-3)


def test_resampling_is_soxrs():
    np.testing.assert_array_equal(resample(tone(), RATE, 8_000), soxr.resample(tone(), RATE, 8_000))
    np.testing.assert_array_equal(resample(tone(), RATE, RATE), tone())


@settings(max_examples=15, deadline=None)
@given(seconds=st.floats(0.01, 3.0), block=st.floats(0.05, 2.0), rate=st.sampled_from([8_000, 16_000, 44_100]))
def test_blocks_together_are_the_whole(seconds, block, rate):
    data = encoded(tone(seconds, rate), rate, subtype="FLOAT")
    blocks = list(audio_blocks(data, RATE, block))
    size = round(block * RATE)
    assert all(len(b) == size for b in blocks[:-1])
    whole = read_audio(data, RATE).samples
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


def test_blocks_of_a_waveform():
    blocks = list(audio_blocks(Waveform(tone(1.0), RATE), RATE, 0.3))
    assert [len(b) for b in blocks] == [4800, 4800, 4800, 1600]


def test_info_reads_the_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(), tone()], 1), RATE, subtype="PCM_24")
    info = audio_info(tmp_path / "a.wav")
    assert (info.rate, info.channels, info.frames, info.seconds) == (RATE, 2, 8000, 0.5)
    assert "PCM_24" in info.format


def test_bad_files_are_said_to_be_bad(tmp_path):
    (tmp_path / "text.wav").write_text("not a sound at all\n" * 50)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0], np.float32), RATE, subtype="FLOAT")
    whole = encoded(tone(2.0), format="FLAC")
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    for name, word in {
        "text.wav": "cannot be read as sound",
        "empty.wav": "empty file",
        "nothing.wav": "no sample",
        "nan.wav": "not a finite number",
        "cut.flac": "cut short|damaged",
        "missing.wav": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(DataError, match=word):
            read_audio(tmp_path / name)
        with pytest.raises(DataError, match=word):
            list(audio_blocks(tmp_path / name, RATE))
    with pytest.raises(DataError, match="no sound"):
        read_audio(3)
    with pytest.raises(DataError, match="mono"):
        read_audio(Waveform(np.zeros((2, 5), np.float32), RATE))


def test_notes_say_what_is_odd():
    assert notes_on(tone(), RATE, RATE) == ()
    assert "silent" in " ".join(notes_on(np.zeros(RATE, np.float32), RATE))
    assert "too short" in " ".join(notes_on(np.ones(1, np.float32) * 0.1, RATE))
    assert "clipped" in " ".join(notes_on(np.clip(10 * tone(), -1, 1), RATE))
    assert "misses the higher" in " ".join(notes_on(tone(), 8_000, RATE))


def test_a_struct_of_bytes_and_path_is_read():
    wave = read_audio({"bytes": encoded(tone(), subtype="FLOAT"), "path": "a.wav"})
    assert wave.name == "a.wav"
    np.testing.assert_array_equal(wave.samples, tone())

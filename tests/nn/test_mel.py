"""Mel scales and filter banks against librosa, scipy and their definitions."""

import numpy as np
import pytest

from intermodal.core.errors import ConfigError
from intermodal.nn.mel import dct_matrix, empty_filters, filter_bank, hz_to_mel, lifter_weights, mel_edges, mel_to_hz

HERTZ = np.array([0.0, 20.0, 299.9, 700.0, 999.999, 1000.0, 1000.001, 3333.3, 8000.0, 22050.0])


@pytest.mark.parametrize("htk", [False, True])
def test_scales_are_librosas(htk):
    librosa = pytest.importorskip("librosa")
    scale = "htk" if htk else "slaney"
    mel = hz_to_mel(HERTZ, scale)
    np.testing.assert_allclose(mel, librosa.hz_to_mel(HERTZ, htk=htk), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mel_to_hz(mel, scale), HERTZ, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mel_to_hz(mel, scale), librosa.mel_to_hz(mel, htk=htk), rtol=1e-12, atol=1e-10)


def test_points_that_the_definitions_state():
    assert hz_to_mel(1000.0, "slaney") == pytest.approx(15.0)  # Slaney: 66.67 Hz a mel up to 1,000 Hz
    assert hz_to_mel(6400.0, "slaney") == pytest.approx(42.0)  # and 27 more take it to 6.4 times that
    assert hz_to_mel(700.0, "htk") == pytest.approx(2595 * np.log10(2))
    np.testing.assert_allclose(hz_to_mel(HERTZ, "htk"), hz_to_mel(HERTZ, "kaldi"), rtol=1e-4)  # 1127 is a rounding
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(HERTZ, "kaldi"), "kaldi"), HERTZ, atol=1e-9)


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize(
    ("rate", "fft", "bins", "low", "high"),
    [(16000, 400, 80, 0.0, None), (8000, 256, 23, 64.0, 3800.0), (22050, 2048, 128, 0, None)],
)
def test_banks_over_hertz_are_librosas(htk, area, rate, fft, bins, low, high):
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(
        sr=rate, n_fft=fft, n_mels=bins, fmin=low, fmax=high, htk=htk, norm="slaney" if area else None, dtype=np.float64
    )
    ours = filter_bank("htk" if htk else "slaney", bins, fft, rate, low=low, high=high, area=area)
    assert ours.shape == (fft // 2 + 1, bins)
    np.testing.assert_allclose(ours.T, theirs, rtol=1e-9, atol=1e-12)


def test_kaldis_bank_is_its_definition():
    bins, fft, rate, low, high = 23, 512, 16000, 20.0, 7600.0
    mel = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)  # noqa: E731
    step = (mel(high) - mel(low)) / (bins + 1)
    wanted = np.zeros((fft // 2 + 1, bins))
    for m in range(bins):
        left, centre, right = (mel(low) + (m + i) * step for i in range(3))
        for k in range(fft // 2):  # Kaldi leaves the last frequency out
            at = mel(k * rate / fft)
            if left < at < right:
                wanted[k, m] = (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)
    np.testing.assert_allclose(filter_bank("kaldi", bins, fft, rate, low=low, high=high), wanted, atol=1e-12)


def test_an_area_of_one_is_what_slaney_means():
    edges = mel_edges("slaney", 40, 0.0, 8000.0)
    heights = 2 / (edges[2:] - edges[:-2])
    plain, area = filter_bank("slaney", 40, 8192, 16000, area=False), filter_bank("slaney", 40, 8192, 16000)
    np.testing.assert_allclose(area, plain * heights)
    np.testing.assert_allclose(area.sum(0) * 16000 / 8192, 1.0, atol=0.01)


def test_filters_that_meet_no_frequency_are_counted():
    assert empty_filters(filter_bank("htk", 23, 256, 8000, low=20.0)) == 0
    assert empty_filters(filter_bank("htk", 128, 256, 8000, low=20.0)) > 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"bins": 0}, "bins=0"), ({"low": 5000.0}, "in order"), ({"high": 9000.0}, "half of"), ({"low": -1.0}, "-1")],
)
def test_banks_that_cannot_be_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        filter_bank(**{"scale": "htk", "bins": 10, "fft": 256, "rate": 8000, **changes})


@pytest.mark.parametrize(("bins", "kept"), [(23, 13), (80, 80), (1, 1)])
def test_the_cosine_transform_is_scipys(bins, kept):
    fft = pytest.importorskip("scipy.fft")
    value = np.random.default_rng(0).standard_normal((5, bins))
    np.testing.assert_allclose(
        value @ dct_matrix(bins, kept), fft.dct(value, type=2, norm="ortho", axis=1)[:, :kept], atol=1e-12
    )
    with pytest.raises(ConfigError, match="coefficients"):
        dct_matrix(bins, bins + 1)


def test_lifter_is_that_of_the_htk_book():
    wanted = [1 + 22 / 2 * np.sin(np.pi * n / 22) for n in range(13)]
    np.testing.assert_allclose(lifter_weights(13, 22.0), wanted)
    assert (lifter_weights(5, 0.0) == 1).all()

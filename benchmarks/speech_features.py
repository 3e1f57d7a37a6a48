"""Log-mel bands and MFCC of speech, beside librosa and kaldi-native-fbank: a 60 s recording and a batch of 32 of 10 s.

Each case checks first that all contenders compute the same numbers. librosa and kaldi-native-fbank take one recording at a
time. What a recording of 60 s at 16 kHz costs: 6,000 transforms of 512 points (some 70 MFLOP), and a product with 80 filters
over 257 frequencies that are nearly all zero, 250 MFLOP if done densely.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import harness
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures

RATE, FFT, HOP, WINDOW, BINS = 16000, 512, 160, 400, 80
LIBROSA, KALDI = "pip install librosa==0.11.0", "pip install kaldi-native-fbank==1.23"
Compute = Callable[[np.ndarray], np.ndarray]
"""Recordings ``(B, T)`` -> features ``(B, N, F)``."""


def waves(count: int, seconds: float) -> np.ndarray:
    """Return noise with tones, float32 ``(count, T)``."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal((count, len(time)))
    return (0.05 * noise + 0.2 * np.sin(2 * np.pi * 220 * time * (1 + 0.1 * time))).astype(np.float32)


def ours(config: FeatureConfig) -> Compute:
    module = SpeechFeatures(config)

    def compute(wave_BT: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(wave_BT))[0].numpy()

    return compute


def librosa_features(kind: str) -> Compute:
    import librosa

    def one(wave: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=FFT, hop_length=HOP, win_length=WINDOW, n_mels=BINS)
        level = librosa.power_to_db(mel, ref=1.0)
        return level.T if kind == "log_mel" else librosa.feature.mfcc(S=level, n_mfcc=20).T

    return lambda wave_BT: np.stack([one(wave) for wave in wave_BT])


def kaldi_features(kind: str) -> Compute:
    import kaldi_native_fbank as knf

    options = knf.FbankOptions() if kind == "log_mel" else knf.MfccOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0, BINS

    def one(wave: np.ndarray) -> np.ndarray:
        online = knf.OnlineFbank(options) if kind == "log_mel" else knf.OnlineMfcc(options)
        online.accept_waveform(RATE, wave * 32768)
        online.input_finished()
        return np.stack([online.get_frame(i) for i in range(online.num_frames_ready)])

    return lambda wave_BT: np.stack([one(wave) for wave in wave_BT])


def contender(
    name: str, build: Callable[[], Compute], check: Callable[[], Compute], **sizes: object
) -> harness.Contender:
    """Return a contender whose features equal those of ``check``."""
    wave_BT, install = sizes["wave"], str(sizes["install"])
    assert isinstance(wave_BT, np.ndarray)

    def make() -> harness.Step:
        compute = build()
        found, wanted = compute(wave_BT[:2, : 2 * RATE]), check()(wave_BT[:2, : 2 * RATE])
        assert found.shape == wanted.shape, (name, found.shape, wanted.shape)
        worst = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        assert worst < 1e-4, f"{name} computes something else: {worst:.1e} of the scale."
        return lambda: float(compute(wave_BT).mean(dtype=np.float64))

    return harness.Contender(name, make, install)


def case(kind: str, count: int, seconds: float, repeats: int) -> harness.Case:
    """Return librosa's features and Kaldi's, each computed by us and by them."""
    wave = waves(count, seconds)
    as_librosa = FeatureConfig.librosa(rate=RATE, fft=FFT, hop=HOP, window_ms=25.0, bins=BINS, kind=kind)
    as_kaldi = FeatureConfig.kaldi(rate=RATE, bins=BINS, kind=kind)
    pairs = [
        ("intermodal, librosa's", as_librosa, "librosa", lambda: librosa_features(kind), LIBROSA),
        ("intermodal, Kaldi's", as_kaldi, "kaldi-native-fbank", lambda: kaldi_features(kind), KALDI),
    ]
    contenders = []
    for name, config, peer, theirs, install in pairs:
        for who, build in ((name, lambda c=config: ours(c)), (peer, theirs)):
            contenders.append(contender(who, build, theirs, wave=wave, install=install))
    title = f"{'log-mel, 80 bands' if kind == 'log_mel' else 'MFCC'}: {count} x {seconds:g} s at 16 kHz"
    return harness.Case(title, contenders, repeats)


def cases(quick: bool) -> list[harness.Case]:
    """Return log-mel and MFCC of one long recording and of a batch."""
    if quick:
        return [case("log_mel", 1, 3.0, 1), case("mfcc", 2, 2.0, 1)]
    return [case(kind, *sizes, 5) for kind in ("log_mel", "mfcc") for sizes in ((1, 60.0), (32, 10.0))]

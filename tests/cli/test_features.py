"""``intermodal features``: what is said, written and drawn, of recordings of every kind and of files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from intermodal.core.config import Config
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures

Cli = Any


def sound(samples: int, rate: int = 16000) -> np.ndarray:
    time = np.arange(samples) / rate
    noise = np.random.default_rng(0).standard_normal(samples) * 0.02
    return (0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)) + noise).astype(np.float32)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", sound(9000), 16000, subtype="FLOAT")
    return tmp_path / "a.wav"


def test_numbers_are_those_of_the_module(cli: Cli, recording: Path) -> None:
    ran = cli("features", recording, "--out", "a.npz", "--deltas", 1)
    assert ran.code == 0
    assert "57 frames of 160 features: log-mel bands" in ran.out and "one frame every 10 ms" in ran.out
    with np.load("a.npz") as found:
        matrix, config = found["features"], Config.from_json(str(found["config"]))
        assert found["hop_seconds"] == 0.01 and found["rate"] == 16000
    assert config == FeatureConfig(deltas=1)
    wanted, _ = SpeechFeatures(FeatureConfig(deltas=1))(torch.from_numpy(sound(9000))[None])
    np.testing.assert_allclose(matrix, wanted[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["--kind", "mfcc", "--cmvn", "sliding"], FeatureConfig(kind="mfcc", cmvn="sliding")),
        (["--kind", "spectrum", "--cmvn", "utterance"], FeatureConfig(kind="spectrum", cmvn="utterance")),
        (["--like", "kaldi", "--bins", "40"], FeatureConfig.kaldi(bins=40)),
        (["--like", "librosa", "--kind", "mfcc"], FeatureConfig.librosa(rate=16000, kind="mfcc")),
    ],
)
def test_kinds_and_whose(cli: Cli, recording: Path, words: list[str], config: FeatureConfig) -> None:
    assert cli("features", recording, *words, "-o", "a.npy").code == 0
    wanted, _ = SpeechFeatures(config)(torch.from_numpy(sound(9000))[None])
    np.testing.assert_allclose(np.load("a.npy"), wanted[0].numpy(), atol=1e-3)


def test_whispers_are_of_thirty_seconds(cli: Cli, recording: Path) -> None:
    ran = cli("features", recording, "--like", "whisper", "--json")
    about = json.loads(ran.out)
    assert (about["frames"], about["features"], about["computed_at"]) == (3000, 80, 16000)
    ran = cli("features", recording, "--like", "whisper", "--kind", "mfcc")
    assert ran.code == 2 and "Whisper" in ran.sentence


def test_the_picture_of_every_step(cli: Cli, recording: Path) -> None:
    assert cli("features", recording, "--plot", "a.png").code == 0
    with Image.open("a.png") as image:
        assert image.width == 1500 and np.asarray(image).std() > 20
    ran = cli("features", recording, "--plot", "a.png")
    assert ran.code == 2 and "--overwrite" in ran.sentence
    assert cli("features", recording, "--plot", "a.png", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("name", "samples", "rate", "options"),
    [
        ("silence", np.zeros(4000, np.float32), 16000, {}),
        ("one sample", sound(1), 16000, {}),
        ("two samples", sound(2), 8000, {}),
        ("stereo", np.stack([sound(5000), sound(5000)], 1), 44100, {"subtype": "PCM_24"}),
        ("telephone", sound(4000, 8000), 8000, {"subtype": "ULAW"}),
        ("slow", sound(900, 2000), 2000, {}),
        ("clipped", np.clip(sound(5000) * 30, -1, 1), 16000, {}),
    ],
)
def test_recordings_of_every_kind(cli: Cli, tmp_path: Path, name: str, samples: Any, rate: int, options: Any) -> None:
    path = tmp_path / f"{name}.wav"
    soundfile.write(path, samples, rate, **options)
    drawn = ["--plot", "a.png"] if name in ("one sample", "two samples", "silence") else []
    ran = cli("features", path, *drawn, "--out", "a.npy")
    assert ran.code == 0, ran.err
    matrix = np.load("a.npy")
    assert np.isfinite(matrix).all() and len(matrix) == 1 + len(samples) // round(rate / 100)
    if name in ("silence", "clipped"):
        assert {"silence": "silent", "clipped": "clipped"}[name] in ran.err


def test_what_is_no_recording_is_refused_in_words(cli: Cli, tmp_path: Path, recording: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    spoilt = sound(4000)
    spoilt[1000] = np.nan
    soundfile.write(tmp_path / "nan.wav", spoilt, 16000, subtype="FLOAT")
    cases = {
        "missing.wav": "does not exist", "text.wav": "cannot be read as sound", "empty.wav": "empty",
        "nan.wav": "not a finite number", ".": "folder",
    }  # fmt: skip
    for name, words in cases.items():
        ran = cli("features", tmp_path / name, "--out", "x.npy")
        assert ran.code == 2 and words in ran.sentence, name
        assert not Path("x.npy").exists()
    for words, said in (
        (["--out", "a.txt"], ".npy or .npz"),
        (["--plot", "a.jpg"], ".png"),
        (["--bins", "5000"], "fewer bins"),
        (["--rate", "3"], "rate"),
        (["--kind", "mfcc", "--coefficients", "200"], "coefficients"),
        (["--deltas", "3"], "deltas"),
    ):
        ran = cli("features", recording, *words)
        assert ran.code == 2 and said in ran.sentence, words


def test_a_long_recording_is_heard_in_blocks(cli: Cli, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", sound(8000 * 70, 8000), 8000)
    assert cli("features", tmp_path / "long.wav", "--out", "a.npy", "--deltas", 2).code == 0
    samples, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    wanted, _ = SpeechFeatures(FeatureConfig(rate=8000, bins=40, deltas=2))(torch.from_numpy(samples)[None])
    np.testing.assert_allclose(np.load("a.npy"), wanted[0].numpy(), atol=2e-3)

"""The reader of isolated words: padding, determinism, capabilities, what it learns, what its evaluation says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from intermodal.core.errors import ConfigError
from intermodal.core.progress import silent
from intermodal.core.transcript import Transcribing
from intermodal.data.audio import Waveform
from intermodal.data.batches import stack
from intermodal.data.processors import LabelProcessor
from intermodal.data.speech import SpeechSource
from intermodal.data.transcripts import AudioProcessor
from intermodal.evaluate.mel import STRETCHES, evaluate_mel, feature_steps, stretch_means
from intermodal.methods.speech.mel import MelConfig, MelReader
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig
from intermodal.recipes import get_recipe

RATE = 8000
TONES = {"high": 1500.0, "low": 300.0, "middle": 700.0}


def tone(word: str, seed: int, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(rng.integers(rate // 8, rate // 3))) / rate
    hertz = TONES[word] * rng.uniform(0.95, 1.05)
    return (0.3 * np.sin(2 * np.pi * hertz * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def reader(**changes: object) -> MelReader:
    features = FeatureConfig(rate=RATE, bins=20, cmvn="none", deltas=1)
    config = MelConfig(**{"features": features, "dim": 8, "dilations": (1, 2), **changes})
    torch.manual_seed(0)
    processors = {"audio": AudioProcessor(rate=RATE), "text": LabelProcessor.of(TONES)}
    return MelReader(config, processors)


def batch(count: int = 6) -> dict[str, torch.Tensor]:
    words = [sorted(TONES)[i % 3] for i in range(count)]
    waves = [torch.from_numpy(tone(word, i)) for i, word in enumerate(words)]
    made = stack([{"audio": w, "audio_length": torch.tensor(len(w))} for w in waves])
    made["text"] = torch.tensor([sorted(TONES).index(word) for word in words])
    made["seed"] = torch.arange(count)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of recordings in folders of words, by two speakers."""
    import json

    lines = []
    for i in range(24):
        word = sorted(TONES)[i % 3]
        soundfile.write(tmp_path / f"{i:02d}.wav", tone(word, i), RATE)
        lines.append({"audio": f"{i:02d}.wav", "text": word, "speaker": f"speaker{i % 4}"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_padding_changes_nothing():
    method = reader().eval()
    made = batch()
    pooled = method.hear(*method.features(made["audio"], made["audio_length"]))
    for i, length in enumerate(made["audio_length"].tolist()):
        alone = method.hear(*method.features(made["audio"][i : i + 1, :length], torch.tensor([length])))
        torch.testing.assert_close(pooled[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_chance_comes_from_the_seed_alone():
    method = reader(augment=SpecAugmentConfig(), dropout=0.5).train()
    made = batch()
    first, again = method.loss(made).total, method.loss(made).total
    assert torch.equal(first, again)
    other = method.loss({**made, "seed": made["seed"] + 1}).total
    assert not torch.equal(first, other)
    assert torch.equal(method.eval().loss(made).total, method.loss({**made, "seed": made["seed"] + 1}).total)


def test_it_learns_tones_and_writes_them_down(tmp_path):
    method = reader().train()
    descent = torch.optim.Adam(method.parameters(), 0.01)
    for _ in range(60):
        descent.zero_grad()
        method.loss(batch(12)).total.backward()
        descent.step()
    method.save(tmp_path / "model")
    method = MelReader.load(tmp_path / "model")
    unseen = [Waveform(tone(word, 500 + i), RATE) for i, word in enumerate(sorted(TONES) * 3)]
    written = method.transcribe(unseen, Transcribing(beam=3, n_best=3))
    assert [t.text for t in written] == sorted(TONES) * 3
    best = written[0]
    assert best.words[0].start == 0 and best.words[0].end == pytest.approx(best.seconds)
    assert 0 < best.words[0].confidence <= 1 and best.alternatives[0].text == best.text
    assert sum(np.exp(h.score) for h in best.alternatives) == pytest.approx(1, abs=1e-4)
    vectors = method.embed("audio", unseen)
    assert vectors.shape == (9, 16) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert method.embed("audio", []).shape == (0, 16) and method.transcribe([]) == []
    same = Waveform(tone("low", 600, 16000), 16000)
    assert method.transcribe([same])[0].text == "low"
    with pytest.raises(ConfigError, match="audio"):
        method.embed("image", [])


def test_odd_recordings_are_read_and_noted():
    method = reader().eval()
    silent_, single = method.transcribe(
        [Waveform(np.zeros(3000, np.float32), RATE), Waveform(np.ones(1, np.float32) / 2, RATE)]
    )
    assert any("silent" in note for note in silent_.notes) and any("too short" in note for note in single.notes)
    kaldi = reader(features=FeatureConfig.kaldi(rate=RATE)).eval()  # which has no frame for one sample
    assert kaldi.transcribe([Waveform(np.ones(1, np.float32) / 2, RATE)])[0].text in TONES


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"dim": 0}, "channels"),
        ({"kernel": 4}, "odd"),
        ({"dilations": (0,)}, "dilations"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_readers_that_cannot_be_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        MelConfig(**changes)


def test_rates_of_recordings_and_features_must_agree():
    with pytest.raises(ConfigError, match="16000"):
        MelReader(MelConfig(features=FeatureConfig()), reader().processors)


def test_stretch_means_are_means():
    feature, frames = torch.randn(3, 25, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([25, 7, 0])
    found = stretch_means(feature, frames, 10)
    for i, count in enumerate(frames.tolist()):
        for s in range(10):
            part = feature[i, s * count // 10 : -(-(s + 1) * count // 10)]
            wanted = part.mean(0) if len(part) else torch.zeros(4)
            torch.testing.assert_close(found[i, s], wanted)


def test_a_persons_folder_is_learnt_from_and_judged(folder):
    recipe = get_recipe("mel").on(SpeechSource(path=folder, validation_share=0.25)).smoke()
    recipe = recipe.replace(model__features=FeatureConfig(rate=RATE, bins=20, cmvn="global"))
    method = recipe.build()
    assert int(method.features.count) > 0 and method.words == tuple(sorted(TONES))
    found = evaluate_mel(method, recipe.source, "test", silent, full=True)
    keys = {step.key for step in feature_steps(method)}
    assert {f"probe_{key}" for key in keys} <= set(found.metrics) and {f"left_out_{key}" for key in keys} <= set(
        found.metrics
    )
    assert next(iter(found.metrics)) == "accuracy"
    assert found.metrics["probe_htk"] == 1.0  # tones are told apart by their bands
    table = next(p for p in found.panels if p.title == "What each step of the features buys")
    assert len(table.rows) == len(keys) and str(STRETCHES) in table.about
    quick = evaluate_mel(method, recipe.source, "validation", silent, full=False)
    assert set(quick.metrics) <= {"accuracy", "accuracy_worst_speaker"} and not quick.panels

"""What all recognisers share: batches, very long recordings window by window, notes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.transcript import Emissions, Transcribing, Transcript
from intermodal.data.audio import Waveform
from intermodal.data.transcripts import AudioProcessor
from intermodal.methods.speech.recogniser import BATCH_SECONDS, Recogniser

RATE, HOP = 8_000, 80


class Loudness(Recogniser):
    """Emits the loudness of each frame and of its neighbours: a recogniser whose context is known."""

    id = "toy"
    batches: list[int]

    def __init__(self) -> None:
        super().__init__(Config(), {"audio": AudioProcessor(rate=RATE)})
        self.needs = {}
        self.unused = nn.Parameter(torch.zeros(1))
        self.batches = []

    @property
    def frame_seconds(self) -> float:
        return HOP / RATE

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        return ("<blank>", "x"), 0

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(audio_BT))
        frames_B = (length_B + HOP - 1) // HOP
        padded = nn.functional.pad(audio_BT, (0, -audio_BT.shape[1] % HOP))
        loud_BU = padded.unflatten(1, (-1, HOP)).square().mean(-1).sqrt()
        around_BU = nn.functional.avg_pool1d(loud_BU[:, None], 21, 1, 10, count_include_pad=True)[:, 0]
        share = around_BU.clamp(1e-6, 1 - 1e-6)
        return torch.stack([(1 - share).log(), share.log()], -1), frames_B

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        return [Transcript(text=str(len(e.log_probs))) for e in emissions]


@pytest.fixture
def model() -> Loudness:
    return Loudness()


def noise(seconds: float, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform((rng.random(round(seconds * RATE)) * rng.random() * 0.5).astype(np.float32), RATE)


@pytest.mark.parametrize("seconds", [30.005, 31.0, 59.99, 60.0, 62.5, 95.3, 34.0, 64.0])
def test_a_long_recording_window_by_window_is_the_whole(model, seconds):
    wave = noise(seconds)
    whole, frames = model.emit(torch.from_numpy(wave.samples)[None], torch.tensor([len(wave.samples)]))
    found = model.emissions(wave)
    assert found.log_probs.shape == (int(frames[0]), 2)
    np.testing.assert_allclose(found.log_probs, whole[0].numpy(), atol=1e-5)


def test_a_long_file_of_another_rate_is_read_in_blocks(model, tmp_path):
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "long.wav", rng.random((70 * 16_000, 2)).astype(np.float32) * 0.3, 16_000)
    found = model.emissions(tmp_path / "long.wav")
    assert len(found.log_probs) == pytest.approx(70 * RATE / HOP, abs=2)
    assert model.transcribe([tmp_path / "long.wav"])[0].seconds == pytest.approx(70)


def test_transcripts_come_in_the_order_of_the_recordings(model):
    waves = [noise(s, i) for i, s in enumerate((0.5, 3.0, 1.0, 35.0, 0.2))]
    texts = [t.text for t in model.transcribe(waves)]
    assert texts == [str(-(-len(w.samples) // HOP)) for w in waves]
    assert [t.seconds for t in model.transcribe(waves)] == [w.seconds for w in waves]


def test_batches_hold_a_bounded_number_of_seconds(model):
    model.transcribe([noise(25.0, i) for i in range(10)])
    assert max(model.batches) <= BATCH_SECONDS / 25
    assert sum(model.batches) == 10


def test_what_is_odd_is_noted(model):
    silent, clipped = Waveform(np.zeros(RATE, np.float32), RATE), Waveform(np.ones(RATE, np.float32), RATE)
    low = Waveform(noise(1.0).samples, 4_000)
    notes = [" ".join(t.notes) for t in model.transcribe([silent, clipped, low, noise(1.0)])]
    assert [bool(n) for n in notes] == [True, True, True, False]
    assert "silent" in notes[0]
    assert "clipped" in notes[1]
    assert "4,000" in notes[2]


def test_unreadable_recordings_are_errors(model, tmp_path):
    (tmp_path / "text.wav").write_text("words")
    with pytest.raises(DataError, match="cannot be read as sound"):
        model.transcribe([tmp_path / "text.wav"])
    with pytest.raises(DataError, match="not a finite"):
        model.transcribe([Waveform(np.array([0.0, np.inf], np.float32), RATE)])


def test_memory_does_not_grow_with_the_recording(model, tmp_path):
    def peak(minutes: int) -> int:
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(np.full(60 * RATE, 0.1, np.float32))
        tracemalloc.start()
        model.transcribe([path])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20) < 1.5 * peak(3) + 20 * 60 * RATE / HOP * 8 * 2

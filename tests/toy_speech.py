"""Recordings of made-up words, whose letters are tones, for recognisers that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from intermodal.core.fields import Field
from intermodal.core.progress import silent
from intermodal.data.audio import Waveform
from intermodal.data.lexicon import Lexicon, WordProcessor
from intermodal.data.source import Source
from intermodal.data.transcripts import AUDIO, TRANSCRIPT, AudioProcessor
from intermodal.methods.speech.hmm import Hmm, HmmConfig
from intermodal.methods.speech.hmm_engine import HmmEngine, HmmPlan
from intermodal.nn.speech_features import FeatureConfig
from intermodal.nn.topology import Topology

RATE = 8000
TONES = {"A": 300.0, "B": 700.0, "C": 1300.0, "D": 2100.0}
WORDS = ("AB", "BA", "CAD", "DC")
LETTER, GAP = 0.12, 0.15
"""Seconds of a letter, and of the silence before, between and behind words."""


def said(text: str, seed: int = 0) -> Waveform:
    """Return a recording of a text, with noise."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(round(GAP * RATE))]
    for word in text.split():
        for letter in word:
            time = np.arange(round(LETTER * RATE)) / RATE
            parts.append(0.3 * np.sin(2 * np.pi * TONES.get(letter, 100.0) * time + rng.uniform(0, 6)))
        parts.append(np.zeros(round(GAP * RATE)))
    wave = np.concatenate(parts)
    return Waveform((wave + 0.01 * rng.normal(size=len(wave))).astype(np.float32), RATE)


def word_times(text: str) -> list[tuple[float, float]]:
    """Return where the words of :func:`said` begin and end."""
    times, place = [], GAP
    for word in text.split():
        times.append((place, place + LETTER * len(word)))
        place = times[-1][1] + GAP
    return times


class Said(Source):
    """Recordings of texts, in memory."""

    def __init__(self, texts: list[str]) -> None:
        self.name, self.spoken = "tones", texts
        self.fields = {"audio": AUDIO, "text": TRANSCRIPT, "speaker": Field((), "str", "who speaks")}

    def __len__(self) -> int:
        return len(self.spoken)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        del rng
        return {"audio": said(self.spoken[index], index), "text": self.spoken[index], "speaker": "nobody"}


def texts(count: int, seed: int = 0) -> list[str]:
    """Return sentences of one to three words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(count)]


def build(**changes: Any) -> Hmm:
    """Return an HMM that has learnt nothing, with letters for phones."""
    import torch

    torch.manual_seed(0)
    lexicon = Lexicon.spelling(WORDS)
    config = HmmConfig(
        topology=Topology(phones=lexicon.phones),
        features=FeatureConfig(kind="mfcc", rate=RATE, bins=20, deltas=1, cmvn="utterance"),
    )
    return Hmm(config.replace(**changes), {"audio": AudioProcessor(rate=RATE), "text": WordProcessor(lexicon=lexicon)})


def engine(method: Hmm, folder: Path, *, count: int = 24, steps: int = 0, **plan: Any) -> HmmEngine:
    """Return an engine over ``count`` recordings; by default a step is a pass."""
    settings = HmmPlan(**{"passes": 3, "splits": 0, "last_passes": 1, "least": 3.0, **plan})
    return method.native(
        source=Said(texts(count)), plan=settings, folder=folder, steps=steps or len(settings.stages()), progress=silent
    )


def trained(folder: Path, **plan: Any) -> Hmm:
    """Return an HMM that has learnt the words."""
    method = build()
    work = engine(method, folder, **plan)
    for number in range(work.steps):
        work.step(number)
    work.close()
    return method.eval()

"""Transcripts as characters and pieces, and batches of varying length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.audio import Waveform
from intermodal.data.batches import encode, stack
from intermodal.data.loader import POOL, EpochSampler
from intermodal.data.processors import Processor
from intermodal.data.transcripts import BLANK, AudioProcessor, CharacterProcessor, PieceProcessor

TEXTS = ["one two  three", "TWO two", "three ONE"]


def test_characters_round_trip():
    letters = CharacterProcessor.of(TEXTS)
    assert letters.symbols[:2] == (BLANK, " ")
    assert set(letters.symbols[2:]) == set("ONETWHR")
    assert letters.decode(letters.encode("two   one").tolist()) == "TWO ONE"
    assert CharacterProcessor.from_dict(letters.to_dict()) == letters


def test_strange_letters_are_all_named():
    with pytest.raises(DataError, match=r"'X', 'Y'"):
        CharacterProcessor.of(TEXTS).encode("one xy")
    with pytest.raises(DataError, match="'X'"):
        PieceProcessor.of(TEXTS, 20).encode("one x")


def test_an_alphabet_begins_with_the_blank():
    with pytest.raises(ConfigError, match="first"):
        CharacterProcessor(symbols=("a", BLANK))
    with pytest.raises(DataError, match="no letter"):
        CharacterProcessor.of(["  "])


def test_pieces_round_trip_and_are_saved(tmp_path):
    pieces = PieceProcessor.of(TEXTS * 10, 20)
    assert pieces.symbols[0] == BLANK
    ids = pieces.encode("two three one").tolist()
    assert len(ids) < len("two three one")
    assert pieces.decode(ids) == "TWO THREE ONE"
    back = Processor.from_folder(pieces.to_folder(tmp_path), tmp_path)
    assert isinstance(back, PieceProcessor)
    assert back.symbols == pieces.symbols
    with pytest.raises(DataError, match="too small"):
        PieceProcessor.of(TEXTS, 5)


def test_normalised_audio_has_mean_zero_and_variance_one():
    wave = Waveform((3 + np.random.default_rng(0).standard_normal(5000)).astype(np.float32), 16_000)
    out = AudioProcessor(normalize=True).encode(wave)
    assert abs(float(out.mean())) < 1e-5
    assert abs(float(out.var()) - 1) < 1e-3
    assert Config.from_dict(AudioProcessor(normalize=True).to_dict()) == AudioProcessor(normalize=True)


def test_a_batch_is_padded_and_knows_its_lengths():
    processors = {"audio": AudioProcessor(), "text": CharacterProcessor.of(TEXTS)}
    samples = [
        encode({"audio": Waveform(np.full(n, 0.5, np.float32), 16_000), "text": text}, processors)
        for n, text in ((5, "one"), (9, "one two"))
    ]
    batch = stack(samples)
    assert batch["audio"].shape == (2, 9)
    assert batch["audio_length"].tolist() == [5, 9]
    assert batch["text_length"].tolist() == [3, 7]
    assert batch["audio"][0].tolist() == [0.5] * 5 + [0.0] * 4
    assert batch["text"].dtype == torch.int64
    with pytest.raises(TypeError):
        processors["audio"]([1])


def test_batches_hold_samples_of_like_length_and_each_sample_at_most_once():
    lengths = np.random.default_rng(0).random(1000) * 10
    sampler = EpochSampler(1000, 16, seed=3, lengths=lengths)
    first = [[t.index for t in batch] for batch in sampler]
    assert len(first) == 62
    flat = [i for batch in first for i in batch]
    assert len(set(flat)) == len(flat) == 62 * 16
    spread = np.mean([np.ptp(lengths[batch]) for batch in first])
    assert spread < 1.5 * 10 / POOL
    means = [lengths[batch].mean() for batch in first]
    assert abs(np.corrcoef(means, np.arange(62))[0, 1]) < 0.4  # batches come in any order
    assert [[t.index for t in batch] for batch in sampler] == first
    sampler.set_epoch(1)
    assert [[t.index for t in batch] for batch in sampler] != first
    halves = [EpochSampler(1000, 16, 3, rank, 2, lengths=lengths) for rank in range(2)]
    both = [[t.index for t in a] + [t.index for t in b] for a, b in zip(*halves, strict=True)]
    assert both == first

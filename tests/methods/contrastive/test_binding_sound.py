"""Sounds in the pictures' space: their loss, what padding must not change, and what they are judged by."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.audio import Waveform
from intermodal.data.batches import encode, stack
from intermodal.data.emoji import EmojiSource
from intermodal.data.spoken import KeyProcessor
from intermodal.evaluate.binding_sound import average_precision
from intermodal.losses.contrastive import info_nce
from intermodal.methods.contrastive.binding import Binding, shared_info_nce
from intermodal.recipes.binding import binding_sound

needs_data = pytest.mark.skipif("INTERMODAL_DATA" not in os.environ, reason="INTERMODAL_DATA is not set")


def unit(rows: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1).float()


def test_with_different_keys_the_loss_is_info_nce():
    image, sound, scale = unit(5, 0), unit(5, 1), torch.tensor(9.0)
    ours = shared_info_nce(image, sound, scale, torch.arange(5))
    assert float(ours) == pytest.approx(float(info_nce(image, sound, scale)), rel=1e-5)


def test_rows_of_one_key_share_the_target():
    image, sound, keys = unit(4, 2), unit(4, 3), [7, 3, 7, 7]

    def one_way(query: torch.Tensor, gallery: torch.Tensor) -> float:
        total = 0.0
        for i in range(4):
            weights = [math.exp(5.0 * float(query[i] @ gallery[j])) for j in range(4)]
            right = [j for j in range(4) if keys[j] == keys[i]]
            total -= sum(math.log(weights[j] / sum(weights)) for j in right) / len(right)
        return total / 4

    expected = (one_way(image, sound) + one_way(sound, image)) / 2
    ours = shared_info_nce(image, sound, torch.tensor(5.0), torch.tensor(keys))
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_average_precision_by_hand():
    scores = np.array([[0.9, 0.8, 0.1, 0.2], [0.0, 0.5, 0.6, 0.7]])
    truth = np.array([0, 1, 0, 1])
    first = (1 / 1 + 2 / 4) / 2  # ranks 1 and 4
    second = (1 / 1 + 2 / 3) / 2  # ranks 1 and 3
    assert average_precision(scores, truth) == pytest.approx((first + second) / 2)


def test_keys_differ_where_names_do():
    keys = [int(KeyProcessor().encode(name)) for name in ("one", "two", "one")]
    assert keys[0] == keys[2] != keys[1]
    assert min(keys) >= 0


@pytest.fixture(scope="module")
def model() -> Binding:
    return binding_sound().smoke().build().eval()


def waves(*lengths: int) -> list[Waveform]:
    rng = np.random.default_rng(0)
    return [Waveform((0.1 * rng.standard_normal(n)).astype(np.float32), 8_000) for n in lengths]


@needs_data
def test_the_loss_of_sounds_reaches_both_towers_and_is_the_batchs_own(model):
    source = binding_sound().source.open("train")
    batch = stack([encode(source.sample(i), model.inputs, np.random.default_rng(i)) for i in range(6)])
    batch = model.train().prepare(batch)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # of dropout, which alone is not the batch's
        losses.append(model.loss(batch).total.item())
    model.eval()
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])
    model.zero_grad()
    model.loss(batch).total.backward()
    towers = model.towers
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers["audio"].parameters())
    model.zero_grad()


@needs_data
def test_a_sound_alone_is_what_it_is_in_a_batch(model):
    sounds = waves(3_000, 8_000, 800)
    together = model.embed("audio", sounds)
    alone = np.concatenate([model.embed("audio", [sound]) for sound in sounds])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@needs_data
def test_every_digit_has_its_pictures_and_no_text_comes_with_a_sound(model):
    source = binding_sound().source
    for split in ("train", "validation", "test"):
        opened = source.open(split)
        assert {"audio", "audio_image", "audio_key"} < set(opened.fields)
        assert not any("text" in name for name in opened.fields if name.startswith("audio"))
        for word in set(opened.recordings.texts()):
            picture, text = opened.picture_of(word)
            assert word in text.replace(",", "").split()
            assert picture.size == (64, 64)
    assert set(source.open("test").recordings.speakers()) == {"theo"}
    assert "theo" not in source.open("train").recordings.speakers()


@needs_data
def test_a_spoken_word_without_a_picture_is_named():
    source = binding_sound().source
    with pytest.raises(DataError, match="nine"):
        source.replace(words=source.words[:-1]).open("train")
    with pytest.raises(DataError, match="no other data"):
        binding_sound().on(EmojiSource())


def test_sounds_are_embedded_and_found_from_the_command_line(model, tmp_path, capsys):
    import json

    from intermodal.cli.main import main

    soundfile = pytest.importorskip("soundfile")
    model.save(tmp_path / "model")
    (tmp_path / "sounds").mkdir()
    for number, wave in enumerate(waves(3000, 5000, 4000)):
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", wave.samples, wave.rate, subtype="FLOAT")
    assert main(["embed", str(tmp_path / "model"), str(tmp_path / "sounds"), "a text"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines[:3]] == ["0.wav", "1.wav", "2.wav"] and lines[3][
        "text"
    ] == "a text"
    np.testing.assert_allclose(lines[1]["vector"], model.embed("audio", waves(3000, 5000, 4000))[1], atol=1e-5)
    found = ["search", str(tmp_path / "model"), "--in", str(tmp_path / "sounds"), "--json", "-k", "2"]
    assert main([*found, "--sound", str(tmp_path / "sounds" / "2.wav")]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert Path(hits[0]["path"]).name == "2.wav" and hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert main([*found, "a text"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["embed", str(tmp_path / "model"), "gone.wav"]) == 2
    assert "There is no recording gone.wav" in capsys.readouterr().err
    assert main([*found, "a text", "--sound", "0.wav"]) == 2

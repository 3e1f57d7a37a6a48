"""Binding: its loss pair by pair, its hard negatives, its maps, and alignment that emerges where it must."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.methods.contrastive.binding import Binding, hard_negatives
from intermodal.recipes.binding import binding


@pytest.fixture(scope="module")
def model() -> Binding:
    return binding().smoke().build().eval()


@pytest.fixture(scope="module")
def samples():
    source = binding().smoke().source.open("train")
    return [source.sample(i) for i in range(6)]


def prepared(model: Binding, samples) -> dict[str, torch.Tensor]:
    batch = {m: model.processors[m]([s[m] for s in samples]) for m in model.modalities}
    return {**batch, "seed": torch.arange(len(samples))}


def one_way(query: torch.Tensor, gallery: torch.Tensor, scale: float) -> float:
    """Girdhar 2023, equation 1, written out pair by pair."""
    total = 0.0
    for i in range(len(query)):
        scores = [math.exp(scale * float(query[i] @ gallery[j])) for j in range(len(gallery))]
        total -= math.log(scores[i] / sum(scores))
    return total / len(query)


def test_the_loss_is_the_papers_pair_by_pair(model, samples):
    double = model.double().requires_grad_(False)
    try:
        batch = prepared(model, samples)
        batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
        losses = double.loss(batch)
        image, _ = double.encode("image", batch["image"])
        expected = 0.0
        for modality in ("text", "sketch"):
            vectors, _ = double.encode(modality, batch[modality])
            scale = float(double.logit_scales[modality].exp())
            both = (one_way(image, vectors, scale) + one_way(vectors, image, scale)) / 2
            assert float(losses.parts[f"{modality}_loss"]) == pytest.approx(both, rel=1e-10)
            expected = expected + both
        expected += model.config.match_weight * float(losses.parts["match_loss"])
        assert float(losses.total) == pytest.approx(expected, rel=1e-6)
    finally:
        model.float().requires_grad_(True)


@torch.no_grad()
def test_the_matching_loss_is_a_binary_one_over_true_and_hard_pairs(model, samples, monkeypatch):
    batch = prepared(model, samples)
    wrong = torch.tensor([1, 2, 3, 4, 5, 0])
    monkeypatch.setattr("intermodal.methods.contrastive.binding.hard_negatives", lambda *a: wrong)
    losses = model.loss(batch)
    words, patches = model.towers["text"](batch["text"])[1], model.encode("image", batch["image"])[1]
    total, right = 0.0, 0
    for text, picture, together in (
        [(i, i, 1) for i in range(6)]
        + [(i, int(wrong[i]), 0) for i in range(6)]
        + [(int(wrong[i]), i, 0) for i in range(6)]
    ):
        one = slice(text, text + 1)
        logit = float(model.match(words[one], batch["text"][one], patches[picture : picture + 1]))
        total += math.log1p(math.exp(-logit if together else logit))
        right += (logit > 0) == bool(together)
    assert float(losses.parts["match_loss"]) == pytest.approx(total / 18, rel=1e-4)
    assert float(losses.parts["match_accuracy"]) == pytest.approx(right / 18)


def test_hard_negatives_are_never_ones_own_and_follow_the_softmax():
    generator = torch.Generator().manual_seed(0)
    others = F.normalize(torch.randn(5, 4, generator=generator), dim=-1)
    query = others[:1].expand(5, -1)
    counts = torch.zeros(5)
    for _ in range(2000):
        drawn = hard_negatives(query, others, torch.tensor(3.0), 64, generator)
        assert all(int(d) != i for i, d in enumerate(drawn))
        counts[drawn[0]] += 1
    # 64 candidates are cut to the 4 other places, drawn with replacement: favourites are likelier, in the softmax's order
    expected = (3.0 * others[1:] @ others[0]).softmax(0)
    assert counts[0] == 0
    assert counts[1:].argsort().tolist() == expected.argsort().tolist()


@torch.no_grad()
def test_two_pairs_leave_one_negative_and_one_pair_none(model, samples):
    generator = torch.Generator().manual_seed(0)
    two = F.normalize(torch.randn(2, 4), dim=-1)
    assert hard_negatives(two, two, torch.tensor(1.0), 16, generator).tolist() == [1, 0]
    alone = model.loss(prepared(model, samples[:1]))
    assert float(alone.total) == pytest.approx(0.0, abs=1e-5) and "match_loss" not in alone.parts


def test_embeddings_are_units_of_every_modality(model, samples):
    for modality in model.modalities:
        vectors = model.embed(modality, [s[modality] for s in samples])
        assert vectors.shape == (6, 32) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert model.embed(modality, []).shape == (0, 32)
    with pytest.raises(DataError, match="image, text, sketch, not 'audio'"):
        model.embed("audio", ["x"])


def test_maps_sum_to_one_over_the_picture(model, samples):
    names, maps = model.attention_map(samples[0]["image"], "red heart")
    assert len(names) == len(maps) and maps.shape[1:] == (4, 4)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)
    scores = model.match_scores([samples[0]["image"], samples[1]["image"]], ["red heart", "dog", "cat"])
    assert scores.shape == (2, 3) and np.isfinite(scores).all()


def test_without_the_block_there_is_no_seed_and_no_map(samples):
    recipe = binding().smoke()
    plain = recipe.replace(model__match_weight=0.0).build().eval()
    assert "seed" not in plain.needs and not plain.needs_seed
    assert set(plain.loss(prepared(plain, samples)).parts) == {"text_loss", "text_scale", "sketch_loss", "sketch_scale"}
    with pytest.raises(ConfigError, match="without its cross-modal block"):
        plain.attention_map(Image.new("RGB", (8, 8)), "x")
    with pytest.raises(ConfigError, match="must not be negative"):
        recipe.replace(model__match_weight=-1.0)


def test_alignment_emerges_between_modalities_that_never_met():
    """Linear towers on exact data: what is bound to pictures alone must agree with what else is bound to them."""
    torch.manual_seed(0)
    factors = torch.randn(400, 6)
    views = {m: factors @ torch.linalg.qr(torch.randn(6, 6))[0] for m in ("image", "text", "sketch")}
    towers = {m: torch.nn.Linear(6, 6) for m in views}
    optimizer = torch.optim.Adam([p for t in towers.values() for p in t.parameters()], lr=0.02)

    def unit(modality: str, rows: slice) -> torch.Tensor:
        return F.normalize(towers[modality](views[modality][rows]), dim=-1)

    from intermodal.losses.contrastive import info_nce

    for _ in range(150):
        rows = slice(0, 300)
        loss = sum(info_nce(unit("image", rows), unit(m, rows), torch.tensor(10.0)) for m in ("text", "sketch"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = slice(300, 400)
    nearest = (unit("text", held_out) @ unit("sketch", held_out).T).argmax(1)
    assert (nearest == torch.arange(100)).float().mean() > 0.8  # chance: 0.01

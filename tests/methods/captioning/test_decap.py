"""DeCap: the projection and the noise against their equations, captions of texts and of pictures, the gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from intermodal.core.errors import ConfigError
from intermodal.evaluate.decap import gap_figures
from intermodal.methods.captioning.decap import DeCap
from toy_captioner import TEXTS, Colours, pictures
from toy_joint import LENGTH, batch_of, clip, language, learn


def built(**settings) -> DeCap:
    torch.manual_seed(3)
    settings = {"memory": 4, **settings}
    model = DeCap.over(clip(), language(), length=LENGTH, prefix=2, **settings)
    model.remember(TEXTS[: settings["memory"]])
    return model


def test_the_projection_is_the_written_out_mean():
    model = built(temperature=0.3).double()
    generator = torch.Generator().manual_seed(4)
    vectors = F.normalize(torch.randn(5, 12, generator=generator, dtype=torch.float64), dim=1)
    found = model.project(vectors)
    for vector, got in zip(vectors.numpy(), found.numpy(), strict=True):
        memory = model.memory_MD.numpy()
        weights = np.array([math.exp(float(vector @ row) / 0.3) for row in memory])
        mean = sum(w * row for w, row in zip(weights / weights.sum(), memory, strict=True))
        assert np.abs(got - mean / math.sqrt(float(mean @ mean))).max() < 1e-9


def test_cold_it_takes_the_nearest_text_and_hot_the_mean_of_all():
    vectors = F.normalize(torch.randn(6, 12, generator=torch.Generator().manual_seed(5)), dim=1)
    cold, hot = built(temperature=1e-6), built(temperature=1e6)
    nearest = (vectors @ cold.memory_MD.T).argmax(1)
    assert torch.allclose(cold.project(vectors), cold.memory_MD[nearest], atol=1e-5)
    mean = F.normalize(hot.memory_MD.mean(0), dim=0)
    assert torch.allclose(hot.project(vectors), mean.expand(6, -1), atol=1e-4)
    assert torch.equal(built(memory=0).project(vectors), vectors)


def test_noise_is_drawn_from_the_batch_and_has_its_size():
    model, plain = built(noise=0.1).train(), built().train()
    batch = batch_of(model)
    assert model.loss(batch).total.item() == model.loss(batch).total.item() != plain.loss(batch).total.item()
    other = {**batch, "seed": batch["seed"] + 9}
    assert model.loss(other).total.item() != model.loss(batch).total.item()
    assert model.eval().loss(batch).total.item() == plain.eval().loss(batch).total.item()

    seen = []
    model.train().mapping.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    exact = model.clip.encode_text(batch["read"]).detach()
    for seed in range(400):
        model.loss({**batch, "seed": torch.full((4,), seed)})
    # A vector that is scaled to length one after noise s in D dimensions has the cosine 1 / sqrt(1 + s^2 (D - 1)), about.
    cosine = float((torch.stack(seen) * exact).sum(-1).mean())
    assert cosine == pytest.approx(1 / math.sqrt(1 + 0.01 * 11), abs=0.01)
    assert torch.allclose(torch.stack(seen).norm(dim=-1), torch.ones(400, 4), atol=1e-5)


def test_it_writes_texts_again_and_pictures_as_the_text_that_they_resemble():
    model = learn(built(temperature=1e-4))
    vectors = model.clip.encode_text(batch_of(model)["read"])
    from intermodal.methods.writer import GREEDY

    again = model.written(*model.after(model.prefix(vectors)), GREEDY)
    assert [c.text for c in again] == TEXTS
    nearest = (model.see(model.pictures(pictures())) @ vectors.T).argmax(1)
    assert [c.text for c in model.caption(pictures())] == [TEXTS[i] for i in nearest]
    assert model.health() == []  # four texts are too few to speak of


def test_repeating_texts_are_told():
    model = built()
    model.keep_probe(F.normalize(torch.ones(32, 12), dim=1))
    assert "32 pictures get 1 distinct" in model.health()[0]


def test_health_is_told_after_a_step_under_autocast():
    model = built().train()
    batch = {name: rows.repeat(8, *[1] * (rows.dim() - 1)) for name, rows in batch_of(model).items()}
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(batch)
    assert "32 pictures get" in model.health()[0]


def test_no_picture_is_asked_for_and_the_memory_is_saved(tmp_path):
    model = built(noise=0.1)
    assert set(model.needs) == {"text", "read", "seed"}
    model.save(tmp_path / "model")
    assert torch.equal(DeCap.load(tmp_path / "model").memory_MD, model.memory_MD)
    assert set(built().needs) == {"text", "read"}


def test_the_gap_is_measured_before_and_after_the_projection():
    model = built(temperature=1e-6)
    metrics, sets = gap_figures(model, Colours(), "test")
    text, image = model.clip.embed("text", TEXTS), model.clip.embed("image", pictures())
    assert metrics["gap"] == pytest.approx(float(np.linalg.norm(text.mean(0) - image.mean(0))), rel=1e-5)
    assert set(sets) == {"texts", "pictures", "projected"} and metrics["projected_gap"] < metrics["gap"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="temperature above 0"):
        built(temperature=0.0)
    with pytest.raises(ConfigError, match="holds 4 texts, found 2"):
        built().remember(TEXTS[:2])

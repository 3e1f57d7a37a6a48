"""The evaluation of a prior over codes: figures that agree with the model's own, and panels that hold what they say."""

import math

import pytest
import torch

from intermodal.evaluate import prior as evaluation
from intermodal.recipes import get_recipe


@pytest.fixture
def trained(monkeypatch):
    for name, value in (("PICTURES", 20), ("QUICK", 10), ("COUNTED", 60), ("CHUNK", 7)):
        monkeypatch.setattr(evaluation, name, value)
    recipe = get_recipe("vqgan-prior").smoke()
    return recipe, recipe.build().eval()


def told(what, done):
    assert 0 <= done <= 1


def test_figures_are_those_of_the_model_and_of_counting(trained):
    recipe, model = trained
    result = evaluation.evaluate_prior(model, recipe.source, "test", told, full=True)
    metrics, source = result.metrics, recipe.source.open("test")
    places = evaluation.spread_out(len(source), 20)
    images = [source.sample(i)["image"] for i in places]
    assert metrics["bits"] == pytest.approx(float(model.bits(images).mean()), rel=1e-5)
    assert metrics["uniform_bits"] == 64 * math.log2(32)
    assert metrics["bits_per_pixel"] == pytest.approx(metrics["bits"] / 32**2)
    assert metrics["log2_likelihood"] == -metrics["bits"]
    assert metrics["chance_log2_likelihood"] == -metrics["unigram_bits"]
    assert 0 <= metrics["right"] <= 1 and metrics["unigram_bits"] < metrics["uniform_bits"]
    assert all(metrics[f"frechet_{name}"] >= 0 for name in ("samples", "unigram", "returned"))
    assert [panel.title for panel in result.panels] == [
        "Bits of a picture",
        "What it makes",
        "The upper half given",
        "Bits by place",
    ]
    assert next(iter(metrics)) == "log2_likelihood" and result.headline is not None


def test_a_quick_look_has_the_bits_alone_and_changes_nothing(trained):
    recipe, model = trained
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = evaluation.evaluate_prior(model, recipe.source, "validation", told, full=False)
    assert result.panels == [] and "frechet_samples" not in result.metrics
    assert model.training and not model.tokenizer.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_nearest_pictures_are_the_nearest(trained):
    recipe, model = trained
    source = recipe.source.open("train")
    known = [model.picture.fitted(source.sample(i)["image"]) for i in evaluation.spread_out(len(source), 60)]
    assert evaluation.nearest_pictures([known[3], known[58]], model, source, 60) == [known[3], known[58]]

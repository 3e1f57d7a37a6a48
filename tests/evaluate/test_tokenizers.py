"""How tokenizers are judged: each figure against one counted by hand, the baseline, collapse in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import TrainingError
from intermodal.core.progress import silent
from intermodal.data.emoji import EmojiSource
from intermodal.evaluate import tokenizers
from intermodal.evaluate.result import Bars, Gallery, Table, load, save
from intermodal.evaluate.tokenizers import (
    MOST_PSNR,
    Figures,
    decibels,
    difference,
    evaluate_tokenizer,
    perplexity,
    thumbnail,
)
from intermodal.recipes.image_tokenizers import TokenizerRecipe


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(tokenizers, "PICTURES", 40)
    monkeypatch.setattr(tokenizers, "QUICK", 16)


def noise(seed: int, size=(16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_a_thumbnail_fits_its_bits_and_has_the_pictures_shape():
    picture = noise(0, (32, 16))
    for bits, pixels in (
        (24 * 8, (4, 2)),
        (24 * 9, (4, 2)),
        (24 * 32, (8, 4)),
        (0, (1, 1)),
        (23, (1, 1)),
        (1e9, (32, 16)),
    ):
        small = picture.resize(pixels, Image.Resampling.BICUBIC)
        assert thumbnail(picture, bits).tobytes() == small.resize((32, 16), Image.Resampling.BICUBIC).tobytes()
        assert bits < 24 or pixels[0] * pixels[1] * 24 <= bits
    assert thumbnail(picture, 1e9).tobytes() == picture.tobytes()


def test_difference_is_grey_where_pictures_agree():
    picture = noise(0)
    assert set(difference(picture, picture).tobytes()) == {128}
    white, black = Image.new("RGB", (2, 2), "white"), Image.new("RGB", (2, 2), "black")
    assert set(difference(black, white).tobytes()) == {255} and set(difference(white, black).tobytes()) == {0}


def test_decibels_are_bounded():
    picture = noise(0)
    other = Image.fromarray(np.asarray(picture) // 2)
    error = np.square(np.asarray(picture, float) - np.asarray(other)).mean()
    assert decibels([picture, picture], [other, picture]) == pytest.approx([10 * math.log10(65025 / error), MOST_PSNR])
    assert pytest.approx(58.92, abs=0.01) == MOST_PSNR


def test_perplexity_of_known_counts():
    counts = np.array([[5, 5, 5, 5], [7, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert perplexity(counts) == pytest.approx([4, 1, 2, 0])


@pytest.mark.parametrize("levels", [1, 2])
def test_figures_are_those_counted_by_hand(toys, levels):
    method, source = toys.toy(codes=16, levels=levels), EmojiSource()
    result = evaluate_tokenizer(method, source, "validation", silent, full=False)
    held_out = source.open("validation")
    places = np.linspace(0, len(held_out) - 1, 16).round().astype(int)
    pictures = [method.picture.fitted(held_out.sample(int(i))["image"]) for i in places]
    latents = method.encode(pictures)
    errors = [
        np.square(np.asarray(a, float) - np.asarray(b)).mean()
        for a, b in zip(pictures, method.decode(latents), strict=True)
    ]
    expected = np.mean([10 * math.log10(65025 / e) for e in errors])
    assert next(iter(result.metrics)) == "psnr" and result.metrics["psnr"] == pytest.approx(expected)
    bits = 64 * 4 * levels
    assert result.metrics["bits"] == bits and result.metrics["bits_per_pixel"] == bits / 1024
    small = [thumbnail(p, bits) for p in pictures]
    assert result.metrics["chance_psnr"] == pytest.approx(np.mean(decibels(pictures, small)))
    used = [len(np.unique(latents.reshape(-1, levels)[:, q])) / 16 for q in range(levels)]
    assert result.metrics["usage"] == pytest.approx(np.mean(used))
    assert 1 < result.metrics["perplexity"] <= 16 and result.metrics["pictures"] == 16
    assert "active_units" not in result.metrics and result.panels == [] and result.headline is None


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_active_units_of_a_posterior(toys, kind):
    method = toys.toy(kind=kind)
    plain = evaluate_tokenizer(method, EmojiSource(), "validation", silent, full=False).metrics
    assert "active_units" not in plain and "usage" not in plain  # mean colours are no posterior
    posterior = toys.ToyVAE(method.config, method.processors)
    found = evaluate_tokenizer(posterior, EmojiSource(), "validation", silent, full=False).metrics
    source = EmojiSource().open("validation")
    places = np.linspace(0, len(source) - 1, 16).round().astype(int)
    latents = method.encode([source.sample(int(i))["image"] for i in places])
    assert found["active_units"] == (latents.var(0) > 0.01).sum() > 0
    assert found["active_share"] == found["active_units"] / latents[0].size


def test_a_full_evaluation_shows_pictures_and_saves(toys, tmp_path):
    result = evaluate_tokenizer(toys.toy(codes=64, levels=2), EmojiSource(), "test", silent)
    assert [type(p) for p in result.panels] == [Gallery, Table, Bars, Gallery]
    best, _, bars, worst = result.panels
    assert len(best.rows) == 4 and all(len(items) == 10 for _, items in best.rows) and worst.failures
    assert len(bars.values) == 16 and sum(bars.values) == pytest.approx(1) and bars.values[0] == max(bars.values)
    lowest = [float(item.note.split()[0]) for item in worst.rows[1][1]]
    assert lowest == sorted(lowest) and result.metrics["pictures"] == 40
    assert "dB" in result.headline.figure and "thumbnail of as many bits" in result.headline.sentence
    assert "collapsed" not in result.headline.sentence
    save(result, tmp_path / "evaluation")
    assert load(tmp_path / "evaluation").metrics == pytest.approx(result.metrics)


def test_a_collapse_is_said_in_words(toys):
    method = toys.toy(codes=64)
    method.book_QKC.data[0, 1:] = 100.0  # all colours but one are out of reach
    result = evaluate_tokenizer(method, EmojiSource(), "test", silent)
    assert result.metrics["usage"] == 1 / 64 and result.metrics["perplexity"] == pytest.approx(1)
    assert "The codebook has collapsed: at 2,560 places 1 of 64 codes occur, worth 1.0" in result.headline.sentence


def test_collapse_of_one_level_and_of_a_posterior():
    figures = Figures((2, 2, 2), 8)
    figures.counts = np.array([[5] * 8, [40] + [0] * 7])
    assert [w[:36] for w in figures.warnings()] == ["Level 2: The codebook has collapsed:"]
    dead = Figures((4,), None, posterior=True)
    dead.each["psnr"] = [1.0]
    assert dead.warnings() == ["The posterior has collapsed: none of the latent's 4 numbers depends on the picture."]
    assert Figures((4,), None).warnings() == []


def test_a_broken_model_is_an_error(toys):
    method = toys.toy(kind="map")
    method.to_latent = lambda image: image[:, :, ::4, ::4] * float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        evaluate_tokenizer(method, EmojiSource(), "validation", silent, full=False)


def test_tiny_pictures_have_no_windowed_figures(toys):
    found = evaluate_tokenizer(toys.toy(size=8), EmojiSource(), "validation", silent, full=False).metrics
    assert "ssim" not in found and "perceptual" not in found and found["psnr"] > 0


def test_the_recipe_builds_judges_and_takes_other_data(toys, tmp_path, pictures):
    recipe = TokenizerRecipe(name="toy", method="toy", model=toys.ToyConfig())
    method = recipe.smoke().build()
    assert method.picture.size == (32, 32) and recipe.smoke().train.steps == 6
    result = recipe.evaluate(method, "validation", silent)
    assert result.metrics["bits"] == 256 and result.panels == []
    for caption in pictures.glob("*.txt"):
        caption.unlink()
    own = recipe.on_named(str(pictures)).replace(source__validation_share=0.5)
    assert own.build().picture.size == (64, 64) and own.source.open("train").fields.keys() == {"image"}
    judged = own.evaluate(own.build(), "test", silent)
    assert 0 < judged.metrics["pictures"] < 12 and judged.panels

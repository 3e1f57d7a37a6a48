"""Transformations are what they say, and encoders of known answers get them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.evaluate.baselines import raw_pixels
from intermodal.evaluate.frozen_data import LabelledPart
from intermodal.evaluate.invariance import (
    FAMILIES,
    TRANSFORMATIONS,
    PictureSet,
    Transformation,
    measure_invariance,
    picture_set,
    take_pictures,
    transform,
)

ALL = [(255.0,) * 3, (-1.0,) * 3]


def noise(n=3, side=16, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def on(image_NCHW, ground):
    return PictureSet(image_NCHW, torch.tensor([ground] * len(image_NCHW)))


@pytest.mark.parametrize("ground", ALL)
def test_quarter_turns_and_flips_are_permutations(ground):
    image = noise()
    pictures = on(image, ground)
    for turns in (1, 2, 3, -1):
        turned = transform(pictures, Transformation("rotation", 90.0 * turns))
        assert torch.equal(turned, torch.rot90(image, turns, (2, 3))), "counter-clockwise"
    assert torch.equal(transform(pictures, Transformation("mirror", 1.0)), image.flip(3))
    assert torch.equal(transform(pictures, Transformation("upside_down", 1.0)), image.flip(2))
    assert torch.equal(transform(pictures, Transformation("rotation", 360.0)), image)


def test_a_shift_moves_right_and_down_and_shows_the_ground():
    image = noise()
    moved = transform(on(image, (10.0, 20.0, 30.0)), Transformation("translation", 0.25, (0.25, 0.0)))
    assert torch.equal(moved[..., 4:], image[..., :-4])
    assert (moved[:, :, :, :4] == torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]).all()
    down = transform(on(image, (-1.0,) * 3), Transformation("translation", 0.25, (0.0, 0.25)))
    assert torch.equal(down[:, :, 4:], image[:, :, :-4])
    assert torch.equal(down[:, :, :4], image[:, :, :4].flip(2)), "continued by reflection"


def test_scale_is_about_the_centre():
    image = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    image[:, :, 6:10, 6:10] = 0
    larger = transform(on(image, (255.0,) * 3), Transformation("scale", 2.0))[0, 0]
    smaller = transform(on(image, (255.0,) * 3), Transformation("scale", 0.5))[0, 0]
    assert (larger < 128).nonzero().amin(0).tolist() == [4, 4] and int((larger < 128).sum()) == 64
    assert torch.equal(
        smaller == 0,
        torch.zeros(16, 16, dtype=torch.bool).index_put(
            (torch.tensor([7, 7, 8, 8]), torch.tensor([7, 8, 7, 8])), torch.tensor(True)
        ),
    )


def test_the_ground_is_the_border_s_colour_if_it_has_one():
    plain = Image.new("RGB", (20, 30), (200, 10, 30))
    plain.paste(Image.new("RGB", (10, 10)), (5, 10))
    busy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    found = picture_set([plain, busy])
    assert found.image_NCHW.shape == (2, 3, 128, 128)
    assert found.ground_NC.tolist() == [[200, 10, 30], [-1, -1, -1]]
    assert picture_set([busy], ground=(255, 255, 255)).ground_NC.tolist() == [[255] * 3]
    assert picture_set([busy]).image_NCHW.shape[-1] == 40, "small square pictures stay as they are"


def test_every_family_has_transformations_and_none_is_the_identity():
    assert {t.family for t in TRANSFORMATIONS} == set(FAMILIES)
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert all((t.matrix() - identity).abs().max() > 1e-3 for t in TRANSFORMATIONS)
    assert len(set(TRANSFORMATIONS)) == len(TRANSFORMATIONS)
    means = torch.tensor([t.target for t in TRANSFORMATIONS if t.family == "translation"]).mean(0)
    assert means.abs().max() < 1e-6


@pytest.fixture(scope="module")
def pictures():
    """Smooth drawings on white, all different: three coloured blobs each, away from the border."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:24] / 23 - 0.5
    images = []
    for _ in range(120):
        image = np.full((24, 24, 3), 255.0)
        for _ in range(3):
            centre, size = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.06, 0.12)
            weight = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * size**2))[..., None]
            image = image * (1 - weight) + rng.uniform(0, 255, 3) * weight
        images.append(Image.fromarray(image.round().astype(np.uint8)))
    return picture_set(images, ground=(255, 255, 255))


def colours(pictures):
    """Sorted values of each channel: no matter where they are."""
    rows = np.stack([np.sort(255 - np.asarray(p, np.float32).reshape(-1, 3), axis=0)[::8].ravel() for p in pictures])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def centres(pictures):
    """Where the ink of each channel is."""
    ink = 255 - np.stack([np.asarray(p, np.float32) for p in pictures])
    weight = ink / ink.sum((1, 2), keepdims=True)
    place = np.linspace(-1, 1, ink.shape[1])
    x, y = (weight * place[:, None]).sum((1, 2)), (weight * place[:, None, None]).sum((1, 2))
    return np.concatenate([x, y, np.ones((len(x), 1))], 1).astype(np.float32)


def test_colours_alone_are_invariant_to_where_things_are(pictures):
    (found,) = measure_invariance([colours], pictures, lambda share: None)
    for family in ("mirror", "upside_down"):
        assert found.invariance[family] == pytest.approx(1) and found.found[family] == 1
        assert found.equivariance[family] == pytest.approx(1, abs=1e-6) and math.isnan(found.gain[family])
    assert found.invariance["rotation"] > 0.95 > found.invariance["scale"]
    assert found.readout["flip"] == pytest.approx(0, abs=0.01), "nothing is left of it: chance"
    assert found.readout["rotation"] < 0.2 and found.readout["translation"] < 0.3


def test_centres_are_equivariant_and_tell_shifts(pictures):
    (found,) = measure_invariance([centres], pictures, lambda share: None)
    assert found.equivariance["mirror"] > 0.999 and found.equivariance["rotation"] > 0.95
    assert found.identity["mirror"] < 0 < found.gain["mirror"]
    assert found.readout["translation"] > 0.9
    assert found.invariance["mirror"] < 0.6


def test_raw_pixels_change_with_everything(pictures):
    told = []
    (found,) = measure_invariance([lambda p: raw_pixels(p, 12)], pictures, told.append)
    assert all(found.invariance[f] < 0.8 for f in FAMILIES) and told == sorted(told) and told[-1] == 1
    curve = {place: value for place, value, _ in found.curves["rotation"]}
    assert curve[-180] == curve[180] and curve[30] > curve[90] and min(curve) == -180
    assert [place for place, _, _ in found.curves["translation"]] == [0.1, 0.2, 0.3]
    figures = found.figures()
    assert figures["invariance_rotation"] == found.invariance["rotation"] and "readout_flip" in figures


def test_a_collapsed_encoder_is_undefined_not_perfect(pictures):
    (found,) = measure_invariance([lambda p: np.ones((len(p), 4), np.float32)], pictures, lambda share: None)
    assert all(math.isnan(found.invariance[f]) and math.isnan(found.equivariance[f]) for f in FAMILIES)
    assert found.found["mirror"] == pytest.approx(1 / 120)
    assert all(abs(v) < 0.05 for v in found.readout.values())


def test_too_few_pictures():
    class Nothing:
        name = "nowhere (test)"

    with pytest.raises(DataError, match=r"at least 16 pictures; nowhere \(test\) has 3"):
        take_pictures(LabelledPart(Nothing(), [0, 1, 2], ["a"] * 3, [""] * 3))

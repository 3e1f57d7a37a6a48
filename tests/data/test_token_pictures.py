"""Tokens as pictures: a code's colour is its own, numbers show their principal channels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from intermodal.core.errors import DataError
from intermodal.data.token_pictures import enlarged, palette, principal, side_by_side, signed, token_pictures


def test_a_code_has_one_colour_in_every_picture():
    few, many = palette(np.array([[3, 700]])), palette(np.arange(1000).reshape(10, 100))
    assert few.shape == (1, 2, 3) and many.shape == (10, 100, 3) and few.dtype == np.uint8
    np.testing.assert_array_equal(few[0, 0], many[0, 3])
    np.testing.assert_array_equal(few[0, 1], many[7, 0])


def test_colours_differ():
    colours = palette(np.arange(512)).astype(int)
    assert len(np.unique(colours, axis=0)) == 512
    distance = np.abs(colours[1:] - colours[:-1]).sum(1)
    assert distance.min() > 60  # neighbours in number are no neighbours in colour


def test_principal_channels_are_those_of_numpy():
    latent = np.random.default_rng(0).normal(size=(5, 4, 6))
    latent[2] *= 10  # the first component
    shown = principal(latent).astype(float)
    rows = latent.reshape(5, -1).T
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    for k in range(3):
        score = (rows - rows.mean(0)) @ vectors[:, np.argsort(-values)[k]]
        assert abs(np.corrcoef(score, shown[..., k].ravel())[0, 1]) > 0.999
    assert np.corrcoef(latent[2].ravel(), shown[..., 0].ravel())[0, 1] > 0.99  # signed by the largest weight
    assert shown.min() == 0 and shown.max() == 255
    np.testing.assert_array_equal(principal(latent), principal(latent * 3 + 5))


def test_few_or_equal_channels_are_grey():
    assert (principal(np.ones((4, 3, 3))) == 128).all()
    one = principal(np.arange(9.0).reshape(1, 3, 3))
    assert (one[..., 1:] == 128).all() and one[0, 0, 0] == 0 and one[2, 2, 0] == 255
    assert (principal(np.zeros((4, 1, 1))) == 128).all()


def test_signs():
    shown = signed(np.array([-2.0, 0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(shown, [[0, 0, 255], [255, 255, 255], [255, 128, 128], [255, 0, 0]])
    assert (signed(np.zeros(3)) == 255).all()


@pytest.mark.parametrize(
    ("latent", "codebook", "sizes"),
    [
        (np.zeros((2, 4), int), 5, [(256, 128)]),
        (np.zeros((2, 2, 3), int), 5, [(256, 256)] * 3),
        (np.zeros(4, int), 5, [(256, 64)]),
        (np.zeros((4, 2, 2)), None, [(256, 256)]),
        (np.arange(5.0), None, [(258, 172)]),
        (np.zeros((300, 200), int), 5, [(200, 300)]),
    ],
)
def test_each_kind_of_latent_has_a_picture(latent, codebook, sizes):
    assert [p.size for p in token_pictures(latent, codebook)] == sizes


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="cannot be shown"):
        token_pictures(np.zeros((2, 2)), None)


def test_pictures_side_by_side_have_one_height():
    small, tall = Image.new("RGB", (10, 5), "red"), Image.new("RGB", (3, 20), "blue")
    sheet = side_by_side([small, tall])
    assert sheet.size == (40 + 8 + 3, 20)
    assert sheet.getpixel((39, 19)) == (255, 0, 0) and sheet.getpixel((44, 0)) == (255, 255, 255)
    assert enlarged(small, 25).size == (30, 15) and enlarged(small, 4) is small

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intermodal.data.transforms import ImageAugment, luma, rotate_hue

STRONG = ImageAugment(
    flip=0.5,
    rotate=30,
    scale=(0.7, 1.4),
    translate=0.2,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.3,
    grey=0.2,
)


def pictures(batch: int, height: int = 9, width: int = 13) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def numbers(batch: int, seed: int = 0) -> Tensor:
    return STRONG.draw(batch, torch.Generator().manual_seed(seed))


def fixed(augment: ImageAugment, image: Tensor, **columns: float) -> Tensor:
    """Apply with chosen numbers; the middle of the range (no change) for the others."""
    names = ("flip", "rotate", "scale", "x", "y", "brightness", "contrast", "saturation", "hue", "grey")
    row = [columns.get(name, 0.999 if name in ("flip", "grey") else 0.5) for name in names]
    return augment.apply(image, torch.tensor([row]).expand(len(image), -1))


def test_no_augmentation_changes_nothing():
    image = pictures(4)
    assert torch.equal(ImageAugment().apply(image, numbers(4)), image)


def test_same_numbers_same_pictures():
    assert torch.equal(STRONG.apply(pictures(4), numbers(4)), STRONG.apply(pictures(4), numbers(4)))
    assert not torch.equal(STRONG.apply(pictures(4), numbers(4)), STRONG.apply(pictures(4), numbers(4, seed=1)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(2, 40), st.integers(2, 40))
def test_a_batch_may_be_cut_anywhere_to_the_last_bit(batch, cut, height, width):
    image, u = pictures(batch, height, width), numbers(batch)
    whole = STRONG.apply(image, u)
    sizes = [size for size in (min(cut, batch), batch - min(cut, batch)) if size]
    pairs = zip(image.split(sizes), u.split(sizes), strict=True)
    parts = [STRONG.apply(pictures, numbers) for pictures, numbers in pairs]
    assert torch.equal(torch.cat(parts), whole)


def test_each_picture_depends_on_its_own_row():
    image, u = pictures(5), numbers(5)
    before = STRONG.apply(image, u)
    u[2] = numbers(1, seed=9)[0]
    after = STRONG.apply(image, u)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_values_stay_in_range(seed):
    changed = STRONG.apply(pictures(3), numbers(3, seed))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert changed.isfinite().all()


@pytest.mark.parametrize(("number", "turns"), [(1.0, 1), (0.0, -1)])
def test_a_quarter_turn_of_a_square(number, turns):
    image = pictures(2, 8, 8)
    turned = fixed(ImageAugment(rotate=90), image, rotate=number)
    torch.testing.assert_close(turned, torch.rot90(image, turns, (2, 3)), atol=1e-4, rtol=0)


def test_a_half_turn_of_an_oblong():
    image = pictures(2)
    turned = fixed(ImageAugment(rotate=180), image, rotate=1.0)
    torch.testing.assert_close(turned, torch.rot90(image, 2, (2, 3)), atol=1e-4, rtol=0)


def test_angles_are_right_in_an_oblong():
    image = torch.zeros(1, 3, 21, 41)
    image[:, :, 10, 12:29] = 1  # a level line about the centre stands upright after a quarter turn
    turned = fixed(ImageAugment(rotate=90), image, rotate=1.0)
    torch.testing.assert_close(turned[0, 0, 2:19, 20], torch.ones(17), atol=1e-4, rtol=0)


def test_flip_shift_and_zoom():
    image = pictures(2, 8, 8)
    flipped = fixed(ImageAugment(flip=1.0), image, flip=0.0)
    torch.testing.assert_close(flipped, image.flip(3), atol=1e-5, rtol=0)
    shifted = fixed(ImageAugment(translate=0.25), image, x=1.0)  # a quarter of eight pixels is two
    torch.testing.assert_close(shifted[..., :-2], image[..., 2:], atol=1e-5, rtol=0)
    smaller = fixed(ImageAugment(scale=(0.5, 2.0)), torch.ones(1, 3, 8, 8), scale=0.0)
    torch.testing.assert_close(smaller, torch.ones(1, 3, 8, 8))  # the border is continued


def test_hue_keeps_luma_and_a_full_turn_is_the_identity():
    image = pictures(4).double()
    turned = rotate_hue(image, torch.tensor([0.1, 0.25, -0.4, 0.5]))
    torch.testing.assert_close(luma(turned), luma(image), atol=1e-12, rtol=0)
    assert not torch.allclose(turned, image, atol=0.01)
    torch.testing.assert_close(rotate_hue(image, torch.ones(4)), image, atol=1e-12, rtol=0)


def test_hue_is_a_rotation_of_the_chroma():
    """Reference: colours in YIQ as complex numbers I + iQ, turned by hand."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    red, green, blue = 0.2, 0.7, 0.4
    y, i, q = (to_yiq @ torch.tensor([red, green, blue]).double()).tolist()
    turned = complex(i, q) * complex(math.cos(math.pi / 3), math.sin(math.pi / 3))
    expected = torch.linalg.solve(to_yiq, torch.tensor([y, turned.real, turned.imag]).double())
    image = torch.tensor([red, green, blue]).double().view(1, 3, 1, 1)
    torch.testing.assert_close(rotate_hue(image, torch.tensor([1 / 6])).flatten(), expected, atol=1e-6, rtol=0)


def test_grey_brightness_contrast_saturation():
    image = pictures(2) * 0.4 + 0.3
    grey = fixed(ImageAugment(grey=1.0), image, grey=0.0)
    torch.testing.assert_close(grey, luma(image).expand_as(image))
    torch.testing.assert_close(fixed(ImageAugment(brightness=0.5), image, brightness=0.0), image * 0.5)
    torch.testing.assert_close(fixed(ImageAugment(saturation=1.0), image, saturation=0.0), grey)
    mean = luma(image).mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(fixed(ImageAugment(contrast=0.5), image, contrast=0.0), mean + (image - mean) * 0.5)

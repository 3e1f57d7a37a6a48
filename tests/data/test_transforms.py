from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.data.transforms import NUMBERS, ImageAugment, gaussian_blur, luma, rotate_hue

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
    row = [columns.get(name, 0.999 if name in ("flip", "grey", "blur") else 0.5) for name in NUMBERS]
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


VIEWS = STRONG.replace(crop=(0.2, 0.9), ratio=(0.5, 2.0), jitter=0.7, blur=0.6, sigma=(0.1, 1.2), views=3)


def test_draws_of_the_first_numbers_are_as_they_were_before_there_were_views():
    """Recipes that were written before keep their pictures: the first ten columns are one draw of the generator."""
    drawn = STRONG.draw(7, torch.Generator().manual_seed(5))
    assert torch.equal(drawn[:, :10], torch.rand(7, 10, generator=torch.Generator().manual_seed(5)))
    assert ImageAugment.from_dict({"flip": 0.5, "scale": [0.9, 1.1]}) == ImageAugment(flip=0.5, scale=(0.9, 1.1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(2, 20), st.integers(2, 20))
def test_a_batch_of_views_may_be_cut_anywhere_to_the_last_bit(batch, cut, height, width):
    image, u = pictures(batch, height, width), VIEWS.draw(batch, torch.Generator().manual_seed(0))
    whole = VIEWS.apply(image, u)
    assert whole.shape == (batch, 3, 3, height, width)
    sizes = [size for size in (min(cut, batch), batch - min(cut, batch)) if size]
    parts = [VIEWS.apply(i, n) for i, n in zip(image.split(sizes), u.split(sizes), strict=True)]
    assert torch.equal(torch.cat(parts), whole)


def test_views_differ_from_one_another_and_each_is_that_of_its_own_numbers():
    image, u = pictures(2, 16, 16), VIEWS.draw(2, torch.Generator().manual_seed(1))
    views = VIEWS.apply(image, u)
    single = VIEWS.replace(views=1)
    for v in range(3):
        assert torch.equal(views[:, v], single.apply(image, u[:, v]))
    assert not torch.equal(views[:, 0], views[:, 1])
    assert views.min() >= 0
    assert views.max() <= 1


def test_pictures_of_a_group_are_changed_each_in_its_own_way():
    group = pictures(6, 8, 8).unflatten(0, (2, 3))
    u = VIEWS.draw(2, torch.Generator().manual_seed(2))
    changed = VIEWS.apply(group, u)
    assert torch.equal(changed.flatten(0, 1), VIEWS.replace(views=1).apply(group.flatten(0, 1), u.flatten(0, 1)))
    with pytest.raises(ConfigError, match=r"augment\.views"):
        VIEWS.apply(group[:, :2], u)
    with pytest.raises(ConfigError, match=r"augment\.views"):
        STRONG.apply(group, numbers(2))


def test_a_crop_is_the_bilinear_enlargement_of_its_rectangle():
    """Reference: the rectangle cut out at whole pixels, resized by torch's own interpolation."""
    image = pictures(1, 16, 16)
    crop = ImageAugment(crop=(0.25, 0.25), ratio=(1.0, 1.0))  # half of each side
    enlarged = F.interpolate(image[:, :, 4:12, 8:16], (16, 16), mode="bilinear", align_corners=False)
    ours = fixed(crop, image, left=1.0, top=0.5)
    inside = slice(1, -1)  # at the rim, ours sees the picture's own pixels beyond the rectangle
    torch.testing.assert_close(ours[..., inside, inside], enlarged[..., inside, inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("ratio", "sides"), [(2.0, (8, 16)), (0.5, (16, 8))])
def test_a_crop_has_the_ratio_that_was_drawn(ratio, sides):
    """A ramp along each axis tells how much of the picture is seen: its slope is the crop's share of the side."""
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    crop = ImageAugment(crop=(0.125, 0.125), ratio=(ratio, ratio))  # of 1,024 pixels, 128
    across = fixed(crop, ramp)[0, 0, 16].diff()[8:-8].mean() * 31 * 32
    down = fixed(crop, ramp.transpose(2, 3))[0, 0, :, 16].diff()[8:-8].mean() * 31 * 32
    assert (float(down), float(across)) == pytest.approx(sides, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 1.0), st.floats(0.3, 3.0))
def test_a_crop_never_leaves_the_picture(seed, area, ratio):
    ramp = torch.stack([torch.linspace(0, 1, 24).expand(24, 24)] * 3)[None]
    crop = ImageAugment(crop=(area, area), ratio=(ratio, ratio))
    u = crop.draw(1, torch.Generator().manual_seed(seed))
    for image in (ramp, ramp.transpose(2, 3)):
        line = crop.apply(image, u)[0, 0]
        steps = torch.cat([line.diff(dim=0).flatten(), line.diff(dim=1).flatten()])
        assert steps.min() >= -1e-5  # a picture that rises everywhere still does: nothing is mirrored or continued


def test_blur_is_the_gaussian_convolution():
    """Reference: the kernel as an outer product in float64, pixel by pixel, the border continued."""
    image = pictures(2, 7, 9).double()
    sigma, radius = torch.tensor([0.7, 1.6]), 4
    ours = gaussian_blur(image, sigma, radius)
    for b in range(2):
        line = [math.exp(-0.5 * (k / float(sigma[b])) ** 2) for k in range(-radius, radius + 1)]
        for y in range(7):
            for x in range(9):
                total = torch.zeros(3, dtype=torch.float64)
                for i, wy in enumerate(line):
                    for j, wx in enumerate(line):
                        yy, xx = min(max(y + i - radius, 0), 6), min(max(x + j - radius, 0), 8)
                        total += wy * wx * image[b, :, yy, xx]
                torch.testing.assert_close(ours[b, :, y, x], total / sum(line) ** 2, atol=1e-12, rtol=0)


def test_blur_jitter_and_grey_happen_as_often_as_stated():
    image = pictures(1, 6, 6).expand(4000, -1, -1, -1)
    blurred = ImageAugment(blur=0.3, sigma=(1.0, 1.0))
    u = blurred.draw(4000, torch.Generator().manual_seed(0))
    share = (blurred.apply(image, u) != image).flatten(1).any(1).double().mean()
    assert float(share) == pytest.approx(0.3, abs=0.03)
    jittered = ImageAugment(brightness=0.5, jitter=0.8)
    share = (jittered.apply(image, u) != image).flatten(1).any(1).double().mean()
    assert float(share) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [{"views": 0}, {"crop": (0.0, 1.0)}, {"crop": (0.5, 0.2)}, {"ratio": (2.0, 1.0)}, {"sigma": (0.0, 1.0)}],
)
def test_ranges_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ImageAugment(**wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_gives_the_same_pictures():
    image, u = pictures(5, 24, 24), VIEWS.draw(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(VIEWS.apply(image.cuda(), u).cpu(), VIEWS.apply(image, u), atol=1e-4, rtol=0)

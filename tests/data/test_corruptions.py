"""Corruptions: each does what it says, to every picture in its own way."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.corruptions import CORRUPTIONS, blur, gaussian_noise, patch_shuffle, salt_and_pepper


def pictures() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1


def spoil(name: str, seed: int = 0) -> torch.Tensor:
    return CORRUPTIONS[name](pictures(), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_changes_pictures_keeps_their_range_and_repeats(name):
    before, after = pictures(), spoil(name)
    assert after.shape == before.shape and float(after.min()) >= 0 and float(after.max()) <= 1
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(after, spoil(name))


def test_shuffles_keep_every_pixel():
    before = pictures()
    flat = before.flatten(2)
    for name in ("patch_shuffle", "pixel_shuffle"):
        after = spoil(name).flatten(2)
        for b, a in zip(flat, after, strict=True):
            assert sorted(map(tuple, b.T.tolist())) == sorted(map(tuple, a.T.tolist()))


def test_patches_stay_whole():
    marked = torch.arange(16.0).view(1, 1, 4, 1, 4, 1).expand(1, 3, 4, 4, 4, 4).reshape(1, 3, 16, 16) / 16
    after = patch_shuffle(marked, torch.Generator().manual_seed(0))
    blocks = after.reshape(1, 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(16, -1)
    assert all(bool((block == block[0]).all()) for block in blocks)
    assert sorted(float(b[0]) for b in blocks) == sorted(i / 16 for i in range(16))


def test_noise_has_the_strength_that_is_stated():
    grey = torch.full((8, 3, 64, 64), 0.5)
    generator = torch.Generator().manual_seed(0)
    noise = gaussian_noise(grey, generator) - 0.5
    assert float(noise.std()) == pytest.approx(0.18, rel=0.02)
    salted = salt_and_pepper(grey, generator)
    assert float((salted != 0.5).float().mean()) == pytest.approx(0.09, rel=0.05)
    assert set(salted.unique().tolist()) == {0.0, 0.5, 1.0}


def test_blur_is_a_normalised_gaussian():
    point = torch.zeros(1, 1, 15, 15)
    point[0, 0, 7, 7] = 1
    spread = blur(point, torch.Generator())[0, 0]
    place = torch.arange(15.0) - 7
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    assert float((spread.sum(0) * place**2).sum()) == pytest.approx(1, rel=0.05)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(blur(flat, torch.Generator()), flat)


def test_sides_that_cannot_be_cut_are_refused():
    with pytest.raises(DataError, match="10 x 16"):
        patch_shuffle(torch.zeros(1, 3, 10, 16), torch.Generator())

"""Augmentation inside the game: each change by its definition, first and second derivatives, seeds."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.nn.diffaugment import NUMBERS, DiffAugment

NONE = DiffAugment(brightness=0, saturation=0, contrast=0, translate=0, cutout=0)


def pictures(size: int = 3, height: int = 8, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def numbers(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(name, 0.5) for name in NUMBERS]], dtype=torch.float64)


def test_nothing_is_nothing():
    x = pictures()
    assert torch.allclose(NONE.apply(x, NONE.draw(3, torch.Generator())), x, atol=1e-12)
    middle = DiffAugment(cutout=0).apply(x[:1], numbers())
    assert torch.allclose(middle, x[:1], atol=1e-12)


def test_colours_are_the_paper_s():
    """Zhao et al. 2020: brightness is added, saturation is around the channels' mean, contrast around the picture's."""
    x = pictures(1)
    lighter = NONE.replace(brightness=0.5).apply(x, numbers(brightness=0.9))
    assert torch.allclose(lighter, x + 0.4, atol=1e-12)
    grey = NONE.replace(saturation=1.0).apply(x, numbers(saturation=0.0))
    assert torch.allclose(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-12)
    flat = NONE.replace(contrast=0.5).apply(x, numbers(contrast=0.0))
    assert torch.allclose(flat, x.mean() + 0.5 * (x - x.mean()), atol=1e-12)


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.999), (0.999, 0.0), (0.5, 0.5), (0.3, 0.8)])
def test_translation_moves_by_whole_pixels_and_brings_in_nought(down, right):
    x, change = pictures(1), NONE.replace(translate=0.25)
    moved = change.apply(x, numbers(down=down, right=right))[0]
    dy, dx = int(down * 5) - 2, int(right * 5) - 2  # a quarter of 8 and of 6 is 2 pixels either way, five places
    wanted = torch.zeros_like(moved)
    for row in range(8):
        for column in range(6):
            if 0 <= row - dy < 8 and 0 <= column - dx < 6:
                wanted[:, row, column] = x[0, :, row - dy, column - dx]
    assert torch.allclose(moved, wanted, atol=1e-12)


def test_every_shift_occurs_equally_often():
    change, x = NONE.replace(translate=0.25), torch.arange(8.0).view(1, 1, 8, 1).expand(4000, 3, 8, 8) + 1
    moved = change.apply(x, change.draw(4000, torch.Generator().manual_seed(0)))
    shift = 5 - moved[:, 0, 4, 4]
    found = torch.bincount((shift + 2).long(), minlength=5).double() / 4000
    assert found.shape == (5,) and float((found - 0.2).abs().max()) < 0.03


def test_cutout_takes_a_square_that_may_lie_outside_in_part():
    change, x = NONE.replace(cutout=0.5), torch.ones(2000, 3, 8, 8)
    cut = change.apply(x, change.draw(2000, torch.Generator().manual_seed(0)))
    gone = (cut == 0).flatten(2)
    assert bool((gone[:, 0] == gone[:, 1]).all())
    counts = gone[:, 0].sum(1)
    assert int(counts.max()) == 16 and int(counts.min()) >= 4
    rows = (cut[:, 0] == 0).any(2).sum(1)
    assert set(rows.tolist()) <= {2, 3, 4}


def test_it_is_linear_so_that_second_derivatives_exist():
    x, change = pictures(2).requires_grad_(), DiffAugment()
    u = change.draw(2, torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda a: change.apply(a, u), (x,))
    assert torch.autograd.gradgradcheck(lambda a: change.apply(a, u).square(), (x,))


def test_each_picture_has_its_own_change_whatever_its_neighbours():
    x, change = pictures(3), DiffAugment()
    u = change.draw(3, torch.Generator().manual_seed(2))
    assert torch.allclose(change.apply(x[1:2], u[1:2]), change.apply(x, u)[1:2], atol=1e-12)
    assert torch.equal(u, change.draw(3, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("changes", [{"cutout": 1.5}, {"brightness": -0.1}, {"translate": float("nan")}])
def test_shares_are_shares(changes):
    with pytest.raises(ConfigError, match="from 0 to 1"):
        DiffAugment(**changes)

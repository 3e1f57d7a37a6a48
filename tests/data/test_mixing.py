"""Mixup and CutMix: shares, pictures, chance."""

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.data.mixing import Mixing


def pictures(batch=64, size=(12, 20)):
    """Pictures of one value each: number 3 is all threes."""
    return torch.arange(batch).float()[:, None, None, None].expand(batch, 3, *size).clone()


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_each_picture_is_made_of_two_in_their_shares(mixing):
    """The mean of a picture is its share of itself and the rest of the other one."""
    mixed, other, share = mixing.mix(pictures(), torch.Generator().manual_seed(0))
    own = torch.arange(64).float()
    wanted = share * own + (1 - share) * other
    assert torch.allclose(mixed.mean((1, 2, 3)), wanted, atol=1e-4)
    assert sorted(other.tolist()) == list(range(64))
    assert 0 <= float(share.min()) < 0.3 and 0.7 < float(share.max()) <= 1


def test_cutmix_puts_in_one_rectangle():
    """Each pixel is of one of the two, and those of the other fill a rectangle."""
    mixed, other, _ = Mixing(cutmix=1.0).mix(pictures(), torch.Generator().manual_seed(1))
    for i, picture in enumerate(mixed):
        assert set(picture.unique().tolist()) <= {float(i), float(other[i])}
        inside = picture[0] == other[i]
        if int(other[i]) != i and inside.any():
            rows, columns = inside.any(1), inside.any(0)
            assert torch.equal(inside, rows[:, None] & columns)


def test_mixup_draws_from_the_beta_distribution():
    """With both parameters 1 shares are uniform; the variance of Beta(a, a) is 1 / (8 a + 4)."""
    for alpha in (1.0, 0.2):
        drawn = [Mixing(mixup=alpha).mix(pictures(512, (1, 1)), torch.Generator().manual_seed(s))[2] for s in range(8)]
        share = torch.cat(drawn).double()
        assert float(share.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(share.var()) == pytest.approx(1 / (8 * alpha + 4), rel=0.08)


def test_both_take_turns_and_the_generator_decides():
    """Some batches are cut and some added; the same seed gives the same bits."""
    mixing = Mixing(mixup=1.0, cutmix=1.0)
    cut = 0
    for seed in range(40):
        mixed = [mixing.mix(pictures(8), torch.Generator().manual_seed(seed))[0] for _ in range(2)]
        assert torch.equal(*mixed)
        cut += int(all(float(v) == int(v) for v in mixed[0].unique()))
    assert 10 < cut < 30


def test_nothing_is_mixed_when_both_are_off():
    """The share is 1 and the pictures are as they were."""
    image = pictures(4)
    mixed, _, share = Mixing().mix(image, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, image) and share.tolist() == [1.0] * 4
    assert not Mixing() and Mixing(mixup=0.1) and Mixing(cutmix=0.1)
    with pytest.raises(ConfigError):
        Mixing(mixup=-1)


def test_erasing_puts_noise_onto_a_rectangle_of_some():
    """As many as the probability says, 2 to 33 % of each; the rest, and the classes, are as they were."""
    image = torch.full((400, 3, 32, 32), 7.0)
    erased, _, share = Mixing(erase=0.25).mix(image, torch.Generator().manual_seed(0))
    assert share.tolist() == [1.0] * 400
    inside = (erased != 7).all(1)
    assert torch.equal(inside, (erased != 7).any(1))
    touched = inside.flatten(1).any(1)
    assert 70 < int(touched.sum()) < 130  # 100 are expected, with a deviation of 8.7
    for found in inside[touched]:
        rows, columns = found.any(1), found.any(0)
        assert torch.equal(found, rows[:, None] & columns)
        assert 0.02 <= float(found.double().mean()) < 0.33 + 2 / 32  # sides are rounded up to whole pixels
    noise = erased[inside[:, None].expand_as(erased)]
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    again = Mixing(erase=0.25).mix(image, torch.Generator().manual_seed(0))[0]
    assert torch.equal(again, erased) and Mixing(erase=0.1)
    with pytest.raises(ConfigError, match="probability"):
        Mixing(erase=1.5)

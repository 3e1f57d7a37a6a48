"""PSNR and SSIM beside torchmetrics, the definition as loops, and their edge cases."""

import math

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.metrics.pictures import psnr, ssim

SIZES = [(11, 11), (12, 31), (17, 11), (33, 64)]


def pictures(batch, height, width, channels=3, seed=0):
    """Smooth pictures with noise, and the same with other noise: pairs that are alike."""
    rng = np.random.default_rng(seed)
    base = np.cumsum(np.cumsum(rng.normal(size=(batch, channels, height, width)), 2), 3)
    base = (base - base.min()) / (base.max() - base.min())
    both = [np.clip(base + rng.normal(scale=0.05, size=base.shape), 0, 1) for _ in range(2)]
    return [torch.from_numpy(x) for x in both]


@pytest.mark.parametrize("peak", [1.0, 255.0])
@pytest.mark.parametrize("size", [(1, 1), *SIZES])
def test_psnr_is_the_definition_and_torchmetrics(size, peak):
    reference = pytest.importorskip("torchmetrics.functional.image").peak_signal_noise_ratio
    x, y = (p * peak for p in pictures(3, *size))
    exact = [10 * math.log10(peak**2 / ((a - b) ** 2).mean()) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    torch.testing.assert_close(psnr(x, y, peak), torch.tensor(exact, dtype=torch.float64), atol=1e-10, rtol=0)
    # torchmetrics takes its logarithms in single precision.
    wanted = torch.stack([reference(a[None], b[None], data_range=peak) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(psnr(x, y, peak), wanted.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("peak", [1.0, 255.0])
@pytest.mark.parametrize("size", SIZES)
def test_ssim_is_torchmetrics(size, peak, channels):
    reference = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    x, y = (p * peak for p in pictures(3, *size, channels))
    # Its mean is over a map that reflects the picture at the border; the places whose window lies inside are the authors'.
    _, whole = reference(x, y, sigma=1.5, data_range=peak, reduction="none", return_full_image=True)
    wanted = whole[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(x, y, peak), wanted, atol=1e-10, rtol=0)


def test_ssim_is_the_definition():
    x, y = pictures(1, 13, 14, 1)
    tap = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    weight = np.outer(tap, tap) / sum(tap) ** 2
    values = []
    for top in range(3):
        for left in range(4):
            a, b = (p[0, 0, top : top + 11, left : left + 11].numpy() for p in (x, y))
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            both = (weight * (a - mean_a) * (b - mean_b)).sum()
            value = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
            values.append(value / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
    assert ssim(x, y).item() == pytest.approx(np.mean(values), abs=1e-12)


def test_equal_pictures():
    x = pictures(2, 20, 15)[0]
    assert torch.isinf(psnr(x, x)).all() and (psnr(x, x) > 0).all()
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)
    constant = torch.full((1, 3, 12, 12), 0.3)
    assert ssim(constant, constant).item() == pytest.approx(1, abs=1e-12)


def test_a_known_error():
    x = torch.zeros(1, 3, 11, 11)
    assert psnr(x, x + 0.1).item() == pytest.approx(20, abs=1e-5)
    assert psnr(x, x + 25.5, peak=255.0).item() == pytest.approx(20, abs=1e-5)


def test_single_precision_and_bytes_lose_nothing():
    x, y = ((p * 255).round() for p in pictures(2, 16, 16))
    for metric in (psnr, ssim):
        torch.testing.assert_close(metric(x.byte(), y.byte(), 255.0), metric(x, y, 255.0), atol=0, rtol=0)


def test_each_picture_by_itself():
    x, y = pictures(5, 23, 12)
    for metric in (psnr, ssim):
        whole = metric(x, y)
        assert whole.shape == (5,) and whole.dtype == torch.float64
        torch.testing.assert_close(metric(x[2:3], y[2:3]), whole[2:3], atol=0, rtol=1e-14)


def test_gradients_reach_both_pictures():
    x, y = (p.requires_grad_() for p in pictures(1, 11, 12, 1))
    assert torch.autograd.gradcheck(ssim, (x, y))
    assert torch.autograd.gradcheck(psnr, (x, y))


def test_bad_input_is_said_in_words():
    x = torch.rand(2, 3, 12, 12)
    with pytest.raises(DataError, match="one shape"):
        psnr(x, x[:, :, :11])
    with pytest.raises(DataError, match="one shape"):
        ssim(x[0], x[0])
    with pytest.raises(DataError, match="at least one pixel"):
        psnr(x[:0], x[:0])
    with pytest.raises(DataError, match="11 x 11"):
        ssim(x[..., :10], x[..., :10])
    broken = x.clone()
    broken[1, 0, 0, 0] = math.nan
    for metric in (psnr, ssim):
        with pytest.raises(DataError, match="Picture 1"):
            metric(x, broken)
        with pytest.raises(ValueError, match="peak"):
            metric(x, x, peak=0.0)

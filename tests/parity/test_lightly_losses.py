"""NT-Xent and VICReg: equal to lightly's, values and gradients."""

import pytest
import torch

from intermodal.losses.nt_xent import nt_xent
from intermodal.losses.vicreg import vicreg

pytestmark = pytest.mark.vision


def lightly_loss():
    return pytest.importorskip("lightly.loss", reason="lightly is not installed")


def same(ours, theirs, inputs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert (a - b).abs().max() < 1e-12


def views():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(20, 6, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent(temperature):
    x, y = views()
    same(nt_xent(x, y, temperature), lightly_loss().NTXentLoss(temperature)(x, y), [x, y])


def test_vicreg():
    x, y = views()
    invariance, variance, covariance = vicreg(0.8 * x, 0.8 * y)
    # lightly halves the variance term, as the published code does.
    ours = 25 * invariance + 25 * variance / 2 + covariance
    same(ours, lightly_loss().VICRegLoss()(0.8 * x, 0.8 * y), [x, y])

"""Convolutions over frames in rows: torch's own numbers and gradients, whichever layout they are computed in."""

import pytest
import torch

from intermodal.nn.frame_conv import convolve


@pytest.mark.parametrize("sizes", [(3, 2, 0), (2, 2, 1), (4, 3, 2)])
@pytest.mark.parametrize("biased", [False, True])
def test_convolutions_and_their_gradients_are_torchs(sizes, biased):
    kernel, stride, padding = sizes
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 21, 5), (7, 5, kernel), (7,))
    )
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    given = bias if biased else None
    found = convolve(x, weight, given, stride=stride, padding=padding)
    wanted = torch.nn.functional.conv1d(x.transpose(1, 2), weight, given, stride, padding).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    push = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    own, right = (torch.autograd.grad((y * push).sum(), leaves, allow_unused=True) for y in (found, wanted))
    for mine, other in zip(own[: 2 + biased], right[: 2 + biased], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(convolve(x, weight, given, stride=stride, padding=padding), found)

"""The classifier of noisy pictures: the U-Net's way down, its poolings, and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intermodal.core.errors import DataError
from intermodal.nn.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from intermodal.nn.unet import UNet, UNetConfig

TINY = UNetConfig(channels=(8, 16), blocks=1, attention=(1,), groups=4, head_width=8)


def test_the_classifier_is_the_way_down_of_the_u_net():
    """The same weights give the same map in the middle."""
    config = UNetConfig(channels=(8, 16), blocks=2, attention=(0, 1), groups=4, head_width=8)
    torch.manual_seed(0)
    unet, classifier = UNet(config), NoisyClassifier(NoisyClassifierConfig(encoder=config), 5)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    for part in ("conv_in", "time", "down", "middle"):
        getattr(classifier, part).load_state_dict(getattr(unet, part).state_dict())
    seen = []
    for network in (unet, classifier):
        network.middle.register_forward_hook(lambda module, args, output: seen.append(output))
    x, t = torch.randn(2, 3, 9, 7), torch.tensor([3.0, 500.0])
    unet(x, t)
    assert classifier(x, t).shape == (2, 5)
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("pool", ["attention", "mean"])
@pytest.mark.parametrize("changes", [{}, {"resample": "block", "scale_shift": True}, {"middle": False}])
def test_every_kind_of_classifier_is_told_the_time_and_differentiable(pool, changes):
    torch.manual_seed(0)
    network = NoisyClassifier(NoisyClassifierConfig(encoder=TINY.replace(**changes), pool=pool), 4)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 10, 6, requires_grad=True)
    early, late = (network(x, torch.full((2,), t)) for t in (1.0, 900.0))
    assert early.shape == (2, 4) and not torch.allclose(early, late)
    early.sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8), (2, 3, 1, 8)])
def test_the_classifier_names_what_it_takes(shape):
    network = NoisyClassifier(NoisyClassifierConfig(encoder=TINY.replace(resample="block")), 4)
    with pytest.raises(DataError, match=r"takes pictures of shape \(B, 3, H, W\) with at least 2 places"):
        network(torch.zeros(shape), torch.zeros(2))

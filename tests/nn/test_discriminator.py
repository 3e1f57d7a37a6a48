"""The patch discriminator: the published plan, what a score sees, and what it refuses."""

import pytest
import torch
from torch import nn

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.discriminator import PatchDiscriminator, PatchDiscriminatorConfig


def small(**changes):
    return PatchDiscriminatorConfig(**{"channels": 4, "groups": 2, "layers": 2, **changes})


def published(layers):
    """The plan of Isola et al. 2017 written out: C64-C128-C256-C512 and one score, kernels of 4."""
    parts = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
    widths = [64, 128, 256, 512, 512, 512]
    for i in range(1, layers + 1):
        stride = 2 if i < layers else 1
        parts += [
            nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
            nn.BatchNorm2d(widths[i]),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*parts, nn.Conv2d(widths[layers], 1, 4, 1, 1))


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_with_batch_norm_it_is_the_published_network(layers):
    torch.manual_seed(0)
    ours = PatchDiscriminator(PatchDiscriminatorConfig(norm="batch", layers=layers)).double()
    theirs = published(layers).double()
    assert len(ours.layers) == len(theirs)
    theirs.load_state_dict(ours.layers.state_dict())
    image = torch.randn(2, 3, 67, 90, dtype=torch.float64)
    assert torch.allclose(ours(image), theirs(image), rtol=0, atol=1e-10)
    if layers == 3:
        assert ours.config.patch == 70


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_score_sees_its_patch_and_no_more(layers, patch):
    """By the gradient: a score in the middle depends on exactly so many rows and columns."""
    config = small(layers=layers, norm="none")
    assert config.patch == patch
    torch.manual_seed(1)
    network = PatchDiscriminator(config).double()
    side = patch + 40
    image = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    seen = image.grad[0].abs().amax(0) > 0
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == patch


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("size", [(16, 16), (33, 20), (64, 49)])
def test_shape_and_gradients(norm, size, gradients_reach):
    torch.manual_seed(0)
    network = PatchDiscriminator(small(norm=norm)).double()
    scores = network(torch.randn(2, 3, *size, dtype=torch.float64))
    assert scores.shape == (2, 1, *network.config.map_shape(*size))
    gradients_reach(network, scores)


@torch.no_grad()
def test_with_the_group_norm_pictures_of_a_batch_do_not_meet():
    network = PatchDiscriminator(small()).double()
    image = torch.randn(3, 3, 20, 20, dtype=torch.float64)
    alone = torch.cat([network(one[None]) for one in image])
    assert torch.allclose(network(image), alone, rtol=0, atol=1e-12)


def test_what_it_refuses():
    network = PatchDiscriminator(small(layers=3))
    with pytest.raises(DataError, match="no patch in 8 x 40 pixels"):
        network(torch.zeros(1, 3, 8, 40))
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        network(torch.zeros(1, 1, 64, 64))
    for changes in ({"channels": 5}, {"layers": 0}, {"norm": "layer"}, {"groups": 0}):
        with pytest.raises(ConfigError, match="Discriminator"):
            small(**changes)

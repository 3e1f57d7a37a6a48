"""DiT without its reference: sizes, bad input, gradients, precision."""

import pytest
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.dit import DiT, DiTConfig

TINY = {"size": 8, "patch": 2, "width": 16, "depth": 2, "heads": 2}


def make(**change):
    torch.manual_seed(0)
    return DiT(DiTConfig(**{**TINY, **change}))


def picture(*size, channels=3):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (4, 10), (16, 6)])
def test_any_size_that_patches_divide(size, randomise):
    network = randomise(make(out_channels=6))
    assert network(picture(*size), torch.tensor([3, 700])).shape == (2, 6, *size)


def test_a_patch_stays_where_it_is(randomise):
    """Without blocks, a pixel's output depends on its own patch alone, also where height and width differ."""
    network = randomise(make()).double()
    network.blocks = torch.nn.ModuleList()
    x = picture(4, 6).double()
    changed = x.clone()
    changed[:, :, 2:4, 4:6] += 1
    t = torch.zeros(2)
    moved = (network(changed, t) - network(x, t)).abs().sum((0, 1)) > 1e-12
    wanted = torch.zeros(4, 6, dtype=torch.bool)
    wanted[2:4, 4:6] = True
    assert torch.equal(moved, wanted)


def test_it_begins_with_nothing_and_blocks_as_the_identity():
    network = make()
    assert float(network(picture(8, 8), torch.zeros(2)).detach().abs().max()) == 0
    x, told = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.equal(network.blocks[0](x, told), x)


@pytest.mark.parametrize("change", [{}, {"classes": 5}, {"pooled_dim": 6}])
def test_gradients_reach_every_parameter(change, randomise, gradients_reach):
    network = randomise(make(**change).double())
    classes = torch.tensor([1, 5]) if "classes" in change else None
    pooled = torch.randn(2, 6).double() if "pooled_dim" in change else None
    out = network(picture(8, 8).double(), torch.tensor([3, 700]), classes, pooled_BE=pooled)
    # What is added to all keys alike falls out of the softmax; of the class's table only two rows are used.
    gradients_reach(network, out)


def test_bfloat16(randomise):
    network = randomise(make())
    x, t = picture(8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        full, half = network(x, t), network.bfloat16()(x.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).abs().mean()) < 0.1 * float(full.abs().mean())


def test_configuration_survives_json():
    config = DiTConfig(**{**TINY, "classes": 3})
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"depth": 0}, "at least 1"),
        ({"classes": 0}, "at least 1"),
        ({"heads": 3}, "3 heads"),
        ({"width": 18, "heads": 2}, "multiple of 4"),
        ({"patch": 3}, "do not divide"),
    ],
)
def test_wrong_configurations_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        DiTConfig(**{**TINY, **change})


def test_wrong_input_is_named():
    t = torch.zeros(2)
    with pytest.raises(DataError, match="multiples of that, found 7 x 8"):
        make()(picture(7, 8), t)
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        make()(picture(8, 8, channels=4), t)
    with pytest.raises(DataError, match="no class"):
        make()(picture(8, 8), t, torch.zeros(2).long())
    with pytest.raises(DataError, match="a class"):
        make(classes=3)(picture(8, 8), t)
    with pytest.raises(DataError, match="a pooled vector"):
        make(pooled_dim=3)(picture(8, 8), t)

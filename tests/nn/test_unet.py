"""The U-Net without its reference: sizes, bad input, gradients, precision, and the time that it is told."""

import pytest
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.timestep import TimeEmbedding, sinusoid
from intermodal.nn.unet import UNet, UNetConfig

TINY = {"channels": (8, 16, 16), "blocks": 1, "groups": 4, "head_width": 8, "attention": (1, 2)}


def make(**change):
    torch.manual_seed(0)
    return UNet(UNetConfig(**{**TINY, **change}))


def picture(*size, channels=3, count=2):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 7), (8, 8), (13, 10)])
@pytest.mark.parametrize("resample", ["conv", "block"])
def test_any_size(size, resample):
    network = make(resample=resample)
    x, t = picture(*size), torch.tensor([3, 700])
    if resample == "block" and min(size) < 4:
        with pytest.raises(DataError, match="at least 4 places"):
            network(x, t)
    else:
        assert network(x, t).shape == x.shape


def test_it_begins_with_nothing():
    assert float(make()(picture(8, 8), torch.zeros(2)).detach().abs().max()) == 0


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scale_shift": True, "resample": "block", "classes": 5},
        {"class_kind": "time", "up_attention": (0,), "mid_attention": False},
        {"class_kind": "vector"},
        {"context_dim": 6, "heads": 2, "depth": 2},
        {"context_dim": 6, "heads": (1, 2, 4), "linear_projection": True},
    ],
)
def test_gradients_reach_every_parameter(change, randomise, gradients_reach):
    network = randomise(make(**change).double())
    told = {"label": torch.tensor([1, 4]), "time": torch.tensor([1.0, 4.0]), "vector": torch.randn(2, 32).double()}
    kind = "label" if "classes" in change else change.get("class_kind")
    context = torch.randn(2, 3, 6).double() if "context_dim" in change else None
    out = network(picture(8, 8).double(), torch.tensor([3, 700]), told.get(kind), context_BSE=context)
    gradients_reach(network, out)


def test_each_sample_is_its_own(randomise):
    network = randomise(make(classes=5)).double().eval()
    x, t, c = picture(6, 6).double(), torch.tensor([3, 700]), torch.tensor([0, 2])
    both = network(x, t, c)
    assert torch.allclose(network(x[1:], t[1:], c[1:]), both[1:])
    assert not torch.allclose(network(x, t.flip(0), c), both)
    assert not torch.allclose(network(x, t, c.flip(0)), both)


def test_a_mask_hides_the_context(randomise):
    network = randomise(make(context_dim=6, heads=2)).double().eval()
    x, t = picture(4, 4).double(), torch.tensor([3, 700])
    context = torch.randn(2, 5, 6, dtype=torch.float64)
    other = context.clone()
    other[:, 3:] = 9
    mask = torch.arange(5).expand(2, 5) < 3
    seen = network(x, t, context_BSE=context, mask_BS=mask)
    assert torch.allclose(seen, network(x, t, context_BSE=other, mask_BS=mask))
    assert torch.allclose(seen, network(x, t, context_BSE=context[:, :3]))
    assert not torch.allclose(seen, network(x, t, context_BSE=context))


@pytest.mark.parametrize("change", [{}, {"scale_shift": True, "resample": "block"}])
def test_bfloat16(change, randomise):
    network = randomise(make(**change))
    x, t = picture(8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        full = network(x, t)
        half = network.bfloat16()(x.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).abs().mean()) < 0.05 * float(full.abs().mean())
    out = network(x.bfloat16(), t)
    out.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_autocast_trains(randomise):
    network = randomise(make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(picture(8, 8), torch.tensor([3, 700]))
    out.float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


def test_dropout_is_for_training_alone(randomise):
    network = randomise(make(dropout=0.5))
    x, t = picture(8, 8), torch.tensor([3, 700])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_configuration_survives_json():
    config = UNetConfig(**{**TINY, "heads": (1, 2, 4), "context_dim": 6})
    assert Config.from_dict(config.to_dict()) == config


def test_waves():
    """Vaswani et al. 2017 in plain numbers; with shift 1 the lowest frequency is 1 / 10,000."""
    import math

    t = torch.tensor([0, 5])
    waves = sinusoid(t, 6, shift=1)
    for place, frequency in enumerate((1, 1 / 100, 1 / 10_000)):
        assert float(waves[1, place]) == pytest.approx(math.cos(5 * frequency), abs=1e-6)
        assert float(waves[1, 3 + place]) == pytest.approx(math.sin(5 * frequency), abs=1e-6)
    assert waves[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(sinusoid(t, 6, shift=1, sine_first=True), torch.cat((waves[:, 3:], waves[:, :3]), 1))
    assert sinusoid(t, 7)[:, 6].tolist() == [0, 0]
    assert TimeEmbedding(6, 10).double()(t).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"channels": ()}, "at least one level"),
        ({"blocks": 0}, "at least 1"),
        ({"groups": 3}, "multiples of the 3 groups"),
        ({"attention": (3,)}, "levels 0 to 2"),
        ({"up_attention": (-1,)}, "levels 0 to 2"),
        ({"head_width": 5}, "no multiple of the 5"),
        ({"heads": (1, 2)}, "as many numbers"),
        ({"heads": 3}, "cannot be shared"),
        ({"down_padding": 2}, "down_padding"),
        ({"dropout": 1.0}, "dropout"),
        ({"class_kind": "label"}, "number of classes"),
        ({"classes": 3, "class_kind": "time"}, "goes with labels"),
    ],
)
def test_wrong_configurations_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        UNetConfig(**{**TINY, **change})


def test_wrong_input_is_named():
    t, x = torch.zeros(2), picture(8, 8)
    for change, arguments, options, word in (
        ({}, (picture(8, 8, channels=1), t), {}, r"\(B, 3, H, W\), found \[2, 1, 8, 8\]"),
        ({}, (x[0], t), {}, "found"),
        ({}, (x, t, torch.zeros(2)), {}, "told no class"),
        ({"classes": 3}, (x, t), {}, "told a class"),
        ({}, (x, t), {"context_BSE": torch.zeros(2, 3, 4)}, "reads no context"),
        ({"context_dim": 6, "heads": 1}, (x, t), {}, "reads a context"),
        ({"context_dim": 6, "heads": 1}, (x, t), {"context_BSE": torch.zeros(2, 3, 4)}, r"\(B, S, 6\), found"),
    ):
        with pytest.raises(DataError, match=word):
            make(**change)(*arguments, **options)

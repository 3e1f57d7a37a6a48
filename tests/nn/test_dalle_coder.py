"""DALL-E's networks and likelihood: layout, precision, what they refuse, and that the density integrates to one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.dalle_coder import (
    BottleneckBlock,
    DalleCoderConfig,
    DalleDecoder,
    DalleEncoder,
    logit_laplace_log_prob,
    map_pixels,
    unmap_pixels,
)


def small(**changes):
    return DalleCoderConfig(**{"codes": 11, "hidden": 8, "multiples": (1, 2), "decoder_hidden": 5, **changes})


def test_the_default_is_the_published_size():
    """8,192 codes, 256 channels, four groups of two blocks, one code for 8 x 8 pixels (Ramesh et al. 2021, appendix A.1)."""
    config = DalleCoderConfig()
    assert (config.codes, config.widths, config.stride) == (8192, (256, 512, 1024, 2048), 8)
    assert config.post_gain == 1 / 64
    with torch.device("meta"):
        encoder, decoder = DalleEncoder(config), DalleDecoder(config)
    assert [encoder.stem.kernel_size, encoder.head.kernel_size] == [(7, 7), (1, 1)]
    assert [decoder.stem.kernel_size, decoder.head.kernel_size] == [(1, 1), (1, 1)]
    kernels = [[[conv.kernel_size[0] for conv in n.groups[0][0].convs] for n in (encoder, decoder)]]
    assert kernels == [[[3, 3, 3, 1], [1, 3, 3, 3]]]
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("multiples", [(1,), (1, 2), (1, 2, 4, 8), (2, 3, 1)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_shapes_and_gradients(multiples, blocks, gradients_reach):
    torch.manual_seed(0)
    config = small(multiples=multiples, blocks=blocks, hidden=32)  # in narrower bottlenecks all ReLUs can be dead
    encoder, decoder = DalleEncoder(config).double(), DalleDecoder(config).double()
    logits = encoder(torch.rand(2, 3, 16, 24, dtype=torch.float64))
    assert logits.shape == (2, 11, 16 // config.stride, 24 // config.stride)
    location, log_scale = decoder(logits.softmax(1))
    assert location.shape == log_scale.shape == (2, 3, 16, 24)
    gradients_reach(encoder, logits)
    gradients_reach(decoder, *decoder(logits.detach().softmax(1)))


def test_a_block_is_its_equation():
    torch.manual_seed(0)
    for before, after in ((8, 8), (5, 12)):
        block = BottleneckBlock(before, after, 0.3, (3, 3, 3, 1)).double()
        x = torch.randn(2, before, 5, 7, dtype=torch.float64)
        path = x
        for conv in block.convs:
            path = F.conv2d(F.relu(path), conv.weight, conv.bias, padding="same")
        skip = x if before == after else F.conv2d(x, block.identity.weight, block.identity.bias)
        torch.testing.assert_close(block(x), skip + 0.3 * path, rtol=0, atol=1e-12)


def test_a_looked_up_code_is_the_mixture_of_it_alone(randomise):
    config = small()
    decoder = randomise(DalleDecoder(config).double())
    codes = torch.arange(12).reshape(2, 2, 3) % config.codes
    single = F.one_hot(codes, config.codes).movedim(-1, 1).double()
    for found, wanted in zip(decoder.of_codes(codes), decoder(single), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_the_convolutions_at_the_codes_stay_in_float32_under_autocast():
    config = small(hidden=16, gain=0.5)
    torch.manual_seed(0)
    encoder, decoder = DalleEncoder(config), DalleDecoder(config)
    inputs = {}
    for name, layer in {"head": encoder.head, "stem": decoder.stem}.items():
        layer.register_forward_hook(
            lambda _, given, out, name=name: inputs.update({name: (given[0].detach(), out.dtype)})
        )
    with torch.autocast("cpu", torch.bfloat16):
        logits = encoder(torch.rand(2, 3, 8, 8))
        location, log_scale = decoder(logits.softmax(1))
    assert logits.dtype == location.dtype == log_scale.dtype == torch.float32
    given, kind = inputs["head"]
    assert given.dtype == torch.bfloat16 and kind == inputs["stem"][1] == torch.float32
    assert torch.equal(logits, F.conv2d(given.float(), encoder.head.weight, encoder.head.bias))


def test_a_network_of_another_precision_works_whole():
    config = small()
    for dtype in (torch.bfloat16, torch.float64):
        encoder, decoder = DalleEncoder(config).to(dtype), DalleDecoder(config).to(dtype)
        logits = encoder(torch.rand(1, 3, 8, 8, dtype=dtype))
        assert logits.dtype == decoder(logits.softmax(1))[0].dtype == dtype


def test_activations_neither_grow_nor_vanish_at_the_start():
    """The published initialisation: deep networks begin near the identity paths alone."""
    torch.manual_seed(0)
    config = DalleCoderConfig(codes=64, hidden=32, blocks=4)
    logits = DalleEncoder(config)(torch.rand(4, 3, 32, 32)).detach()
    assert 0.05 < float(logits.std()) < 5


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": 1},
        {"channels": 0},
        {"blocks": 0},
        {"multiples": ()},
        {"hidden": 6},
        {"hidden": 2},
        {"multiples": (0, 1)},
    ],
    ids=str,
)
def test_bad_sizes_are_refused(changes):
    with pytest.raises((ConfigError, DataError), match="DalleCoder"):
        small(**changes)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 1, 8), (1, 3, 8, 1)])
def test_pictures_that_do_not_fit_are_refused(shape):
    with pytest.raises(DataError, match="3 channels and at least 2 pixels"):
        DalleEncoder(small())(torch.zeros(shape))


def test_odd_sizes_lose_their_last_row_and_column():
    encoder = DalleEncoder(small()).double()
    image = torch.rand(1, 3, 9, 13, dtype=torch.float64)
    assert encoder(image).shape == (1, 11, 4, 6)


def test_pixels_are_mapped_to_where_the_likelihood_lives():
    """Equation 3: 0 to 0.1, 1 to 0.9; the inverse bounds what a decoder says."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mapped = map_pixels(levels)
    assert float(mapped[0]) == pytest.approx(0.1, abs=1e-15) and float(mapped[-1]) == pytest.approx(0.9, abs=1e-15)
    torch.testing.assert_close(unmap_pixels(mapped), levels, rtol=0, atol=1e-15)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]


@settings(deadline=None, max_examples=30)
@given(location=st.floats(-4, 4), log_scale=st.floats(-3, 0.5))
def test_the_density_integrates_to_one(location, log_scale):
    """By quadrature over 0..1, in pieces that crowd at both ends and meet at the median, where the density has its kink."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = np.concatenate([np.linspace(-33, location, 300), np.linspace(location, 33, 300)[1:]])
    middle, half = (edges[1:] + edges[:-1])[:, None] / 2, (edges[1:] - edges[:-1])[:, None] / 2
    logit = torch.from_numpy(middle + half * nodes)
    x = logit.sigmoid()
    density = logit_laplace_log_prob(x, torch.tensor(location), torch.tensor(log_scale)).exp()
    slope = x * (1 - x)  # dx = x (1 - x) d logit
    assert float((density * slope * torch.from_numpy(half * weights)).sum()) == pytest.approx(1, abs=1e-6)


def test_the_density_is_that_of_a_sigmoid_of_a_laplace_variable():
    """Change of variables from torch's Laplace distribution, value and gradients."""
    torch.manual_seed(0)
    x = torch.rand(200, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    location, log_scale = (torch.randn(200, dtype=torch.float64).requires_grad_() for _ in range(2))
    laplace = torch.distributions.Laplace(location, log_scale.exp())
    reference = torch.distributions.TransformedDistribution(laplace, torch.distributions.SigmoidTransform())
    wanted = reference.log_prob(x)
    found = logit_laplace_log_prob(x, location, log_scale)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(v.sum(), (location, log_scale)) for v in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_density_is_the_equation_of_the_paper():
    """Equation 2 as it is printed."""
    x, mu, b = 0.3, -0.4, 0.7
    wanted = 1 / (2 * b * x * (1 - x)) * math.exp(-abs(math.log(x / (1 - x)) - mu) / b)
    found = logit_laplace_log_prob(*(torch.tensor(v, dtype=torch.float64) for v in (x, mu, math.log(b))))
    assert float(found) == pytest.approx(math.log(wanted), abs=1e-12)

"""Linear layers and 1 x 1 convolutions by oneDNN: the same numbers, names and gradients as torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intermodal.nn.linear import Linear, pointwise, quicken
from intermodal.nn.transformer import attend


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-5 * float(wanted.detach().abs().max()))


@pytest.mark.parametrize("shape", [(256, 12), (4, 128, 12), (3, 100, 12), (2, 1, 12), (0, 12), (12,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(12, 7, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    wanted = layer.weight.detach().double().requires_grad_()
    y = x.detach().double().requires_grad_()
    b = layer.bias.detach().double().requires_grad_() if bias else None
    got, right = layer(x), F.linear(y, wanted, b)
    weight = torch.randn(right.shape, dtype=torch.float64)
    (got * weight).sum().backward()
    (right * weight).sum().backward()
    pairs = [(got, right), (x.grad, y.grad), (layer.weight.grad, wanted.grad)] + (
        [(layer.bias.grad, b.grad)] if b is not None else []
    )
    for mine, theirs in pairs:
        assert mine.shape == theirs.shape
        if mine.numel():
            close(mine, theirs)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 12), (33, 12), (197, 12), (2, 50, 12), (2, 3, 40, 12), (0, 12), (12,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_where_nothing_is_learnt(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(12, 7, bias=bias)
    for x in (torch.randn(shape), torch.randn(*shape[:-1], 24)[..., ::2]):
        got = layer(x)
        wanted = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        assert got.shape == wanted.shape
        if got.numel():
            close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_go_the_usual_way(dtype: torch.dtype) -> None:
    layer, x = Linear(8, 8, dtype=dtype), torch.randn(512, 8, dtype=dtype)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_autocast_computes_in_half_precision() -> None:
    layer, x = Linear(8, 8), torch.randn(512, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(1, 16, 16), (4, 8, 8), (2, 5, 7), (1, 1, 1)])
def test_pointwise_is_the_convolution(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, 1)
    for memory in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(size[0], 6, *size[1:]).contiguous(memory_format=memory)
        wanted = F.conv2d(x.double(), layer.weight.double(), layer.bias.double())
        close(pointwise(layer, x), wanted)


def test_quicken_keeps_names_values_and_the_random_state() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Conv2d(1, 1, 1))
    before, state = network.state_dict(), torch.get_rng_state()
    kept = list(network.parameters())
    quicken(network)
    assert all(mine is theirs for mine, theirs in zip(network.parameters(), kept, strict=True))
    assert list(network.state_dict()) == list(before)
    assert [type(m) for m in network.modules()][1:] == [Linear, nn.Sequential, Linear, nn.Conv2d]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_half_precision_is_near_that_in_single(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (40, 24, 24))
    mask = torch.rand(2, 1, 1, 24, generator=generator) > 0.4 if masked else None
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    got = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask=mask, dropout=0.0, causal=False)
    assert got.dtype == torch.bfloat16
    assert float((got.float() - wanted).abs().max()) < 0.02 * float(wanted.abs().max())

"""Linear layers and 1 x 1 convolutions by oneDNN: the same numbers, names and gradients as torch's own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intermodal.nn.linear import Linear, linear, pointwise, quicken
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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set how many threads torch has, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SIZES = [(1, 12, 7), (4, 64, 64), (2, 3, 5), (1, 768, 3000), (3, 4096, 40), (1, 200_000, 3), (1, 1, 5000)]
"""Rows, values in, values out: less than a piece of the matrix, many, and rows longer than a piece."""


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_are_multiplied_as_torch_does(
    threads: Callable[[int], None], size: tuple[int, int, int], dtype: torch.dtype, bias: bool, count: int
) -> None:
    kernels = pytest.importorskip("intermodal.nn.linear_kernels")
    threads(count)
    rows, inputs, outputs = size
    generator = torch.Generator().manual_seed(0)
    x, weight, b = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    got = kernels.multiply(x, weight, b if bias else None)
    wanted = F.linear(x.double(), weight.double(), b.double() if bias else None)
    assert got.dtype == dtype
    if dtype == torch.float32:
        close(got, wanted)
    else:  # sums in single precision, rounded once
        torch.testing.assert_close(got, wanted.to(dtype), rtol=2**-7, atol=1e-5 * inputs**0.5)


@torch.no_grad()
def test_few_rows_are_the_same_bits_for_any_number_of_threads_and_from_several_at_once(
    threads: Callable[[int], None],
) -> None:
    layer, x = Linear(768, 3072).requires_grad_(False), torch.randn(1, 768)
    threads(1)
    alone = layer(x)
    threads(2)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(alone, found) for found in pool.map(layer, [x] * 200))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_in_any_memory_are_torchs(dtype: torch.dtype) -> None:
    wide = torch.randn(80, 200).to(dtype)
    for weight in (wide[:, ::2], wide[:, :100], wide.t()[:100].t(), wide[:, :100].contiguous()):
        for x in (torch.randn(2, 1, 100), torch.randn(2, 1, 200)[..., ::2], torch.randn(100)):
            got, wanted = linear(x.to(dtype), weight), F.linear(x.to(dtype).double(), weight.double())
            assert got.dtype == dtype
            assert got.shape == wanted.shape
            torch.testing.assert_close(
                got.double(), wanted, rtol=0, atol=(1e-5 if dtype == torch.float32 else 0.01) * 40
            )


def test_few_rows_keep_the_gradient() -> None:
    layer, x = Linear(128, 128), torch.randn(1, 128, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0, keepdim=True))


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_half_precision_is_near_that_in_single(masked: bool, queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (queries, 24, 24))
    mask = torch.rand(2, 1, 1, 24, generator=generator) > 0.4 if masked else None
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    got = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask=mask, dropout=0.0, causal=False)
    assert got.dtype == torch.bfloat16
    assert float((got.float() - wanted).abs().max()) < 0.02 * float(wanted.abs().max())

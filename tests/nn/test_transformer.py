"""The attention and the block against the paper's equations written out, and their properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.errors import ConfigError
from intermodal.nn.transformer import (
    ACTIVATIONS,
    MLP,
    Attention,
    Block,
    GatedMLP,
    Transformer,
    block_flops,
    build_transformer,
    quick_gelu,
)


def brute_force(attention, x, context=None, allowed=None):
    """Vaswani et al. 2017, equation 1, one pair of positions and one head at a time, in float64."""
    width = attention.out.in_features
    size = width // attention.heads
    if context is None:
        context = x
        q, k, v = attention.qkv(x).split(width, dim=-1)
    else:
        q = attention.q(x)
        k, v = attention.kv(context).split(width, dim=-1)
    out = torch.zeros(*x.shape[:2], width, dtype=x.dtype)
    for b in range(x.shape[0]):
        for h in range(attention.heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(x.shape[1]):
                seen = [j for j in range(context.shape[1]) if allowed is None or allowed(b, h, i, j)]
                scores = [float(q[b, i, part] @ k[b, j, part]) / math.sqrt(size) for j in seen]
                weights = [math.exp(s - max(scores)) for s in scores]
                for j, weight in zip(seen, weights, strict=True):
                    out[b, i, part] += weight / sum(weights) * v[b, j, part]
    return attention.out(out)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "keys", "pairs", "heads"])
def test_self_attention_is_the_equation(causal, mask, randomise):
    """With and without causality, for every form of mask."""
    attention = randomise(Attention(12, 3, causal=causal).double())
    x = draw(2, 5, 12)
    shape = {None: None, "keys": (2, 5), "pairs": (2, 5, 5), "heads": (2, 3, 5, 5)}[mask]
    given_mask = None
    if shape is not None:
        given_mask = draw(*shape, seed=2) > 0
        given_mask[..., 0] = True  # each query needs a key
    full = {None: None, "keys": lambda m: m[:, None, None], "pairs": lambda m: m[:, None]}.get(mask, lambda m: m)
    seen = None if given_mask is None else full(given_mask).expand(2, 3, 5, 5)

    def allowed(b, h, i, j):
        return (not causal or j <= i) and (seen is None or bool(seen[b, h, i, j]))

    wanted = brute_force(attention, x, allowed=allowed)
    assert torch.allclose(attention(x, mask=given_mask), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_cross_attention_is_the_equation(randomise):
    """Queries of one width, a context of another length and width, an output of a third."""
    attention = randomise(Attention(8, 2, context_dim=5, output_dim=3).double())
    x, context = draw(2, 4, 8), draw(2, 7, 5, seed=2)
    mask = draw(2, 7, seed=3) > 0
    mask[:, 2] = True
    wanted = brute_force(attention, x, context)
    assert torch.allclose(attention(x, context), wanted, rtol=0, atol=1e-12)
    wanted = brute_force(attention, x, context, lambda b, h, i, j: bool(mask[b, j]))
    assert torch.allclose(attention(x, context, mask=mask), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_float32_is_near_float64(randomise):
    """Single precision loses no more than its rounding."""
    attention = randomise(Attention(32, 4))
    x = draw(3, 9, 32)
    found = attention(x.float())
    wanted = attention.double()(x)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


@settings(deadline=None, max_examples=20)
@given(length=st.integers(2, 9), data=st.data())
@torch.no_grad()
def test_later_tokens_cannot_influence_earlier_ones(length, data):
    """Change any position of a causal stack: what comes before it does not move by a bit."""
    position = data.draw(st.integers(1, length - 1))
    torch.manual_seed(length)
    stack = build_transformer(8, 2, 2, 16, activation="gelu", causal=True).double()
    x = draw(1, length, 8)
    y = x.clone()
    y[:, position] += 1
    before, after = stack(x), stack(y)
    assert torch.allclose(before[:, :position], after[:, :position], rtol=0, atol=1e-14)
    assert not torch.allclose(before[:, position:], after[:, position:])


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 6), padding=st.integers(0, 5))
@torch.no_grad()
def test_masked_padding_does_not_matter(length, padding):
    """However much padding, and whatever is in it, the real positions are the same."""
    torch.manual_seed(padding)
    stack = build_transformer(8, 2, 2, 16, activation="quick_gelu").double()
    x = draw(2, length, 8)
    padded = torch.cat([x, 100 * draw(2, padding, 8, seed=5)], dim=1)
    mask = (torch.arange(length + padding) < length).expand(2, -1)
    assert torch.allclose(stack(x), stack(padded, mask=mask)[:, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name):
    """Each against its definition, values and derivatives."""
    formulas = {
        "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
        "silu": lambda x: x / (1 + torch.exp(-x)),
        "relu": lambda x: x * (x > 0),
    }
    x = torch.linspace(-9, 9, 181, dtype=torch.float64, requires_grad=True)
    found, wanted = ACTIVATIONS[name](x), formulas[name](x)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-14)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (found, wanted)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-13)
    assert torch.isfinite(quick_gelu(torch.tensor([-1e30, 1e30]))).all()


@torch.no_grad()
def test_the_block_is_its_equations(randomise):
    """Pre-norm, both residuals (Dosovitskiy et al. 2021, equations 2 and 3)."""
    block = randomise(Block(8, Attention(8, 2), MLP(8, 20, "gelu"), norm_eps=1e-3).double())

    def norm(x, layer):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-3).sqrt() * layer.weight + layer.bias

    x = draw(2, 5, 8)
    y = x + block.attention(norm(x, block.norm1))
    wanted = y + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(y, block.norm2))))
    assert torch.allclose(block(x), wanted, rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter(randomise, gradients_reach):
    """Nothing in the stack or in cross-attention is left out of the graph."""
    stack = randomise(build_transformer(8, 2, 2, 12, activation="gelu", causal=True).double())
    gradients_reach(stack, stack(draw(2, 5, 8)))
    cross = randomise(Attention(8, 2, context_dim=6).double())
    gradients_reach(cross, cross(draw(2, 3, 8), draw(2, 4, 6)))


def test_gradients_are_the_numerical_ones(randomise):
    """Of the attention in all its forms."""
    attention = randomise(Attention(4, 2, causal=True).double())
    mask = torch.tensor([[True, True, False]])
    x = draw(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(attention, (x,))
    assert torch.autograd.gradcheck(lambda x: attention(x, mask=mask), (x,))


@pytest.mark.parametrize("depth", [1, 12])
def test_initialisation(depth):
    """The standard deviations of CLIP's published code, and zero biases."""
    torch.manual_seed(0)
    stack = build_transformer(128, depth, 4, 512, activation="gelu")
    block = stack.blocks[-1]
    writes = 128**-0.5 * (2 * depth) ** -0.5
    for layer, std in (
        (block.attention.qkv, 128**-0.5),
        (block.attention.out, writes),
        (block.mlp.fc1, 256**-0.5),
        (block.mlp.fc2, writes),
    ):
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()


def test_flops_are_what_torch_counts():
    """Every product of the forward pass is counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    stack = build_transformer(24, 1, 3, 40, activation="gelu")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stack(torch.zeros(1, 7, 24))
    assert counter.get_total_flops() == block_flops(7, 24, 40)


def test_wrong_use_is_an_error():
    """Sizes that do not divide, an unknown activation, a context where none belongs."""
    with pytest.raises(ConfigError, match="multiple"):
        Attention(10, 3)
    with pytest.raises(ConfigError, match="relu6"):
        MLP(4, 8, "relu6")
    x = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="needs a context"):
        Attention(4, 2, context_dim=4)(x)
    with pytest.raises(ValueError, match="self-attention"):
        Attention(4, 2)(x, x)


def test_a_stack_takes_any_blocks():
    """The stack calls what it is given, in order."""

    class Add(torch.nn.Module):
        def forward(self, x, *, mask=None):
            return 2 * x + 1

    assert float(Transformer([Add(), Add()])(torch.ones(1))) == 7


def test_gated_mlp_is_the_equation():
    """Shazeer 2020: half of the hidden layer, times the GELU of the other half."""
    mlp, x = GatedMLP(6, 10).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    value, gate = (x @ w.T + b for w, b in zip(mlp.fc1.weight.chunk(2), mlp.fc1.bias.chunk(2), strict=True))
    gelu = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
    assert torch.allclose(mlp(x), (value * gelu) @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_attention_without_biases_at_its_input():
    for options in ({}, {"context_dim": 5}):
        names = [n for n, _ in Attention(8, 2, input_bias=False, **options).named_parameters()]
        assert [n for n in names if n.endswith("bias")] == ["out.bias"]

"""sigmoid_loss against the equation, written plainly in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from intermodal.losses.contrastive import sigmoid_loss


def reference(image, text, scale, bias):
    """Algorithm 1 of the SigLIP paper, one pair at a time: -log sigmoid(x) = log(1 + exp(-x))."""
    batch = len(image)
    total = torch.zeros((), dtype=image.dtype)
    for i in range(batch):
        for j in range(batch):
            z = 1 if i == j else -1
            x = z * (scale * (image[i] * text[j]).sum() + bias)
            total = total + torch.logaddexp(torch.zeros_like(x), -x)
    return total / batch


def pairs(batch, dim, scale=10.0, bias=-10.0, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        F.normalize(torch.randn(batch, dim, dtype=torch.float64, generator=generator), dim=1).to(dtype).requires_grad_()
        for _ in range(2)
    )
    return (
        image,
        text,
        *(torch.tensor(x, dtype=torch.float64).to(dtype).requires_grad_() for x in (scale, bias)),
    )


def compare(args, tile=None, value=1e-12, gradient=1e-10):
    expected, found = reference(*args), sigmoid_loss(*args, tile=tile)
    assert abs(expected.item() - found.item()) < value * max(1, expected.item())
    theirs = torch.autograd.grad(3 * expected, args)
    ours = torch.autograd.grad(3 * found, args)
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < gradient


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 14),
    dim=st.integers(1, 6),
    tile=st.integers(1, 17),
    scale=st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    bias=st.sampled_from([-10.0, 0.0, 3.0, -80.0]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_equation(batch, dim, tile, scale, bias, seed):
    compare(pairs(batch, dim, scale, bias, seed=seed), tile)


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda *args: sigmoid_loss(*args, tile=3), pairs(7, 4, 5.0, -2.0))


def test_one_pair():
    image, text, s, b = pairs(1, 8)
    expected = math.log1p(math.exp(-(10 * (image * text).sum().item() - 10)))
    assert sigmoid_loss(image, text, s, b).item() == pytest.approx(expected, abs=1e-12)


def test_duplicates():
    image, text, s, b = pairs(4, 8)
    compare((*(x.detach().repeat(2, 1).requires_grad_() for x in (image, text)), s, b), tile=3)


@pytest.mark.parametrize("bias", [-1000.0, 1000.0])
def test_scale_and_bias_beyond_any_exponential(bias):
    compare(pairs(8, 4, 1e4, bias), tile=3, gradient=1e-8)


def test_confident_pairs_keep_their_digits_in_float32():
    """Terms of 1e-13 are the whole loss here: log(1 + x) as written would round them to zero."""
    image = torch.eye(4)
    args = (image, image, torch.tensor(60.0), torch.tensor(-30.0))
    expected = (4 * math.log1p(math.exp(-30)) + 12 * math.log1p(math.exp(-30))) / 4
    assert sigmoid_loss(*args).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_its_inputs(dtype):
    args = pairs(20, 16, dtype=dtype)
    double = [x.detach().double().requires_grad_() for x in args]
    loss, expected = sigmoid_loss(*args, tile=16), reference(*double)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, args), torch.autograd.grad(expected, double), strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max() <= 2 * torch.finfo(dtype).eps * theirs.abs().max()


def test_autocast_does_not_round_logits():
    args = pairs(30, 16, 100.0, dtype=torch.float32)
    plain = sigmoid_loss(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sigmoid_loss(*args).item() == plain.item()


@pytest.mark.parametrize("needs", [(1, 0, 0, 0), (0, 1, 0, 1), (0, 0, 1, 0), (0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)])
def test_locked_towers(needs):
    args = pairs(9, 4)
    full = torch.autograd.grad(reference(*args), args)
    some = [x.detach().requires_grad_(bool(n)) for x, n in zip(args, needs, strict=True)]
    loss = sigmoid_loss(*some, tile=4)
    assert loss.requires_grad == any(needs)
    if any(needs):
        loss.backward()
    for x, expected, n in zip(some, full, needs, strict=True):
        assert (x.grad is not None) == bool(n)
        if n:
            assert (x.grad - expected).abs().max() < 1e-12


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_a_number_is_not_hidden(bad):
    image, text, s, b = (x.detach() for x in pairs(9, 4))
    image[3] = torch.tensor([bad, -bad, bad, bad])
    assert not torch.isfinite(sigmoid_loss(image, text, s, b, tile=4))


@pytest.mark.parametrize("tile", [2, None])
def test_second_derivative_is_refused(tile):
    """And the first is given under create_graph=True, which another term of a sum may need."""
    args = pairs(5, 4)
    expected = torch.autograd.grad(reference(*args), args)
    found = torch.autograd.grad(sigmoid_loss(*args, tile=tile), args, create_graph=True)
    for a, b, x in zip(expected, found, args, strict=True):
        assert (a - b).abs().max() < 1e-12
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(b.square().sum(), x, retain_graph=True)


def test_wrong_input_is_named():
    image, text, s, b = pairs(5, 4)
    with pytest.raises(ValueError, match=r"\[5, 4\] and \[4, 4\]"):
        sigmoid_loss(image, text[:4], s, b)
    with pytest.raises(ValueError, match=r"logit_bias must have one element, found shape \[5\]"):
        sigmoid_loss(image, text, s, torch.ones(5))


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_is_linear_in_the_batch():
    largest = {}
    for batch in (256, 512, 1024):
        args = pairs(batch, 8)
        with Largest() as mode:
            sigmoid_loss(*args, tile=64).backward()
        largest[batch] = mode.elements
    assert largest == {256: 64 * 64, 512: 64 * 64, 1024: 1024 * 8}

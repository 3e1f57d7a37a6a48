"""info_nce against the equation, written plainly in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from intermodal.losses.contrastive import info_nce


def reference(image, text, scale):
    """Figure 3 of the CLIP paper, one sample and one sum at a time."""
    logits = scale * image @ text.T
    terms = []
    for i in range(len(logits)):
        terms.append(torch.logsumexp(logits[i, :], 0) - logits[i, i])
        terms.append(torch.logsumexp(logits[:, i], 0) - logits[i, i])
    return torch.stack(terms).mean()


def pairs(batch, dim, scale=14.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        F.normalize(torch.randn(batch, dim, dtype=torch.float64, generator=generator), dim=1).to(dtype).requires_grad_()
        for _ in range(2)
    )
    return image, text, torch.tensor(scale, dtype=torch.float64).to(dtype).requires_grad_()


def compare(args, tile=None, value=1e-12, gradient=1e-10):
    expected, found = reference(*args), info_nce(*args, tile=tile)
    assert abs(expected.item() - found.item()) < value
    # A gradient that arrives from further up must pass through.
    theirs = torch.autograd.grad(3 * expected, args)
    ours = torch.autograd.grad(3 * found, args)
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < gradient


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 40),
    dim=st.integers(1, 9),
    tile=st.integers(1, 45),
    scale=st.sampled_from([0.0, 0.5, 14.3, 59.9, 60.1, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_equation(batch, dim, tile, scale, seed):
    compare(pairs(batch, dim, scale, seed), tile)


@pytest.mark.parametrize("tile", [3, None])
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_gradcheck(scale, tile):
    image, text, _ = pairs(7, 4)
    assert torch.autograd.gradcheck(
        lambda i, t, s: info_nce(i, t, s, tile=tile),
        (image, text, torch.tensor(scale, dtype=torch.float64).requires_grad_()),
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_one_pair_has_nothing_to_confuse(scale):
    image, text, s = pairs(1, 8, scale)
    loss = info_nce(image, text, s)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert image.grad.abs().max() < 1e-12
    assert s.grad.abs() < 1e-14


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_duplicates_cannot_be_told_apart(scale):
    one, _, s = pairs(1, 8, scale)
    same = one.detach().repeat(12, 1).requires_grad_()
    assert info_nce(same, same, s, tile=5).item() == pytest.approx(math.log(12), abs=1e-12)
    image, text, s = pairs(6, 8, scale)
    twice = [x.detach().repeat(2, 1).requires_grad_() for x in (image, text)]
    compare((*twice, s), tile=5)


def test_scale_beyond_any_exponential():
    compare(pairs(20, 4, 1e4), tile=6, value=1e-9, gradient=1e-8)
    image, _, s = pairs(20, 4, 1e4)
    assert info_nce(image, image, s).item() == 0


def test_well_separated_pairs_keep_their_digits_in_float32():
    """Positives of 100 and a loss of 1e-4: subtracting rounded log-sum-exps would lose it."""
    close = torch.eye(16, dtype=torch.float64)
    image, text = F.normalize(close + 0.35, dim=1), F.normalize(close + 0.34, dim=1)
    expected = reference(image, text, torch.tensor(16.0, dtype=torch.float64)).item()
    for scale_of_features in (1.0, 2.5):  # 16 takes the bounded path, 100 = 16 * 2.5^2 the general one
        loss = info_nce(
            (image * scale_of_features).float(),
            (text * scale_of_features).float(),
            torch.tensor(16.0 / scale_of_features**2),
            tile=5,
        )
        assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_half_precision_is_as_good_as_its_inputs(dtype, scale):
    image, text, s = pairs(50, 16, scale, dtype=dtype)
    double = [x.detach().double().requires_grad_() for x in (image, text, s)]
    loss = info_nce(image, text, s, tile=16)
    expected = reference(*double)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (image, text, s)), torch.autograd.grad(expected, double), strict=True
    ):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max() <= 2 * torch.finfo(dtype).eps * theirs.abs().max()


@pytest.mark.parametrize("tile", [8, None])
def test_autocast_does_not_round_logits(tile):
    image, text, s = pairs(30, 16, 100.0, dtype=torch.float32)
    plain = info_nce(image, text, s, tile=tile)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(image, text, s, tile=tile)
        grads = torch.autograd.grad(inside, (image, text, s))
    assert inside.item() == plain.item()
    for a, b in zip(grads, torch.autograd.grad(plain, (image, text, s)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("tile", [4, None])
def test_locked_towers(needs, tile):
    args = pairs(9, 4)
    full = torch.autograd.grad(reference(*args), args)
    some = [x.detach().requires_grad_(bool(n)) for x, n in zip(args, needs, strict=True)]
    loss = info_nce(*some, tile=tile)
    assert loss.requires_grad == any(needs)
    if any(needs):
        loss.backward()
    for x, expected, n in zip(some, full, needs, strict=True):
        assert (x.grad is not None) == bool(n)
        if n:
            assert (x.grad - expected).abs().max() < 1e-12


def test_scale_of_shape_one_keeps_its_shape():
    image, text, s = pairs(5, 4)
    one = s.detach().reshape(1).requires_grad_()
    info_nce(image, text, one).backward()
    assert one.grad.shape == (1,)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("tile", [4, None])
def test_not_a_number_is_not_hidden(scale, bad, tile):
    image, text, s = (x.detach() for x in pairs(9, 4, scale))
    image[3, 2] = bad
    assert torch.isnan(info_nce(image, text, s, tile=tile))


@pytest.mark.parametrize("tile", [2, None])
def test_second_derivative_is_refused(tile):
    """And the first is given under create_graph=True, which another term of a sum may need."""
    args = pairs(5, 4)
    expected = torch.autograd.grad(reference(*args), args)
    found = torch.autograd.grad(info_nce(*args, tile=tile), args, create_graph=True)
    for a, b, x in zip(expected, found, args, strict=True):
        assert (a - b).abs().max() < 1e-12
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(b.square().sum(), x, retain_graph=True)


def test_wrong_input_is_named():
    image, text, s = pairs(5, 4)
    with pytest.raises(ValueError, match=r"\(B, D\).*\[5, 4\] and \[4, 4\]"):
        info_nce(image, text[:4], s)
    with pytest.raises(ValueError, match=r"found \[5\] and \[5\]"):
        info_nce(image[:, 0], text[:, 0], s)
    with pytest.raises(ValueError, match="at least 1"):
        info_nce(image[:0], text[:0], s)
    with pytest.raises(ValueError, match=r"one element, found shape \[2\]"):
        info_nce(image, text, torch.ones(2))
    with pytest.raises(ValueError, match=r"floating dtype, found torch\.int64"):
        info_nce(image.long(), text, s)
    with pytest.raises(ValueError, match="tile must be at least 1, found 0"):
        info_nce(image, text, s, tile=0)


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_memory_is_linear_in_the_batch(scale):
    largest = {}
    for batch in (256, 512, 1024):
        args = pairs(batch, 8, scale)
        with Largest() as mode:
            info_nce(*args, tile=64).backward()
        largest[batch] = mode.elements
    assert largest == {256: 64 * 64, 512: 64 * 64, 1024: 1024 * 8}

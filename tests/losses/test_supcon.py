"""SupCon and NT-Xent: against the equations in plain loops and against pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from torch.utils._python_dispatch import TorchDispatchMode

from intermodal.losses.nt_xent import nt_xent
from intermodal.losses.pair import batch_pair_loss
from intermodal.losses.supcon import supcon


def reference(x, labels, temperature, variant):
    """Equations 2 and 3 of Khosla et al., anchor by anchor."""
    n = len(x)
    z = [row / row.square().sum().sqrt() for row in x]
    terms = []
    for i in range(n):
        positives = [p for p in range(n) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        logit = {a: (z[i] * z[a]).sum() / temperature for a in range(n) if a != i}
        total = torch.stack(list(logit.values())).logsumexp(0)
        chance = [logit[p] - total for p in positives]
        if variant == "out":
            terms.append(-sum(chance) / len(positives))
        else:
            terms.append(math.log(len(positives)) - torch.stack(chance).logsumexp(0))
    if not terms or len(set(labels.tolist())) == 1:
        return (x * 0).sum()
    return torch.stack(terms).mean()


def views(x, y, temperature):
    """Equation 1 and algorithm 1 of SimCLR."""
    z = [row / row.square().sum().sqrt() for row in (*x, *y)]
    n = len(x)
    terms = []
    for i in range(2 * n):
        logit = torch.stack([(z[i] * z[a]).sum() / temperature for a in range(2 * n)])
        others = torch.tensor([a for a in range(2 * n) if a != i])
        terms.append(logit[others].logsumexp(0) - logit[(i + n) % (2 * n)])
    return torch.stack(terms).mean()


def batch(count, classes, seed=0, dim=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), torch.randint(classes, (count,), generator=generator)


def same_gradient(ours, other, inputs, bound):
    assert abs(ours.item() - other.item()) < bound * max(1, abs(other.item()))
    for a, b in zip(torch.autograd.grad(ours * 3, inputs), torch.autograd.grad(other * 3, inputs), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < bound * max(1, b.abs().max().item())


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 10),
    classes=st.integers(1, 4),
    tile=st.sampled_from([1, 3, 4, None]),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    variant=st.sampled_from(["out", "in"]),
    seed=st.integers(0, 1000),
)
def test_supcon_equals_the_equation(count, classes, tile, temperature, variant, seed):
    x, labels = batch(count, classes, seed)
    found = supcon(x, labels, temperature, variant=variant, tile=tile)
    same_gradient(found, reference(x, labels, temperature, variant), [x], 1e-11)


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.integers(1, 8),
    tile=st.sampled_from([1, 3, 4, None]),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_nt_xent_equals_the_equation(pairs, tile, temperature, seed):
    x, y = batch(pairs, 1, seed)[0], batch(pairs, 1, seed + 1)[0]
    same_gradient(nt_xent(x, y, temperature, tile=tile), views(x, y, temperature), [x, y], 1e-11)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equal_pytorch_metric_learning(temperature, tile):
    theirs = losses.SupConLoss(temperature)
    for count, classes in ((30, 5), (30, 20), (9, 1), (2, 2), (2, 1), (1, 1)):
        x, labels = batch(count, classes)
        same_gradient(supcon(x, labels, temperature, tile=tile), theirs(x, labels), [x], 1e-12)
    x, _ = batch(8, 1)
    alone = torch.arange(8)
    same_gradient(supcon(x, alone, temperature), theirs(x, alone), [x], 1e-12)
    twice = batch(6, 1)[0].detach().repeat(2, 1).requires_grad_()
    same_gradient(
        supcon(twice, alone.repeat(2)[:12] // 2, temperature), theirs(twice, alone.repeat(2)[:12] // 2), [twice], 1e-12
    )
    for pairs in (12, 1):
        x, y = batch(pairs, 1)[0], batch(pairs, 1, 1)[0]
        both = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature))(x, y)
        same_gradient(nt_xent(x, y, temperature, tile=tile), both, [x, y], 1e-12)


@pytest.mark.parametrize("tile", [None, 5])
def test_temperature_can_be_learnt(tile):
    x, labels = batch(12, 3)
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    for variant in ("out", "in"):
        same_gradient(supcon(x, labels, t, variant=variant, tile=tile), reference(x, labels, t, variant), [x, t], 1e-11)
    assert torch.autograd.gradcheck(lambda a, s: nt_xent(a[:6], a[6:], s, tile=tile), (x, t))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.02, 0.2]))
def test_properties(seed, temperature):
    """Order and length do not matter; in is at most out (Jensen), both at least 0."""
    x, labels = batch(20, 4, seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    for variant in ("out", "in"):
        a = supcon(x, labels, temperature, variant=variant, tile=6)
        assert a >= 0
        assert abs(a - supcon(5 * x[order], 7 - labels[order], temperature, variant=variant, tile=6)) < 1e-12
    assert a <= supcon(x, labels, temperature) + 1e-12


def test_well_separated_classes_cost_nothing():
    x = torch.eye(4).repeat_interleave(3, 0).requires_grad_()
    for variant in ("out", "in"):
        loss = supcon(x, torch.arange(12) // 3, 0.01, variant=variant)
        # Two positives share each anchor's probability.
        assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
        (grad,) = torch.autograd.grad(loss, x)
        assert grad.abs().max() < 1e-4
    loss = nt_xent(torch.eye(4), torch.eye(4), 0.01)
    assert 0 <= loss.item() < 1e-5


def test_all_embeddings_equal():
    for variant in ("out", "in"):
        x = torch.ones(8, 3, requires_grad=True)
        loss = supcon(x, torch.arange(8) // 2, 0.1, variant=variant, tile=3)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(7), abs=1e-5)
        assert x.grad.abs().max() < 1e-5


def test_an_embedding_of_zeros_has_a_zero_gradient():
    x, labels = batch(8, 2)
    x = x.detach().clone()
    x[3] = 0
    x.requires_grad_()
    (grad,) = torch.autograd.grad(supcon(x, labels, 0.1), x)
    assert torch.isfinite(grad).all()
    assert torch.equal(grad[3], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_not_a_number_is_not_hidden(labels, variant):
    x = torch.randn(4, 3)
    x[1, 2] = math.nan
    assert torch.isnan(supcon(x, torch.tensor(labels), variant=variant))
    assert torch.isnan(nt_xent(x, torch.randn(4, 3), 0.01))


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_half_precision_and_autocast(temperature):
    x, labels = batch(20, 4)
    for variant in ("out", "in"):
        half = x.detach().bfloat16().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = supcon(half, labels, temperature, variant=variant, tile=6)
        loss.backward()
        assert loss.dtype == torch.float32
        expected = supcon(half.detach().double(), labels, temperature, variant=variant)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_come_twice_from_one_graph():
    x, labels = batch(10, 3)
    loss = supcon(x, labels, 0.1) + batch_pair_loss(x, labels)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    for variant in ("out", "in"):
        (grad,) = torch.autograd.grad(supcon(x, labels, variant=variant), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once"):
            grad.square().sum().backward()


def test_without_gradients():
    x, labels = batch(10, 3)
    with torch.no_grad():
        assert supcon(x, labels).item() == pytest.approx(supcon(F.normalize(x.detach()), labels).item())


def test_wrong_input_is_named():
    x, labels = batch(6, 2)
    for bad in (0, -1.0, math.nan, torch.ones(2)):
        with pytest.raises(ValueError, match="temperature must be one number above 0"):
            supcon(x, labels, bad)
    with pytest.raises(ValueError, match="no variant 'both': choose one of out, in"):
        supcon(x, labels, variant="both")
    with pytest.raises(ValueError, match=r"found \[6, 4\] and \[5, 4\]"):
        nt_xent(x, x[:5])
    with pytest.raises(ValueError, match="tile must be at least 1"):
        nt_xent(x, x, tile=0)


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


LOSSES = {
    "out": lambda x, labels: supcon(x, labels, 0.1, tile=64),
    "out, running maximum": lambda x, labels: supcon(x, labels, 0.01, tile=64),
    "in": lambda x, labels: supcon(x, labels, 0.1, variant="in", tile=64),
    "nt_xent": lambda x, labels: nt_xent(*x.chunk(2), 0.1, tile=64),
    "pair": lambda x, labels: batch_pair_loss(x, labels, tile=64),
    "pair, cosine": lambda x, labels: batch_pair_loss(x, labels, distance="cosine", tile=64),
}


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear_in_the_batch(name):
    largest = {}
    for count in (128, 256, 512):
        x = torch.randn(count, 16).requires_grad_()
        with Largest() as mode:
            LOSSES[name](x, torch.arange(count) % 10).backward()
        largest[count] = mode.elements
    assert largest == {128: 64 * 64, 256: 64 * 64, 512: 512 * 16}


def test_default_tiles_of_a_batch_larger_than_one():
    x, labels = batch(1100, 30)
    for loss in (supcon, batch_pair_loss):
        same_gradient(loss(x, labels), loss(x, labels, tile=2048), [x], 1e-12)

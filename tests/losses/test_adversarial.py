"""Adversarial losses against their equations, one score at a time in float64, and the adaptive weight."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from intermodal.losses.adversarial import (
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    logistic_discriminator,
    logistic_generator,
    r1_penalty,
)
from processes import together


def scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


REAL, MADE = scores(3, 1, 4, 5), scores(2, 1, 3, 3, seed=1)
R, M = REAL.flatten().tolist(), MADE.flatten().tolist()
CASES = {
    "hinge": (
        lambda: hinge_discriminator(REAL, MADE),
        lambda: mean(max(0, 1 - r) for r in R) + mean(max(0, 1 + m) for m in M),
    ),
    "hinge generator": (lambda: hinge_generator(MADE), lambda: -mean(M)),
    "logistic": (
        lambda: logistic_discriminator(REAL, MADE),
        lambda: -mean(math.log(sigmoid(r)) for r in R) - mean(math.log(1 - sigmoid(m)) for m in M),
    ),
    "logistic generator": (lambda: logistic_generator(MADE), lambda: -mean(math.log(sigmoid(m)) for m in M)),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_their_equations(name):
    found, wanted = CASES[name]
    assert float(found()) == pytest.approx(wanted(), abs=1e-12)


@pytest.mark.parametrize("loss", [hinge_generator, logistic_generator])
def test_a_generator_is_pulled_towards_what_looks_real(loss):
    made = MADE.clone().requires_grad_()
    loss(made).backward()
    assert bool((made.grad < 0).all())


def test_the_logistic_generator_does_not_saturate():
    """Where the discriminator is sure, the gradient is whole (minus one), not zero; and nothing overflows."""
    made = torch.tensor([-1e4], dtype=torch.float64, requires_grad=True)
    logistic_generator(made).backward()
    assert float(made.grad) == pytest.approx(-1)
    assert math.isfinite(float(logistic_discriminator(torch.tensor([-1e4]), torch.tensor([1e4]))))


def test_beyond_the_margin_the_hinge_leaves_alone():
    real = torch.tensor([1.5, 0.5], dtype=torch.float64, requires_grad=True)
    made = torch.tensor([-1.5, -0.5], dtype=torch.float64, requires_grad=True)
    hinge_discriminator(real, made).backward()
    assert real.grad.tolist() == [0, -0.5] and made.grad.tolist() == [0, 0.5]


def test_half_precision_is_summed_in_single():
    half = torch.full((4097,), 1.0009765625).bfloat16()
    for value in (hinge_discriminator(half, half), hinge_generator(half), logistic_generator(half)):
        assert value.dtype == torch.float32


def test_r1_is_the_squared_slope():
    """Of a quadratic whose slope is known, and its own gradient by finite differences."""
    matrix = scores(6, 6, seed=2)
    matrix = matrix + matrix.T
    image = scores(3, 2, 3, seed=3).requires_grad_()
    flat = image.flatten(1)
    value = r1_penalty(0.5 * (flat @ matrix * flat).sum(1), image)
    wanted = mean(float((matrix @ row).square().sum()) for row in flat.detach())
    assert float(value.detach()) == pytest.approx(wanted, rel=1e-12)

    def penalty(m):
        x = image.detach().requires_grad_()
        y = x.flatten(1)
        return r1_penalty(0.5 * (y @ m * y).sum(1), x)

    assert torch.autograd.gradcheck(penalty, (matrix.clone().requires_grad_(),))


def test_r1_needs_the_gradient_of_real_samples():
    with pytest.raises(ValueError, match="R1"):
        r1_penalty(REAL, torch.zeros(3, 3))


def decoder():
    torch.manual_seed(0)
    return nn.Conv2d(4, 3, 3, padding=1).double()


def test_the_adaptive_weight_is_the_quotient_of_the_norms_by_finite_differences():
    """Equation 7, with each gradient taken apart from autograd."""
    last, latent, target = decoder(), scores(2, 4, 5, 5, seed=4), scores(2, 3, 5, 5, seed=5)
    losses = {
        "reconstruction": lambda image: (image - target).abs().mean(),
        "adversarial": lambda image: -(image * target).sum(1).tanh().mean(),
    }

    def norm(loss):
        step, total = 1e-6, 0.0
        with torch.no_grad():
            for i in range(last.weight.numel()):
                values = []
                for sign in (1, -1):
                    last.weight.view(-1)[i] += sign * step
                    values.append(float(loss(last(latent))))
                    last.weight.view(-1)[i] -= sign * step
                total += ((values[0] - values[1]) / (2 * step)) ** 2
        return math.sqrt(total)

    wanted = norm(losses["reconstruction"]) / (norm(losses["adversarial"]) + 1e-4)
    image = last(latent)
    found = adaptive_weight(losses["reconstruction"](image), losses["adversarial"](image), last.weight)
    assert found.dtype == torch.float64 and not found.requires_grad
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_the_adaptive_weight_follows_the_sizes_of_the_losses_and_is_bounded():
    last, latent = decoder(), scores(1, 4, 4, 4)
    image = last(latent)
    first, second = image.abs().mean(), image.square().mean()
    once = float(adaptive_weight(first, second, last.weight))
    assert float(adaptive_weight(3 * first, second, last.weight)) == pytest.approx(3 * once)
    assert float(adaptive_weight(first, 1e6 * second, last.weight)) == pytest.approx(once / 1e6, rel=1e-3)
    assert float(adaptive_weight(1e9 * first, second, last.weight)) == 1e4
    assert float(adaptive_weight(first, 0 * second, last.weight)) == pytest.approx(
        min(1e4, 1e4 * float(torch.autograd.grad(first, last.weight, retain_graph=True)[0].norm()))
    )
    (first + second).backward()  # the graph is still there


def test_the_adaptive_weight_leaves_no_gradient_behind():
    last = decoder()
    image = last(scores(1, 4, 4, 4))
    adaptive_weight(image.mean(), image.square().mean(), last.weight)
    assert last.weight.grad is None


def shares(world):
    """The latents and targets of one batch, cut for each of several processes."""
    latent, target = scores(4, 4, 5, 5, seed=4), scores(4, 3, 5, 5, seed=5)
    return list(zip(latent.chunk(world), target.chunk(world), strict=True))


def weight_of(latent, target):
    last = decoder()
    image = last(latent)
    return adaptive_weight((image - target).abs().mean(), -(image * target).mean(), last.weight)


def work(rank, world, folder):
    torch.save(weight_of(*shares(world)[rank]), folder / f"{rank}.pt")


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_two_processes_weigh_as_one(tmp_path):
    together(work, 2, tmp_path)
    wanted = float(weight_of(*shares(1)[0]))
    assert wanted != pytest.approx(float(weight_of(*shares(2)[0])), rel=1e-3), "each process by itself would differ"
    for rank in range(2):
        assert float(torch.load(tmp_path / f"{rank}.pt", weights_only=True)) == pytest.approx(wanted, rel=1e-12)

"""Noise-contrastive estimation: against the equations, and on a case whose answer is known."""

import math

import pytest
import torch

from intermodal.losses.nce import nce_loss


def draw(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


def reference(data, noise, data_noise, noise_noise):
    """Posterior of data against k samples of noise (Mnih & Teh 2012, equation 8), sample by sample."""
    k = noise.numel() / data.numel()

    def h(model, other):
        return math.exp(model) / (math.exp(model) + k * math.exp(other))

    loss = -sum(math.log(h(m, n)) for m, n in zip(data.flatten().tolist(), data_noise.flatten().tolist(), strict=True))
    pairs = zip(noise.flatten().tolist(), noise_noise.flatten().tolist(), strict=True)
    return (loss - sum(math.log(1 - h(m, n)) for m, n in pairs)) / data.numel()


@pytest.mark.parametrize(("batch", "k"), [(5, 1), (4, 7), (1, 1)])
def test_equals_the_equation(batch, k):
    given = draw((batch,), (batch, k), (batch,), (batch, k))
    assert nce_loss(*given).item() == pytest.approx(reference(*given), rel=1e-13)
    assert torch.autograd.gradcheck(nce_loss, [x.requires_grad_() for x in given])


def test_is_stable_where_a_density_overflows():
    data, noise = torch.tensor([1000.0, -1000.0], requires_grad=True), torch.tensor([[1000.0], [-1000.0]])
    loss = nce_loss(data, noise, torch.zeros(2), torch.zeros(2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert torch.allclose(data.grad, torch.tensor([0.0, -0.5]))
    impossible = nce_loss(torch.zeros(1), torch.full((1, 3), -math.inf), torch.zeros(1), torch.zeros(1, 3))
    assert impossible.item() == pytest.approx(math.log(4))
    assert torch.isnan(nce_loss(torch.tensor([math.nan]), noise[:1], torch.zeros(1), torch.zeros(1, 1)))


def test_the_true_normaliser_is_the_minimum():
    """Expectations taken exactly on a grid: the derivative by the log-normaliser is 0 at the true one (theorem 1)."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    step = x[1] - x[0]
    log_noise = -(x**2) / (2 * 9) - math.log(3 * math.sqrt(2 * math.pi))
    truth = math.log(math.sqrt(2 * math.pi))
    for k in (1, 10):
        c = torch.tensor(-truth, dtype=torch.float64, requires_grad=True)
        log_model = -(x**2) / 2 + c
        p_data, p_noise = (-(x**2) / 2 - truth).exp() * step, log_noise.exp() * step
        u = torch.zeros(1, dtype=torch.float64)
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(0, len(x), 40):  # each point's two losses, weighed by its probabilities
            for weight, one in ((p_data[i], "data"), (k * p_noise[i], "noise")):
                logit, noise = log_model[i : i + 1], log_noise[i : i + 1]
                far = -torch.inf * torch.ones(1, k, dtype=torch.float64)
                if one == "data":
                    term = nce_loss(logit, far, noise, u.expand(1, k))
                else:
                    many = torch.cat((logit, far[0, 1:]))[None]
                    sure = nce_loss(u + torch.inf, many, u, torch.cat((noise, u.expand(k - 1)))[None])
                    term = sure
                loss = loss + 40 * weight * term
        (grad,) = torch.autograd.grad(loss, c)
        assert abs(grad) < 1e-6


def test_wrong_input_is_named():
    a, b = draw((3,), (3, 2))
    with pytest.raises(ValueError, match=r"data must have one shape.*\[3\] \(model\) and \[2\] \(noise\)"):
        nce_loss(a, b, a[:2], b)
    with pytest.raises(ValueError, match=r"noise must have one shape.*\[3, 0\]"):
        nce_loss(a, b[:, :0], a, b[:, :0])

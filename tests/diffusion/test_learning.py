"""A small network trained with the parts: its loss comes to within 5 % of the least that any could reach."""

import pytest
import torch
from torch import nn

from intermodal.diffusion.continuous import VPCosine
from intermodal.diffusion.denoiser import NetworkDenoiser
from intermodal.diffusion.grids import make_grid
from intermodal.diffusion.objectives import simple_loss
from intermodal.diffusion.predictions import KINDS, target
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.samplers import dpm_solver, start
from intermodal.nn.timestep import sinusoid

SCHEDULE = VPCosine()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2 + 16, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x, t):
        return self.layers(torch.cat((x, sinusoid(100 * t, 16).to(x)), 1))


def batch(mixture, count, seed):
    generator = torch.Generator().manual_seed(seed)
    x0 = mixture.sample(count, generator)[0].float()
    level = SCHEDULE.level(0.02 + 0.96 * SCHEDULE.draw(count, generator))
    return x0, torch.randn(x0.shape, generator=generator), level


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_reaches_its_minimum(kind, mixture):
    network = Small()
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 700)
    for step in range(700):
        x0, eps, level = batch(mixture, 512, step)
        x = diffuse(x0, eps, level)
        loss = simple_loss(network(x, level.t.float()), kind, x0, eps, level)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    x0, eps, level = batch(mixture, 20_000, 10_000)
    x = diffuse(x0, eps, level)
    said = mixture(x, level)
    with torch.no_grad():
        reached = simple_loss(network(x, level.t.float()), kind, x0, eps, level)
    least = simple_loss(target(kind, said.x0, said.eps, level), kind, x0, eps, level)
    nothing = simple_loss(torch.zeros_like(x), kind, x0, eps, level)
    assert float(least) < float(reached) < 1.05 * float(least) < float(nothing) / 1.1
    if kind == "v":  # and what it learnt makes samples
        grid, generator = make_grid(SCHEDULE, 20), torch.Generator().manual_seed(0)
        with torch.no_grad():
            made = dpm_solver(NetworkDenoiser(network, kind, SCHEDULE), start((3000, 2), grid, generator), grid)
        truth = mixture.sample(50_000, generator)[0].float()
        assert torch.allclose(made.mean(0), truth.mean(0), atol=0.2)
        assert torch.allclose(made.T.cov(), truth.T.cov(), atol=0.3)

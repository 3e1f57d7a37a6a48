"""Energy networks: shapes, independence of neighbours, smoothness, the known normaliser of the quadratic one."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.energy import ConvEnergyConfig, MLPEnergyConfig, QuadraticEnergyConfig, build_energy

CONFIGS = [
    ConvEnergyConfig(image_size=8, channels=(4, 6), blocks=2),
    ConvEnergyConfig(image_size=8, channels=(4,), spectral_norm=True),
    MLPEnergyConfig(dim=2, width=8, depth=2, waves=2),
    MLPEnergyConfig(dim=1, width=8, depth=1, prior=None),
    QuadraticEnergyConfig(dim=3),
]


@pytest.fixture(params=CONFIGS, ids=lambda c: f"{type(c).__name__}-{c.shape}")
def config(request):
    return request.param


def test_one_number_a_sample_whatever_its_neighbours(config):
    torch.manual_seed(0)
    network = build_energy(config).double().eval()
    x = torch.randn(5, *config.shape, dtype=torch.float64)
    energy = network(x)
    assert energy.shape == (5,)
    torch.testing.assert_close(energy[2:3], network(x[2:3]), rtol=1e-12, atol=1e-12)
    assert Config.from_dict(config.to_dict()) == config


def test_the_gradient_in_the_input_is_the_energy_s(config):
    torch.manual_seed(0)
    network = build_energy(config).double().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(2, *config.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))


def test_spectral_norm_bounds_every_convolution():
    torch.manual_seed(0)
    network = build_energy(ConvEnergyConfig(image_size=8, channels=(4, 6), spectral_norm=True))
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.parametrizations.weight.original.mul_(50)
        for _ in range(30):
            network(torch.randn(1, 3, 8, 8))
    network.eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() < 1.05


def test_the_quadratic_energy_is_a_gaussian():
    network = build_energy(QuadraticEnergyConfig(dim=2)).double()
    with torch.no_grad():
        network.mean.copy_(torch.tensor([0.3, -0.2]))
        network.factor.copy_(torch.tensor([[1.5, 99.0], [0.4, 0.7]]))  # above the diagonal is not used
    lower = torch.tensor([[1.5, 0.0], [0.4, 0.7]], dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(network.mean.detach(), precision_matrix=lower @ lower.T)
    x = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close((-network(x) - network.log_normaliser()).detach(), truth.log_prob(x))


def test_the_wide_prior_is_added_to_the_network():
    torch.manual_seed(0)
    with_prior, without = (build_energy(MLPEnergyConfig(width=8, depth=1, prior=p)) for p in (2.0, None))
    without.load_state_dict(with_prior.state_dict())
    x = torch.randn(4, 2)
    torch.testing.assert_close(with_prior(x) - without(x), x.square().sum(1) / 8)


def test_flops_count_what_the_network_computes():
    from torch.utils.flop_counter import FlopCounterMode

    for config in (CONFIGS[0], CONFIGS[2]):
        network = build_energy(config)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *config.shape))
        assert config.flops() == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ConvEnergyConfig(image_size=10, channels=(4, 4)), "multiple of 4"),
        (lambda: ConvEnergyConfig(channels=()), "needs channels and blocks"),
        (lambda: MLPEnergyConfig(width=0), "at least 1"),
        (lambda: MLPEnergyConfig(prior=0.0), "prior above 0"),
        (lambda: QuadraticEnergyConfig(dim=0), "at least 1"),
    ],
)
def test_bad_sizes_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_energy_is_float32_under_autocast():
    network = build_energy(CONFIGS[0])
    with torch.autocast("cpu", torch.bfloat16):
        energy = network(torch.randn(2, 3, 8, 8))
    assert energy.dtype == torch.float32 and energy.isfinite().all()

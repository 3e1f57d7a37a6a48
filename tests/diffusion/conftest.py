"""A mixture whose noisy versions are known exactly."""

import pytest
import torch

from intermodal.diffusion.mixtures import Mixture


@pytest.fixture(scope="session")
def mixture():
    mean = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.2]], dtype=torch.float64)
    covariance = torch.tensor(
        [[[0.2, 0.1], [0.1, 0.15]], [[0.1, 0.0], [0.0, 0.3]], [[0.25, -0.1], [-0.1, 0.2]]], dtype=torch.float64
    )
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Mixture(mean, covariance, weight, torch.tensor([0, 1, 1]))


@pytest.fixture
def draw():
    """Make float64 noise of shapes."""

    def make(*shape, seed=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make

"""Helpers for the tests of networks."""

import pytest
import torch


@pytest.fixture
def randomise():
    """Give every parameter of a module a value that is neither zero nor one."""

    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(0.5 + 0.3 * noise if parameter.dim() < 2 else 0.4 * noise)
        return module

    return fill


@pytest.fixture
def gradients_reach():
    """Assert that a loss over the outputs gives every parameter a gradient that is not zero."""

    def check(module, *outputs, but=()):
        loss = sum((o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs)
        loss.backward()
        for name, parameter in module.named_parameters():
            if name not in but:
                assert parameter.grad is not None, name
                assert float(parameter.grad.abs().max()) > 0, name

    return check

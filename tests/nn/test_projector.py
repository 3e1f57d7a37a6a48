from __future__ import annotations

import pytest
import torch
from torch import nn

from intermodal.core.errors import ConfigError
from intermodal.nn.projector import Projector, ProjectorConfig


def test_layers_are_those_of_the_papers():
    """SimCLR: one hidden layer; VICReg: two, each with batch norm and ReLU, the last linear alone."""
    simclr = Projector(6, ProjectorConfig(hidden_dim=5, output_dim=4, layers=2, norm="none"))
    assert [type(m) for m in simclr] == [nn.Linear, nn.ReLU, nn.Linear]
    vicreg = Projector(6, ProjectorConfig(hidden_dim=5, output_dim=4, layers=3))
    assert [type(m) for m in vicreg] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]


def test_output_is_the_written_out_network():
    torch.manual_seed(0)
    projector = Projector(6, ProjectorConfig(hidden_dim=5, output_dim=4, layers=2, norm="none")).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    first, last = projector[0], projector[2]
    expected = (x @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T
    torch.testing.assert_close(projector(x), expected)


def test_one_layer_is_a_linear_map_and_flops_count_products():
    assert [type(m) for m in Projector(3, ProjectorConfig(layers=1, output_dim=7))] == [nn.Linear]
    assert ProjectorConfig(hidden_dim=5, output_dim=4, layers=3).flops(6) == 2 * (6 * 5 + 5 * 5 + 5 * 4)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"hidden_dim": 0}, {"output_dim": -1}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ConfigError, match="at least 1"):
        ProjectorConfig(**wrong)

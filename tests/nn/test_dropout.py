"""Dropout: the share that is asked for, the same mean, nothing at evaluation."""

from __future__ import annotations

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.nn.dropout import Dropout


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_that_is_asked_for_is_zeroed(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(3, 111_111, dtype=dtype, requires_grad=True)
    y = Dropout(share).train()(x)
    assert (y == 0).float().mean().item() == pytest.approx(share, abs=0.005)
    kept = y[y != 0]
    rounded = round(min(share, 255 / 256) * 256) / 256
    assert (kept == kept[0]).all() and kept[0].item() == pytest.approx(1 / (1 - rounded), rel=0.01)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(100_000)) != 0).float()
    for step in range(1, 17):
        assert (kept[step:] * kept[:-step]).mean().item() == pytest.approx(0.25, abs=0.01)


def test_evaluation_changes_nothing_and_a_seed_decides() -> None:
    x, layer = torch.randn(5, 7), Dropout(0.3)
    assert layer.eval()(x) is x
    layer.train()
    found = [(torch.manual_seed(3), layer(x))[1] for _ in range(2)]
    assert torch.equal(*found)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        Dropout(share)

"""Stochastic depth: in training a residual branch is left out for some samples of a batch (Huang et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError


# --8<-- [start:drop-path]
class DropPath(nn.Module):
    """Zero the whole branch of a sample with probability ``rate``, and scale the others by ``1 / (1 - rate)``.

    What is added to the residual stream is then right in expectation, and nothing is scaled in use (Huang et al. 2016 scale
    in use instead, equation 5). Which samples lose it is drawn from torch's
    global generator on the CPU, whatever the device.

    Args:
        rate: 0 to below 1.

    Raises:
        ConfigError: if the rate is out of range.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_rate(rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to the same shape."""
        if not self.training or not self.rate:
            return x
        kept_B = torch.rand(len(x), device="cpu") >= self.rate
        scale_B = kept_B.to(x.device, x.dtype) / (1 - self.rate)
        return x * scale_B.view(-1, *[1] * (x.dim() - 1))


# --8<-- [end:drop-path]


def check_rate(rate: float) -> None:
    """Check a rate of stochastic depth.

    Raises:
        ConfigError: if it is out of range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path must be at least 0 and below 1, found {rate}.")


def rates(most: float, depth: int) -> list[float]:
    """Return the rate of each of ``depth`` blocks: from 0 at the first to ``most`` at the last, in equal steps.

    Huang et al. 2016, section 4, as ViT's and Swin's published recipes have it: early blocks, which all others build on, are
    kept more often.
    """
    check_rate(most)
    return [most * i / max(depth - 1, 1) for i in range(depth)]


def branch_end(dropout: float, drop_path: float) -> nn.Module:
    """Return what a branch passes before it is added: dropout of its numbers, then stochastic depth if there is any."""
    return nn.Sequential(nn.Dropout(dropout), DropPath(drop_path)) if drop_path else nn.Dropout(dropout)

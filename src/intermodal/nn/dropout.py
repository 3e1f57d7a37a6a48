"""Dropout whose random numbers cost little on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import ConfigError

LEVELS = 256
"""Of the random bytes."""


class Dropout(nn.Module):
    """Zero a share of the values while training and scale up the others (Srivastava et al. 2014).

    On a CPU torch draws a random number for each value, which takes longer than a small layer itself; here eight values
    share a 64-bit number, a byte each. So the share is rounded to a multiple of 1/256. The generator is torch's global one.

    Args:
        share: of the values to zero, 0 to below 1.

    Raises:
        ConfigError: if the share is out of range.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, found {share}.")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        if not self.training or self.share == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.share)
        zeroed = min(round(self.share * LEVELS), LEVELS - 1)
        numbers = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = (numbers.view(torch.uint8)[: x.numel()] >= zeroed).view(x.shape)
        return x * (keep.to(x.dtype) * (LEVELS / (LEVELS - zeroed)))

    def extra_repr(self) -> str:
        """Return the share."""
        return str(self.share)

"""What a network of diffusion is told besides its input: the time, and perhaps a class.

B batch   D width
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(t_B: Tensor, width: int, *, shift: float = 0.0, sine_first: bool = False) -> Tensor:
    """Return waves of the time, ``(B, width)`` float32: cosines and sines of geometrically falling frequencies.

    Vaswani et al. 2017, section 3.5, from 1 to 1 / 10,000 (exactly so with ``shift = 1``). Ho et al. 2020 told networks the
    time this way.

    Args:
        t_B: times, of any type; computed in float32 as all published networks do.
        width: at least 2; an odd one ends with a zero.
        shift: how much the number of frequencies is short of reaching the lowest.
        sine_first: sines before cosines.
    """
    half = width // 2
    exponent = -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t_B.device)
    angle = t_B.float()[:, None] * torch.exp(exponent / (half - shift))[None]
    waves = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return F.pad(torch.cat(waves, 1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Waves of the time through two linear layers with a SiLU between.

    Args:
        waves: numbers that the time is turned into.
        width: D of the result.
        shift: see :func:`sinusoid`.
        sine_first: see there.
    """

    def __init__(self, waves: int, width: int, *, shift: float = 0.0, sine_first: bool = False) -> None:
        super().__init__()
        self.waves, self.shift, self.sine_first = waves, shift, sine_first
        self.fc1, self.fc2 = nn.Linear(waves, width), nn.Linear(width, width)

    def forward(self, t_B: Tensor) -> Tensor:
        """Map times (B,) to (B, D)."""
        waves = sinusoid(t_B, self.waves, shift=self.shift, sine_first=self.sine_first)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))

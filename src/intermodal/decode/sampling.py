"""Choosing the next token: the most probable one, or one drawn at a temperature from the likely ones.

B sequences   V tokens that may come next
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

NEVER = -math.inf


@dataclass(frozen=True, kw_only=True)
class Sampling(Config):
    """How a token is chosen; the three are applied in this order.

    Attributes:
        temperature: the logits are divided by it; 0 chooses the most probable token (greedy).
        top_k: only so many of the most probable tokens are drawn from (Fan et al. 2018); None for all.
        top_p: only the fewest most probable tokens that together have this probability are drawn from (Holtzman et al.
            2020); None for all.

    Raises:
        ConfigError: if a number is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"Sampling: the temperature must be at least 0, found {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"Sampling: top_k must be at least 1, found {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"Sampling: top_p must be above 0 and at most 1, found {self.top_p}.")


def choose(logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor) -> Tensor:
    """Return one token for each sequence, int64 ``(B,)``.

    Args:
        logits_BV: of the tokens that may come next.
        sampling: how to choose.
        uniform_B: numbers from 0 to below 1; the same number chooses the same token.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    return draw(warp(logits_BV.float(), sampling), uniform_B)


def warp(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Return the logits of the distribution that is drawn from: temperature, then top-k, then top-p.

    Tokens that are left out have minus infinity. The temperature must be above 0.
    """
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None:
        logits_BV = keep_top_k(logits_BV, sampling.top_k)
    return logits_BV if sampling.top_p is None else keep_top_p(logits_BV, sampling.top_p)


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Return logits in which all that are below the k-th largest are minus infinity (those that equal it stay)."""
    least_B1 = logits_BV.topk(min(k, logits_BV.shape[-1])).values[..., -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, NEVER)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Return logits in which the least probable tokens are minus infinity, as many as have at most ``1 - p`` together.

    The most probable token always stays.
    """
    ordered_BV, place_BV = logits_BV.sort(dim=-1)
    left_out_BV = ordered_BV.softmax(-1).cumsum(-1) <= 1 - p
    left_out_BV[..., -1] = False
    return logits_BV.masked_fill(torch.zeros_like(left_out_BV).scatter(-1, place_BV, left_out_BV), NEVER)


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return tokens drawn from ``softmax(logits)`` by inverting the cumulative distribution, int64 ``(B,)``.

    One number from 0 to below 1 decides one token, so that a sample depends neither on the device (where the number was
    drawn on the CPU) nor on the other sequences. A token whose chance is zero is never drawn.
    """
    share_BV = logits_BV.softmax(-1)
    up_to_BV = share_BV.cumsum(-1)
    target_B1 = uniform_B.to(up_to_BV).unsqueeze(-1) * up_to_BV[..., -1:]
    token_B = torch.searchsorted(up_to_BV, target_B1, right=True).squeeze(-1)
    # Rounding may put the target at the very end, beyond every token: then the most probable one.
    return torch.where(token_B < logits_BV.shape[-1], token_B, share_BV.argmax(-1))

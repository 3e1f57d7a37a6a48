"""SpecAugment: stretches of frames and bands of frequencies are hidden while training (Park et al. 2019).

The paper's third change, a warp of time, is left out: it reports that warping gives little and costs most.

Shapes: B recordings, N frames, F features of a frame, M masks.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig(Config):
    """How much is hidden; the defaults are a half of the paper's policy for LibriSpeech (LD), for small data.

    Attributes:
        time_masks: stretches of time in a recording.
        time_width: frames of the longest; each is drawn from 0 to this.
        time_share: none is longer than this share of the recording (the paper's p).
        frequency_masks: bands of frequency.
        frequency_width: features of the widest.

    Raises:
        ConfigError: if a number is negative, or the share above 1.
    """

    time_masks: int = 2
    time_width: int = 40
    time_share: float = 0.2
    frequency_masks: int = 2
    frequency_width: int = 15

    def __post_init__(self) -> None:
        numbers = (self.time_masks, self.time_width, self.frequency_masks, self.frequency_width, self.time_share)
        if min(numbers) < 0 or self.time_share > 1:
            raise ConfigError(f"SpecAugment's numbers are at least 0 and its share at most 1, found {self}.")


def spec_augment(
    feature_BNF: Tensor,
    frames_B: Tensor,
    config: SpecAugmentConfig,
    generator: torch.Generator,
    *,
    blocks: int = 1,
    fill: float = 0.0,
) -> Tensor:
    """Return features with some stretches of frames and some bands set to ``fill``; the input stays as it is.

    What is drawn for a recording depends on the generator and on its place in the batch, not on the length of the others.

    Args:
        feature_BNF: features ``(B, N, F)``.
        frames_B: frames of each recording.
        config: how much.
        generator: on the CPU.
        blocks: in how many equal parts F falls that share their bands (features and their deltas: ``1 + deltas``).
        fill: what is put there; 0 is the mean of normalised features.
    """
    number, size, width = feature_BNF.shape
    draws = torch.rand(number, config.time_masks + config.frequency_masks, 2, generator=generator)
    draws = draws.to(feature_BNF.device)
    time, frequency = draws[:, : config.time_masks], draws[:, config.time_masks :]
    frames_B = frames_B.to(feature_BNF.device)
    longest = (frames_B * config.time_share).floor().clamp(max=config.time_width)
    hidden_BN = _covered(time, longest, frames_B, size)
    band = width // blocks
    widest = torch.full_like(frames_B, min(config.frequency_width, band)).float()
    hidden_BF = _covered(frequency, widest, torch.full_like(frames_B, band), band).repeat(1, blocks)
    return feature_BNF.masked_fill(hidden_BN[..., None] | hidden_BF[:, None], fill)


def _covered(draw_BM2: Tensor, longest_B: Tensor, whole_B: Tensor, size: int) -> Tensor:
    """Return which of ``size`` places lie in a mask, bool ``(B, size)``.

    A mask's length is uniform over 0..longest, its beginning uniform over the places where it lies inside of the whole.
    """
    length_BM = (draw_BM2[..., 0] * (longest_B[:, None] + 1)).floor()
    begin_BM = (draw_BM2[..., 1] * (whole_B[:, None] - length_BM + 1)).floor()
    place = torch.arange(size, device=draw_BM2.device)
    inside = (place >= begin_BM[..., None]) & (place < (begin_BM + length_BM)[..., None])
    return inside.any(1)

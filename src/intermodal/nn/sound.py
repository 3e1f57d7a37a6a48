"""A tower for sounds: features of speech, a convolutional encoder over time, the mean over the recording's own frames.

Shapes: B recordings, T samples, U frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.nn.spec_augment import SpecAugmentConfig, spec_augment
from intermodal.nn.speech_encoders import SpeechEncoderConfig
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures
from intermodal.nn.time_conv import mean_over


@dataclass(frozen=True, kw_only=True)
class SoundConfig(Config):
    """A sound tower's shape.

    Attributes:
        features: what is computed of the waveform.
        encoder: what reads them.
        augment: what is hidden of the features while training; None for nothing.
    """

    features: FeatureConfig
    encoder: SpeechEncoderConfig
    augment: SpecAugmentConfig | None = None

    @property
    def output_dim(self) -> int:
        """D, the size of what the tower returns."""
        return self.encoder.width

    def flops(self) -> int:
        """Return 0: a recording has no fixed size."""
        return 0


class SoundTower(nn.Module):
    """Features, encoder, mean; see the module's text."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config
        self.features = SpeechFeatures(config.features)
        self.encoder = config.encoder.build(self.features.size)

    def forward(
        self, audio_BT: Tensor, length_B: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return each recording's vector ``(B, D)`` and its frames ``(B, U, D)``.

        What lies behind a recording's length does not change its vector. With a generator, on the CPU, a part of the
        features is hidden, as the configuration says.
        """
        with torch.no_grad():
            features, frames = self.features(audio_BT, length_B)
            if generator is not None and self.config.augment is not None:
                features = spec_augment(features, frames, self.config.augment, generator)
        hidden_BUD, frames = self.encoder(features, frames)
        return mean_over(hidden_BUD, frames).to(hidden_BUD.dtype), hidden_BUD

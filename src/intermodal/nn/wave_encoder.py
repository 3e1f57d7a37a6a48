"""wav2vec 2.0's network as a speech encoder that takes waveforms, for CTC (Baevski et al. 2020, section 3.2).

Shapes: B recordings, T samples, U frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError
from intermodal.nn.speech_encoders import SpeechEncoder, SpeechEncoderConfig
from intermodal.nn.wav2vec2 import Wav2Vec2Encoder, Wav2Vec2EncoderConfig
from intermodal.nn.wav2vec2_targets import draw_spans

BASE = Wav2Vec2EncoderConfig()
"""Sizes of the published base model."""


@dataclass(frozen=True, kw_only=True)
class WaveEncoderConfig(SpeechEncoderConfig):
    """wav2vec 2.0 over waveforms; what is stated for encoders of features has no meaning here.

    Attributes:
        network: its sizes.
        mask_share: of the frames, masked by spans while training; 0 for none (the paper's fine-tuning masks instead of
            SpecAugment, appendix B).
        mask_span: frames of a span.

    Raises:
        ConfigError: if frames are to be masked and there is no vector for them.
    """

    network: Wav2Vec2EncoderConfig = BASE
    mask_share: float = 0.0
    mask_span: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.mask_share <= 1 or self.mask_span < 1:
            raise ConfigError("WaveEncoder: mask_share goes from 0 to 1, mask_span from 1.")
        if self.mask_share and not self.network.mask_embedding:
            raise ConfigError("WaveEncoder: frames can only be masked with a network that has a mask_embedding.")

    def build(self, inputs: int) -> WaveEncoder:
        """Return the encoder, freshly initialised; ``inputs`` is 1, a sample.

        Raises:
            ConfigError: if it is to read features.
        """
        if inputs != 1:
            raise ConfigError("wav2vec 2.0 takes waveforms: set the recogniser's features to None.")
        return WaveEncoder(self)


class WaveEncoder(SpeechEncoder):
    """Waveforms to frames; the network is in ``network``.

    Args:
        config: sizes and masks.
    """

    look_ahead = None

    def __init__(self, config: WaveEncoderConfig) -> None:
        nn.Module.__init__(self)  # it has none of the parts that encoders of features share
        self.config, self.width, self.stride = config, config.network.width, config.network.stride
        self.network = Wav2Vec2Encoder(config.network)
        self.mask_share, self.mask_span = config.mask_share, config.mask_span
        if not self.mask_share and config.network.mask_embedding:
            self.network.mask_embedding.requires_grad_(False)

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]  # the network's own
        """The transformer's blocks."""
        return self.network.transformer.blocks

    def frames(self, frames_B: Tensor) -> Tensor:
        """Return how many frames recordings of so many samples have."""
        return self.network.frames(frames_B)

    def forward(
        self, feat_BTF: Tensor, frames_B: Tensor, watch: Callable[[int, Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode waveforms ``(B, T)`` of so many samples each ``(B,)``; ``watch`` hears nothing of the blocks.

        While training, spans are masked, drawn from torch's global generator, which CTC's loss seeds by the batch.
        """
        del watch
        mask_BU = None
        if self.training and self.mask_share:
            counts = self.network.frames(frames_B).tolist()
            mask_BU = draw_spans(counts, self.mask_share, self.mask_span, torch.default_generator, least=1)
            mask_BU = mask_BU.to(feat_BTF.device)
        return self.network(feat_BTF, frames_B, mask_BU)

    def _why_not(self) -> str:
        return "its attention sees all of it"

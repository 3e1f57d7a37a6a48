"""wav2vec 2.0: speech learnt from recordings without transcripts, by telling masked frames from others (Baevski 2020).

A convolutional network hears 25 ms of sound in each frame. Spans of frames are masked, a transformer reads the rest and says
for each masked frame what was there; what was there is quantised by codes that are learnt in the same descent. The right
answer must be told from other masked frames of the same utterance, which is InfoNCE over speech
(:mod:`intermodal.losses` has it over pairs). The trained encoder is then fine-tuned with CTC (the method ``ctc``).
:class:`intermodal.methods.speech.whisper.Whisper` learns from transcripts alone and is kept under the same id.

Shapes: B batch, T samples, U frames, N masked frames of the batch, K negatives of each, D width, E the space of comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.data.transcripts import AUDIO, AudioProcessor
from intermodal.methods.base import Batch, Losses, Method, generator_of
from intermodal.methods.speech.hearing import Hearing
from intermodal.nn.time_conv import frames_up_to, mean_over
from intermodal.nn.transformer import block_flops
from intermodal.nn.wav2vec2 import Wav2Vec2Encoder, Wav2Vec2EncoderConfig
from intermodal.nn.wav2vec2_targets import (
    GumbelConfig,
    GumbelQuantizer,
    contrastive_logits,
    diversity_loss,
    draw_negatives,
    draw_spans,
    perplexity,
)

CARD = MethodCard(
    id="wav2vec2",
    title="wav2vec 2.0: contrastive pre-training over quantised speech; Whisper: transcripts by an encoder and a decoder",
    paper="Baevski et al. 2020; Radford et al. 2022 (Whisper)",
    cls="Wav2Vec2",
    capabilities=("embed",),
    recipes=("wav2vec2",),
    reference="transformers Wav2Vec2ForPreTraining, Wav2Vec2ForCTC, HubertForCTC, WhisperForConditionalGeneration",
)

BASE, CODEBOOKS = Wav2Vec2EncoderConfig(), GumbelConfig()
"""Sizes of the published base model."""
COLLAPSED = 0.05
"""A codebook of which less than this share is in use has collapsed."""
AT_A_TIME = 16
"""Recordings that are embedded at a time."""


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config(Config):
    """What wav2vec 2.0's pre-training is made of; the defaults are the base model's.

    Attributes:
        encoder: the network.
        quantizer: the codebooks of the targets.
        space: E, where what the transformer says and the targets are compared.
        negatives: K.
        temperature: kappa of equation 3.
        diversity: whether few codes cost by their ``perplexity``, as in the published code, or by their ``entropy``, as
            in the paper (equation 4).
        diversity_weight: alpha of equation 2.
        mask_share: of the frames, if no spans overlapped; about half are masked with the paper's 0.65.
        mask_span: frames of a span.
        gumbel: temperature of the quantiser at the start and at the end.
        gumbel_share: the share of the training over which it falls, geometrically; the paper's is 0.7.
        feature_penalty: of the mean square of what the convolutions give (section 4.2; the published code has 10).
        feature_gradient: what the gradient of the convolutions is multiplied by (section 4.2; 0.1).

    Raises:
        ConfigError: if a number is out of range.
    """

    encoder: Wav2Vec2EncoderConfig = BASE
    quantizer: GumbelConfig = CODEBOOKS
    space: int = 256
    negatives: int = 100
    temperature: float = 0.1
    diversity: Literal["perplexity", "entropy"] = "perplexity"
    diversity_weight: float = 0.1
    mask_share: float = 0.65
    mask_span: int = 10
    gumbel: tuple[float, float] = (2.0, 0.5)
    gumbel_share: float = 0.7
    feature_penalty: float = 0.0
    feature_gradient: float = 1.0

    def __post_init__(self) -> None:
        if min(self.space, self.negatives, self.mask_span) < 1 or self.temperature <= 0 or min(self.gumbel) <= 0:
            raise ConfigError("wav2vec 2.0: space, negatives and mask_span must be at least 1, temperatures above 0.")
        if not 0 < self.mask_share <= 1 or not 0 < self.gumbel_share <= 1:
            raise ConfigError("wav2vec 2.0: mask_share and gumbel_share must be above 0 and at most 1.")
        if min(self.diversity_weight, self.feature_penalty) < 0 or not 0 < self.feature_gradient <= 1:
            raise ConfigError("wav2vec 2.0: weights must not be negative, and feature_gradient above 0 and at most 1.")
        if not self.encoder.mask_embedding:
            raise ConfigError("wav2vec 2.0: pre-training masks frames; the encoder needs its mask_embedding.")


class Wav2Vec2(Hearing):
    """Encoder, quantiser and the two projections in whose space they are compared; see the module's text.

    The quantiser's temperature is part of the state; a model that was not trained here has the final one.

    Args:
        config: networks and losses.
        processors: ``audio``; without it the network alone, which takes tensors.
    """

    id = "wav2vec2"
    needs: Mapping[str, Field] = {"audio": AUDIO, "seed": SEED}
    modalities = ("audio",)
    config: Wav2Vec2Config
    gumbel: Tensor

    def __init__(self, config: Wav2Vec2Config, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.encoder = Wav2Vec2Encoder(config.encoder)
        self.quantizer = GumbelQuantizer(config.quantizer, config.encoder.conv_channels[-1])
        self.project_context = nn.Linear(config.encoder.width, config.space)
        self.project_target = nn.Linear(config.quantizer.dim, config.space)
        self.register_buffer("gumbel", torch.tensor(config.gumbel[1]))
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    @classmethod
    def class_for(cls, config: dict[str, Any]) -> type[Method]:
        """Return the class of a checkpoint of this id: this one, or Whisper, by its configuration."""
        from intermodal.methods.speech.whisper import Whisper, WhisperConfig

        return Whisper if isinstance(Config.from_dict(config), WhisperConfig) else cls

    def begin_step(self, step: int, steps: int) -> None:
        """Set the quantiser's temperature."""
        start, end = self.config.gumbel
        done = min(step / steps / self.config.gumbel_share, 1.0)
        self.gumbel.fill_(start * (end / start) ** done)

    def loss(self, batch: Batch) -> Losses:
        """Return the loss of ``audio`` (B, T) with ``audio_length`` (B,); the seed decides masks, negatives and noise.

        Raises:
            DataError: if no recording has two frames to tell apart.
        """
        config, generator = self.config, generator_of(batch)
        frames_B = self.encoder.frames(batch["audio_length"]).tolist()
        mask_BU = draw_spans(frames_B, config.mask_share, config.mask_span, generator)
        mask_BU[mask_BU.sum(1) < 2] = False
        if not mask_BU.any():
            raise DataError(
                f"No recording of the batch has two frames to tell apart (they have {max(frames_B)}): a frame is "
                f"{config.encoder.stride} samples. Leave out recordings as short as that."
            )
        negative_NK = draw_negatives(mask_BU.sum(1).tolist(), config.negatives, generator)
        audio_BT = batch["audio"]
        return self.contrast(
            audio_BT, batch["audio_length"], mask_BU.to(audio_BT.device), negative_NK.to(audio_BT.device), generator
        )

    # --8<-- [start:loss]
    def contrast(
        self,
        audio_BT: Tensor,
        length_B: Tensor | None,
        mask_BU: Tensor,
        negative_NK: Tensor,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Return the loss of given masks and negatives: equation 2, ``L_m + alpha L_d``, per masked frame.

        A negative with the target's own codes does not count, so ``accuracy`` is to be seen beside ``chance``: with few
        codes in use there is little to choose from.

        Args:
            audio_BT: waveforms.
            length_B: their samples; None for T.
            mask_BU: bool, which frames are masked: of each recording none, or at least two.
            negative_NK: which masked frames, numbered through the batch, are the negatives of each.
            generator: of the quantiser's noise.
        """
        config = self.config
        heard = self.encoder.hear(audio_BT, length_B, mask_BU, feature_gradient=config.feature_gradient)
        chosen = self.quantizer(heard.features[mask_BU], self.gumbel, generator)
        logits = contrastive_logits(
            self.project_context(heard.hidden[mask_BU]),
            self.project_target(chosen.vectors),
            chosen.codes,
            negative_NK,
            mask_BU.sum(1).tolist(),
            config.temperature,
        )
        contrastive = F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64))
        diversity = diversity_loss(chosen.mean, config.diversity)
        total = contrastive + config.diversity_weight * diversity
        if config.feature_penalty:
            own_BU = frames_up_to(heard.frames, mask_BU.shape[1])
            penalty = heard.raw.float().square().mean(-1)[own_BU].mean()
            total = total + config.feature_penalty * penalty
        parts = {
            "contrastive": contrastive,
            "diversity": diversity,
            "accuracy": (logits.argmax(1) == 0).float().mean(),
            "chance": logits.isfinite().sum(1).float().reciprocal().mean(),
            "perplexity": perplexity(chosen.mean).sum(),
        }
        self._seen = {name: part.detach() for name, part in parts.items()}
        return Losses(total, self._seen)

    # --8<-- [end:loss]

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)``: the mean of each recording's frames.

        Args:
            modality: ``audio``.
            inputs: paths, encoded bytes or :class:`~intermodal.data.audio.Waveform` objects.

        Raises:
            DataError: if the modality is another, or a recording cannot be read.
        """
        if modality != "audio":
            raise DataError(f"This model embeds audio, not {modality!r}.")
        rows = [np.empty((0, self.config.encoder.width), np.float32)]
        for start in range(0, len(inputs), AT_A_TIME):
            heard_BUD, frames_B = self.encoder(*self.waveforms(inputs[start : start + AT_A_TIME]))
            rows.append(F.normalize(mean_over(heard_BUD, frames_B).float(), dim=-1).cpu().numpy())
        return np.concatenate(rows)

    def health(self) -> list[str]:
        """Warn of codebooks of which few codes are in use: then the targets are all alike."""
        if "perplexity" not in self._seen:
            return []
        worth, most = float(self._seen["perplexity"]), self.config.quantizer.groups * self.config.quantizer.codes
        if worth > COLLAPSED * most:
            return []
        return [
            f"The codebooks have collapsed: their perplexity is {worth:.1f} of {most}. Raise model.diversity_weight or the "
            "temperatures model.gumbel, or lower the learning rate."
        ]

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step on recordings of three seconds at the model's rate."""
        config, processor = self.config.encoder, self.processors.get("audio")
        samples = 3 * (processor.rate if isinstance(processor, AudioProcessor) else 16_000)
        total, before = 0.0, 1
        for channels, kernel, stride in zip(
            config.conv_channels, config.conv_kernels, config.conv_strides, strict=True
        ):
            samples = (samples - kernel) // stride + 1
            total += 2.0 * samples * before * channels * kernel
            before = channels
        total += config.depth * block_flops(samples, config.width, config.hidden)
        total += 2.0 * samples * config.width**2 // config.position_groups * config.position_kernel
        return 3.0 * batch_size * total

"""Speech features with a reader on top: isolated words from log-mel bands or cepstra (Davis & Mermelstein 1980).

The features are :class:`~intermodal.nn.speech_features.SpeechFeatures`: windows, spectrum, mel bands, logarithm, cosine
transform, slopes, normalisation. The reader is small, so that what it reaches says something of the features: a few
convolutions over time, the mean and the maximum of each of their channels over the recording, and a softmax over the K
words. SpecAugment hides frames and bands while it trains.

It knows isolated words alone: a recording is taken for one word, whatever is in it.

Shapes: B recordings, T samples, N frames, F features of a frame, D channels, K words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.progress import Progress, silent
from intermodal.core.registry import MethodCard
from intermodal.core.transcript import Hypothesis, Transcribing, Transcript, Word
from intermodal.data.audio import notes_on, read_audio
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.speech.hearing import Hearing
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig, SpeechFeatures, spec_augment
from intermodal.nn.time_conv import frames_up_to, mean_over

CARD = MethodCard(
    id="mel",
    title="Speech features, with a reader of isolated words",
    paper="Davis & Mermelstein 1980; Park et al. 2019",
    cls="MelReader",
    capabilities=("embed", "transcribe"),
    recipes=("mel",),
    reference="librosa; kaldi-native-fbank; transformers WhisperFeatureExtractor",
)

LOG_MEL = FeatureConfig()
CHUNK = 64
"""Recordings that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class MelConfig(Config):
    """What the features and their reader are made of.

    Attributes:
        features: see :class:`~intermodal.nn.speech_features.FeatureConfig`.
        augment: what is hidden while training; None for nothing.
        dim: D.
        dilations: of the convolutions, one each; from the second on they are added to what came in.
        kernel: frames that a convolution spans at a dilation of 1, odd.
        dropout: of the pooled channels.
        label_smoothing: of the cross entropy.

    Raises:
        ConfigError: if a number is out of range.
    """

    features: FeatureConfig = LOG_MEL
    augment: SpecAugmentConfig | None = None
    dim: int = 64
    dilations: tuple[int, ...] = (1, 1, 2, 2)
    kernel: int = 5
    dropout: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if min(self.dim, self.kernel, *self.dilations, len(self.dilations)) < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"A reader has channels, convolutions of an odd kernel and dilations of at least 1, found {self.dim}, "
                f"{self.dilations} and {self.kernel}."
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"dropout and label_smoothing lie from 0 to below 1, found {self.dropout}, {self.label_smoothing}."
            )


class MelReader(Hearing):
    """Features and their reader; see the module's text.

    Args:
        config: which.
        processors: ``audio``, and ``text``, which knows the words.
    """

    id = "mel"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT, "seed": SEED}
    modalities: tuple[str, ...] = ("audio",)
    config: MelConfig

    def __init__(self, config: MelConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        if self.sample_rate != config.features.rate:
            raise ConfigError(
                f"The recordings come at {self.sample_rate} samples a second, the features are of {config.features.rate}."
            )
        self.features = SpeechFeatures(config.features)
        sizes = [self.features.size, *([config.dim] * (len(config.dilations) - 1))]
        self.convs = nn.ModuleList(
            nn.Conv1d(size, config.dim, config.kernel, padding=config.kernel // 2 * dilation, dilation=dilation)
            for size, dilation in zip(sizes, config.dilations, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in sizes)
        self.head = nn.Linear(2 * config.dim, len(self.words))

    @property
    def words(self) -> tuple[str, ...]:
        """The K words that it chooses among."""
        processor = self.processors["text"]
        assert isinstance(processor, LabelProcessor)
        return processor.names

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the cross entropy of the words of ``audio`` ``(B, T)``, with lengths, ``text`` and ``seed`` ``(B,)``."""
        feature_BNF, frames_B = self.features(batch["audio"], batch["audio_length"])
        if self.training and self.config.augment is not None:
            blocks = 1 + self.config.features.deltas
            feature_BNF = spec_augment(feature_BNF, frames_B, self.config.augment, generator_of(batch), blocks=blocks)
        logits_BK = self.head(self._dropped(self.hear(feature_BNF, frames_B), batch)).float()
        total = F.cross_entropy(logits_BK, batch["text"], label_smoothing=self.config.label_smoothing)
        accuracy = (logits_BK.detach().argmax(1) == batch["text"]).float().mean()
        return Losses(total, {"accuracy": accuracy})

    def hear(self, feature_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Return the pooled channels ``(B, 2 D)`` of features: their means and maxima over each recording's frames."""
        if not feature_BNF.shape[1]:  # no recording has a frame: each gets one that does not count
            feature_BNF = F.pad(feature_BNF, (0, 0, 0, 1))
        beyond_BN1 = ~frames_up_to(frames_B, feature_BNF.shape[1])[..., None]
        hidden = feature_BNF.to(self.head.weight.dtype)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            read = conv(hidden.masked_fill(beyond_BN1, 0.0).transpose(1, 2)).transpose(1, 2)
            new = F.gelu(norm(read))
            hidden = hidden + new if number else new
        hidden = hidden.float()
        largest = hidden.masked_fill(beyond_BN1 & (frames_B > 0)[:, None, None], -torch.inf).amax(1)
        return torch.cat([mean_over(hidden, frames_B), largest], 1)

    # --8<-- [end:loss]

    def _dropped(self, pooled_BD: Tensor, batch: Batch) -> Tensor:
        """Return pooled channels of which a share is set to 0, drawn by the batch's seed."""
        share = self.config.dropout
        if not self.training or not share:
            return pooled_BD
        kept = torch.rand(pooled_BD.shape, generator=generator_of(batch)) >= share
        return pooled_BD * kept.to(pooled_BD) / (1 - share)

    @torch.inference_mode()
    def _heard(self, audios: Sequence[Any], watch: Progress = silent) -> Tensor:
        """Return the pooled channels ``(len(audios), 2 D)`` of recordings."""
        with self.evaluating():
            parts = [torch.zeros(0, 2 * self.config.dim)]
            for first in range(0, len(audios), CHUNK):
                parts.append(self.hear(*self.features(*self.waveforms(audios[first : first + CHUNK]))).float().cpu())
                watch("listening", min(first + CHUNK, len(audios)) / len(audios))
        return torch.cat(parts)

    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return unit vectors ``(len(inputs), 2 D)`` of recordings (``modality`` is ``audio``): the pooled channels.

        Raises:
            ConfigError: for another modality.
        """
        if modality not in self.modalities:
            raise ConfigError(f"mel embeds audio, not {modality!r}.")
        return F.normalize(self._heard(inputs), dim=1).numpy()

    def scores(self, audios: Sequence[Any], watch: Progress = silent) -> np.ndarray:
        """Return the log-probabilities of all words, float32 ``(len(audios), K)``."""
        heard = self._heard(audios, watch)
        with torch.inference_mode():
            return self.head(heard.to(self.device, self.head.weight.dtype)).float().log_softmax(1).cpu().numpy()

    def transcribe(
        self, audios: Sequence[Any], settings: Transcribing | None = None, *, watch: Progress | None = None
    ) -> list[Transcript]:
        """Return the word that each recording most probably is, over its whole length.

        Of ``settings``, ``n_best`` counts; there is nothing to search and no sentence for a language model.
        """
        settings = settings or Transcribing()
        waves = [read_audio(audio) for audio in audios]
        scores = self.scores(waves, watch or silent)
        return [self._transcript(wave, row, settings) for wave, row in zip(waves, scores, strict=True)]

    def _transcript(self, wave: Any, score_K: np.ndarray, settings: Transcribing) -> Transcript:
        order = np.argsort(-score_K, kind="stable")
        best, word = self.words[order[0]], float(np.exp(score_K[order[0]]))
        others = [Hypothesis(self.words[k], float(score_K[k]), float(score_K[k])) for k in order[: settings.n_best]]
        return Transcript(
            text=best,
            words=(Word(best, 0.0, wave.seconds, word),),
            seconds=wave.seconds,
            alternatives=tuple(others) if settings.n_best > 1 else (),
            notes=notes_on(wave.samples, wave.rate, self.sample_rate),
        )

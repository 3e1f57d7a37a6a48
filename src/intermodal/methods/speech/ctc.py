"""Connectionist temporal classification (Graves et al. 2006): one network from sound to letters, without an alignment.

The network says of every frame how probable each letter is, or that nothing new is said (blank). The probability of a text
is the sum over all paths, a letter or blank for every frame, that leave the text when repeats are merged and then blanks are
removed. Its negative logarithm is the loss, and forward-backward gives it and its gradient (:mod:`intermodal.losses.ctc`).
Every part is a choice: features, encoder (LSTM, convolutions, Conformer), letters or BPE.

Shapes: B recordings, T samples, N frames of features, U frames out, V symbols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.core.transcript import Alignment, Emissions, Transcribing, Transcript
from intermodal.data.processors import Processor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT, WORD_START, TranscriptProcessor
from intermodal.losses.ctc import ctc_loss
from intermodal.methods.base import Batch, Losses, Method, generator_of, seeded
from intermodal.methods.speech.ctc_decoding import (
    Greedy,
    aligned,
    beam_decoder,
    searches,
    transcript_of,
    transcripts_of,
)
from intermodal.methods.speech.recogniser import Recogniser, recording_seconds
from intermodal.nn.speech_encoders import CNNEncoderConfig, SpeechEncoderConfig
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig, SpeechFeatures, spec_augment
from intermodal.nn.time_conv import frames_up_to

CARD = MethodCard(
    id="ctc",
    title="CTC: from sound to letters by a sum over all alignments",
    paper="Graves et al. 2006; Conformer: Gulati et al. 2020",
    cls="CTC",
    capabilities=("transcribe", "align", "emit"),
    recipes=(
        "ctc",
        "ctc-cnn",
        "ctc-lstm",
        "ctc-conformer",
        "ctc-streaming",
        "ctc-digits",
        "wav2vec2-ctc",
        "wav2vec2-ctc-random",
    ),
    reference="torch and brute force over all paths (loss), transformers (Conformer), pyctcdecode and flashlight (beam)",
)


@dataclass(frozen=True, kw_only=True)
class CTCConfig(Config):
    """What a CTC recogniser is built from.

    Attributes:
        features: what is heard; None for an encoder that takes waveforms itself.
        encoder: what reads the features.
        augment: SpecAugment while training; None for none.
        intermediate: weight of the loss of the middle block's output, through the same last layer (Lee & Watanabe 2021); 0
            for none.
        lm_weight, word_bonus: of the beam search with a language model, where a person names none.
    """

    features: FeatureConfig | None = field(default_factory=lambda: FeatureConfig(cmvn="utterance"))
    encoder: SpeechEncoderConfig = field(default_factory=CNNEncoderConfig)
    augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    intermediate: float = 0.0
    lm_weight: float = 1.0
    word_bonus: float = 0.0


class CTC(Recogniser):
    """Speech to text by CTC.

    Args:
        config: features, encoder and so on.
        processors: ``audio`` (:class:`~intermodal.data.transcripts.AudioProcessor`) and ``text``
            (:data:`~intermodal.data.transcripts.TranscriptProcessor`, blank as number 0).

    Raises:
        ConfigError: if the features are of another rate than the recordings, or a weight is out of range.
    """

    id = "ctc"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT, "seed": SEED}
    config: CTCConfig

    def __init__(self, config: CTCConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        if not 0 <= config.intermediate < 1:
            raise ConfigError(f"intermediate is a weight from 0 to below 1, found {config.intermediate}.")
        if config.features is not None and config.features.rate != self.sample_rate:
            raise ConfigError(
                f"The features are of {config.features.rate} samples a second, the recordings of {self.sample_rate}."
            )
        self.features = None if config.features is None else SpeechFeatures(config.features)
        self.encoder = config.encoder.build(1 if self.features is None else self.features.size)
        self.out = nn.Linear(self.encoder.width, len(self.text.symbols))
        self._heard: dict[str, Tensor] = {}
        self._trained = self._impossible = 0

    @classmethod
    def class_for(cls, config: dict[str, Any]) -> type[Method]:
        """Return :class:`StreamingCTC` where features and encoder do without the rest of the recording."""
        parsed = Config.from_dict(config)
        return StreamingCTC if isinstance(parsed, CTCConfig) and streamable(parsed) else CTC

    @property
    def text(self) -> TranscriptProcessor:
        """What turns transcripts into symbols and back."""
        processor = self.processors["text"]
        assert isinstance(processor, TranscriptProcessor)
        return processor

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        """The symbols' names, and the blank, which is the first."""
        return self.text.symbols, 0

    @property
    def frame_seconds(self) -> float:
        """Seconds from one emitted frame to the next."""
        each = 1 / self.sample_rate if self.features is None else self.features.frame_seconds
        return self.encoder.stride * each

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return minus the log-probability of the texts, in nats a symbol.

        A text that has no path, because it has more symbols than frames, is left out and counted (``impossible``).
        """
        generator, text_BU, length_B = generator_of(batch), batch["text"], batch["text_length"]
        feat_BNF, frames_B = self._features(batch["audio"], batch["audio_length"])
        if self.training and self.config.augment is not None:
            blocks = 1 + (self.config.features.deltas if self.config.features else 0)
            feat_BNF = spec_augment(feat_BNF, frames_B, self.config.augment, generator, blocks=blocks)
        middle: list[Tensor] = []
        with seeded(generator):
            hidden_BUD, out_B = self.encoder(feat_BNF, frames_B, self._keep_middle(middle))
        logits_BUV = self.out(hidden_BUD).float()
        found = ctc_loss(logits_BUV, out_B, text_BU, length_B)
        symbols = length_B.masked_fill(found.infinite_B, 0).sum().clamp(min=1)
        total = loss = found.loss_B.sum() / symbols
        parts = {"impossible": found.infinite_B.float().mean(), "blank_rate": self._listen(logits_BUV, out_B)}
        if middle:
            early = ctc_loss(self.out(middle[0]).float(), out_B, text_BU, length_B).loss_B.sum() / symbols
            total = (1 - self.config.intermediate) * loss + self.config.intermediate * early
            parts |= {"ctc": loss.detach(), "ctc_middle": early.detach()}
        if self.training:
            self._trained += len(length_B)
            self._impossible += int(found.infinite_B.sum())
        return Losses(total, parts)

    # --8<-- [end:loss]

    def _features(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        if self.features is None:
            return audio_BT, length_B
        with torch.no_grad():
            return self.features(audio_BT, length_B)

    def _keep_middle(self, kept: list[Tensor]) -> Any:
        """Return what keeps the middle block's output, where it has a loss of its own."""
        if not (self.training and self.config.intermediate):
            return None
        half = max(len(self.encoder.blocks) // 2 - 1, 0)
        return lambda number, hidden: kept.append(hidden) if number == half else None

    @torch.no_grad()
    def _listen(self, logits_BUV: Tensor, frames_B: Tensor) -> Tensor:
        """Take note of the best path for :meth:`health`; return the share of blanks."""
        best_BU = logits_BUV.argmax(-1)
        counts_BU = frames_up_to(frames_B, best_BU.shape[1])
        rate = ((best_BU == 0) & counts_BU).sum() / counts_BU.sum().clamp(min=1)
        self._heard = {"best_BU": best_BU.masked_fill(~counts_BU, 0), "blank_rate": rate}
        return rate

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(B, U, V)`` and each recording's frames ``(B,)`` of waveforms and their lengths."""
        hidden_BUD, out_B = self.encoder(*self._features(audio_BT, length_B))
        return self.out(hidden_BUD).float().log_softmax(-1), out_B

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        """Return the transcripts of emissions: greedily, or by beam search."""
        return transcripts_of(emissions, settings, self.delimiter, **self._own())

    @property
    def delimiter(self) -> str | None:
        """The symbol between words; None where units that begin words are marked (BPE)."""
        return None if self.text.delimiter == WORD_START else self.text.delimiter

    def _own(self) -> dict[str, Any]:
        """Return what the search goes by where a person's settings say nothing."""
        return {"lm_weight": self.config.lm_weight, "word_bonus": self.config.word_bonus, "case": self.text.case}

    def align(self, audio: Any, text: str) -> Alignment:
        """Return where the words of a text, and their symbols, are in a recording: the best path (Viterbi).

        Raises:
            DataError: if a letter is not in the alphabet, there is none, or the recording is too short for the text.
        """
        numbers = self.text.encode(text).tolist()
        if not numbers:
            raise DataError("There is no word in the text: nothing to align.")
        seconds = recording_seconds(audio)
        return aligned(self.emissions(audio), numbers, self.delimiter, seconds)

    def health(self) -> list[str]:
        """Warn of transcripts without a path, and of a network that says nothing or always the same."""
        warnings = []
        if self._impossible:
            warnings.append(
                f"{self._impossible} of {self._trained} transcripts seen so far have more symbols than the network emits "
                f"frames ({1000 * self.frame_seconds:.0f} ms each): nothing is learnt from them. Lower "
                "model.encoder.subsampling, or look for recordings that are cut off."
            )
        if self._heard:
            rows = [_collapsed(row) for row in self._heard["best_BU"].tolist()]
            if not any(rows):
                warnings.append(
                    "All frames are blank: nothing is transcribed. That is usual at the beginning; if it lasts, raise "
                    "optim.lr or train.steps, or shorten optim.warmup."
                )
            elif len(rows) > 1 and len(set(rows)) == 1:
                said = self.text.decode(list(rows[0]))
                warnings.append(
                    f"All recordings of a batch are transcribed alike, {said!r}: the network does not listen. That is "
                    "usual at the beginning; if it lasts, lower optim.lr."
                )
        return warnings


# --8<-- [start:stream]
class StreamingCTC(CTC):
    """A CTC recogniser that transcribes while the sound arrives: its features and encoder look ahead a stated while."""

    @property
    def latency(self) -> float:
        """Seconds from a sound to the moment at which all that the model looks at for it has arrived."""
        assert self.config.features is not None and self.encoder.look_ahead is not None
        features = self.config.features
        frames = self.encoder.look_ahead + features.deltas * features.delta_window
        return frames * features.hop_samples / features.rate + features.window_ms / 2000

    def listen(self, settings: Transcribing | None = None) -> CTCListener:
        """Return a listener at the start of a recording.

        Raises:
            ConfigError: if the settings ask for what CTC cannot do, or for an n-best before the end.
        """
        settings = settings or Transcribing()
        if settings.n_best > 1:
            raise ConfigError("Alternatives are for whole recordings: a stream gives the best transcript so far.")
        return CTCListener(self, settings)


class CTCListener:
    """A recording that is still arriving: features, encoder and search all go on where they are."""

    def __init__(self, method: StreamingCTC, settings: Transcribing) -> None:
        assert method.features is not None
        self._method, self._samples = method, 0
        self._features, self._encoder = method.features.stream(), method.encoder.stream()
        symbols, step, delimiter = method.text.symbols, method.frame_seconds, method.delimiter
        self._greedy = self._beam = None
        if searches(settings):
            nothing = Emissions(np.zeros((0, len(symbols)), np.float32), symbols, 0, step)
            self._beam = beam_decoder(nothing, settings, delimiter, **method._own()).stream()
        else:
            self._greedy = Greedy(symbols, 0, delimiter, step)

    def feed(self, samples: np.ndarray) -> Transcript:
        """Take more samples, float32 ``(T,)`` at the model's rate, and return what is known so far.

        Raises:
            DataError: if they have another shape, or one is not finite.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise DataError(f"A listener takes finite samples of shape (T,), found {samples.shape} or NaN or infinity.")
        self._samples += len(samples)
        wave_1T = torch.from_numpy(samples)[None].to(self._method.device)
        self._search(self._encoder.feed(self._features.feed(wave_1T)))
        return self._transcript(final=False)

    def finish(self) -> Transcript:
        """Return the whole transcript; nothing more arrives."""
        self._search(self._encoder.finish(self._features.finish().to(self._method.device)))
        return self._transcript(final=True)

    @torch.no_grad()
    def _search(self, hidden_1mD: Tensor) -> None:
        log_probs = self._method.out(hidden_1mD).float().log_softmax(-1)[0].cpu().numpy()
        if self._beam is not None:
            self._beam.feed(log_probs)
        elif self._greedy is not None:
            self._greedy.feed(log_probs)

    def _transcript(self, *, final: bool) -> Transcript:
        seconds = self._samples / self._method.sample_rate
        if self._beam is not None:
            beams = self._beam.finish() if final else self._beam.partial()
            found = transcript_of(beams, self._method.frame_seconds)
        else:
            assert self._greedy is not None
            found = self._greedy.transcript()
        return Transcript(found.text, found.words, seconds=seconds)


# --8<-- [end:stream]


def streamable(config: CTCConfig) -> bool:
    """Say whether a recogniser of this configuration can transcribe while the sound arrives."""
    features, encoder = config.features, config.encoder
    if features is None or features.whole is not None:
        return False
    with torch.device("meta"):
        return encoder.build(features.size).look_ahead is not None


def build_ctc(config: CTCConfig, processors: Mapping[str, Processor]) -> CTC:
    """Return the recogniser of a configuration, one that streams where it can."""
    return (StreamingCTC if streamable(config) else CTC)(config, processors)


def _collapsed(path: Sequence[int]) -> tuple[int, ...]:
    """Return the symbols of a path: repeats merged, then blanks removed."""
    return tuple(now for before, now in zip((0, *path), path, strict=False) if now and now != before)

"""Whisper: transcripts written by a decoder that attends to 30 seconds of sound (Radford et al. 2022).

An encoder reads log-mel frames, a decoder goes on with text; which language is spoken, whether to translate and whether to
write times is said by tokens that the text begins with, so that one network does it all by one loss, cross entropy of
the next token. Recordings of any length are heard window by window, each beginning where the last finished segment ended
(:mod:`intermodal.methods.speech.whisper_decoding`).

It is kept under the id ``wav2vec2``, whose card lists both: the two ways to learn from more speech than anyone
transcribed by hand.

Shapes: B batch, T samples, N frames, M mel bins, L tokens, V tokens that are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.progress import Progress, silent
from intermodal.core.transcript import Segment, Transcribing, Transcript, Word
from intermodal.data.audio import notes_on, read_audio
from intermodal.data.processors import Processor
from intermodal.data.token_processor import TokenProcessor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT
from intermodal.methods.base import Batch, Losses
from intermodal.methods.speech.hearing import Hearing
from intermodal.methods.speech.whisper_decoding import (
    FRAMES_PER_STEP,
    Piece,
    Recording,
    WhisperDecoding,
    transcribe,
)
from intermodal.methods.speech.whisper_tokens import WhisperTokens
from intermodal.methods.speech.whisper_words import word_times
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures
from intermodal.nn.time_conv import frames_up_to
from intermodal.nn.transformer import block_flops
from intermodal.nn.whisper import WhisperNetwork, WhisperNetworkConfig

TINY, DECODING, FEATURES = WhisperNetworkConfig(), WhisperDecoding(), FeatureConfig.whisper()
"""Sizes of the smallest published model, and how all of them decode and hear."""
IGNORED = -100
"""Marks tokens that the loss does not ask for."""
TOGETHER = 8
"""Recordings that are heard together."""


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(Config):
    """What a Whisper is made of.

    Attributes:
        network: encoder and decoder.
        tokens: what the tokens mean that are no text.
        decoding: temperatures and thresholds.
        features: what the encoder reads.
        alignment_heads: block and head of the cross-attentions that say when a token was spoken; empty for times of segments
            alone.
        median: frames of the filter over those.
        train_language: the language that training says, of a model that knows several; None for its first.

    Raises:
        ConfigError: if the parts do not fit each other.
    """

    network: WhisperNetworkConfig = TINY
    tokens: WhisperTokens
    decoding: WhisperDecoding = DECODING
    features: FeatureConfig = FEATURES
    alignment_heads: tuple[tuple[int, int], ...] = ()
    median: int = 7
    train_language: str | None = None

    def __post_init__(self) -> None:
        tokens, network = self.tokens, self.network
        if not 0 <= max(tokens.start, tokens.end, tokens.zero, tokens.previous) < network.vocab_size:
            raise ConfigError(f"Whisper: a token is beyond the vocabulary of {network.vocab_size}.")
        if self.features.bins != network.bins or self.features.kind != "log_mel":
            raise ConfigError(
                f"Whisper: the encoder reads {network.bins} log-mel bins, the features are {self.features.bins} of the kind "
                f"{self.features.kind!r}."
            )
        if self.median < 1 or self.median % 2 == 0:
            raise ConfigError(f"Whisper: the median filter is of an odd number of frames, found {self.median}.")
        if any(
            not (0 <= b < network.decoder_depth and 0 <= h < network.decoder_heads) for b, h in self.alignment_heads
        ):
            raise ConfigError("Whisper: an alignment head is none of the decoder's.")


class Whisper(Hearing):
    """The network and its decoding; see the module's text.

    Args:
        config: sizes, tokens and thresholds.
        processors: ``audio`` and ``text``; without them the network alone, which takes tensors.
    """

    id = "wav2vec2"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT}
    config: WhisperConfig

    def __init__(self, config: WhisperConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.network = WhisperNetwork(config.network)
        self.features = SpeechFeatures(config.features)

    @property
    def sample_rate(self) -> int:
        """Samples a second that the model hears."""
        return self.config.features.rate

    @property
    def hop_seconds(self) -> float:
        """Seconds of a frame."""
        return self.config.features.hop_samples / self.config.features.rate

    def mel(self, audio_BT: Tensor, length_B: Tensor | None = None) -> Tensor:
        """Return the log-mel frames (B, N, M) of waveforms that are cut, or filled with silence, to the encoder's length."""
        samples = self.config.network.frames * self.config.features.hop_samples
        if length_B is not None:
            audio_BT = audio_BT * frames_up_to(length_B, audio_BT.shape[1])
        audio_BT = F.pad(audio_BT[:, :samples], (0, max(samples - audio_BT.shape[1], 0)))
        return self.features(audio_BT, torch.full((len(audio_BT),), samples, device=audio_BT.device))[0]

    def loss(self, batch: Batch) -> Losses:
        """Return the cross entropy of the next token, over the prompt behind its start, the text and the end.

        Args:
            batch: ``audio`` (B, T) with ``audio_length``, ``text`` int64 (B, U) with ``text_length``; a text that is too
                long for the decoder is cut, and then has no end.
        """
        tokens = self.config.tokens
        language = self.config.train_language or next(iter(dict(tokens.languages)), None)
        begin = torch.tensor(tokens.prompt(language, "transcribe", timestamps=False), device=self.device)
        text_BU, length_B1 = batch["text"], batch["text_length"].unsqueeze(1)
        place_BU = torch.arange(text_BU.shape[1] + 1, device=text_BU.device)
        text_BU = F.pad(text_BU, (0, 1))
        text_BU = torch.where(place_BU == length_B1, tokens.end, text_BU)
        whole_BL = torch.cat([begin.expand(len(text_BU), -1), text_BU], 1)
        asked_BL = torch.cat([begin.expand(len(text_BU), -1), text_BU.masked_fill(place_BU > length_B1, IGNORED)], 1)
        most = self.config.network.target_positions
        given_BL, label_BL = whole_BL[:, :-1][:, :most], asked_BL[:, 1:][:, :most]
        mel_BNM = self.mel(batch["audio"], batch["audio_length"])
        total, logits_BLV = self.token_loss(mel_BNM, given_BL, label_BL)
        right = (logits_BLV.argmax(-1) == label_BL)[label_BL != IGNORED].float().mean()
        return Losses(total, {"accuracy": right.detach()})

    # --8<-- [start:loss]
    def token_loss(self, mel_BNM: Tensor, tokens_BL: Tensor, label_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross entropy of labels, and the logits (B, L, V).

        Args:
            mel_BNM: what the encoder reads.
            tokens_BL: int64, what the decoder has written.
            label_BL: int64, what comes next at each place; :data:`IGNORED` is not asked for.
        """
        logits_BLV = self.network(mel_BNM, tokens_BL)
        kind = torch.promote_types(logits_BLV.dtype, torch.float32)
        return F.cross_entropy(logits_BLV.flatten(0, 1).to(kind), label_BL.flatten(), ignore_index=IGNORED), logits_BLV

    # --8<-- [end:loss]

    @torch.inference_mode()
    def languages(self, mel_BNM: Tensor) -> list[dict[str, float]]:
        """Return how probable each language is, of windows of log-mel frames; empty for a model of one language."""
        tokens, names = self.config.tokens, dict(self.config.tokens.languages)
        if not names:
            return [{} for _ in mel_BNM]
        start_B1 = torch.full((len(mel_BNM), 1), tokens.start, device=mel_BNM.device)
        logits_BV = self.network(mel_BNM, start_B1)[:, -1].float()
        share = logits_BV[:, list(names.values())].softmax(-1)
        return [dict(zip(names, row.tolist(), strict=True)) for row in share]

    @torch.inference_mode()
    def transcribe(
        self, audios: Sequence[Any], settings: Transcribing | None = None, *, watch: Progress | None = None
    ) -> list[Transcript]:
        """Return one transcript for each recording, with segments; see :class:`~intermodal.core.capabilities.Transcribes`.

        Hot words are told to the model as if they had been said before. With ``decoding.condition`` each window is told the
        text of those before it. Words have times where the model names its ``alignment_heads``.

        Raises:
            DataError: if a recording cannot be read.
            ConfigError: if the settings name a language that the model does not know, or a language model or lexicon: the
                decoder is the language model.
        """
        settings, watch = settings or Transcribing(), watch or silent
        for name in ("lm", "lexicon"):
            if getattr(settings, name) is not None:
                raise ConfigError(
                    f"Whisper writes with its own language model: {name} is of use to models that emit frame by frame."
                )
        if settings.n_best > 1:
            raise ConfigError("Whisper gives its best transcript alone: n_best must be 1.")
        with self.evaluating():
            out: list[Transcript] = []
            for begin in range(0, len(audios), TOGETHER):
                some = audios[begin : begin + TOGETHER]
                out += self._transcribe(some, settings, watch, begin / len(audios), len(some) / len(audios))
        return out

    def _transcribe(
        self, audios: Sequence[Any], settings: Transcribing, watch: Progress, done: float, share: float
    ) -> list[Transcript]:
        config, text = self.config, self._text
        waves = [read_audio(audio) for audio in audios]
        heard = [self._frames(self.audio_processor.encode(w)) for w in waves]
        told = text.encode(", ".join(settings.hot_words)).tolist() if settings.hot_words else []
        recordings, found = [], []
        for mel_TM in heard:
            language = settings.language
            if language is None and config.tokens.languages:
                first_TM = F.pad(
                    mel_TM[: config.network.frames], (0, 0, 0, max(config.network.frames - len(mel_TM), 0))
                )
                share_of = self.languages(first_TM.unsqueeze(0))[0]
                language = max(share_of, key=share_of.__getitem__)
            prompt = config.tokens.prompt(language, settings.task, timestamps=config.decoding.timestamps)
            recordings.append(Recording(mel_TM, prompt, told))
            found.append(language)
        transcribe(
            self.network,
            recordings,
            config.tokens,
            config.decoding,
            beams=settings.beam,
            text=self._spelt,
            hop=self.hop_seconds,
            watch=lambda part: watch("listening", done + share * part),
        )
        return [
            self._transcript(recording, wave.seconds, notes_on(wave.samples, wave.rate, self.sample_rate), language)
            for recording, wave, language in zip(recordings, waves, found, strict=True)
        ]

    def _frames(self, wave_T: Tensor) -> Tensor:
        """Return a recording's log-mel frames (N, M); a short one is filled with silence to a whole window."""
        wave_1T, config = wave_T.unsqueeze(0).to(self.device), self.config
        if len(wave_T) <= config.network.frames * config.features.hop_samples:
            return self.mel(wave_1T)[0]
        return self.features(wave_1T, torch.tensor([len(wave_T)], device=self.device))[0][0]

    def _transcript(
        self, recording: Recording, seconds: float, notes: tuple[str, ...], language: str | None
    ) -> Transcript:
        segments: list[Segment] = []
        for piece in recording.pieces:
            spelt = self._spelt(piece.tokens)
            if spelt.strip():
                words = self._words(recording, piece)
                segments.append(Segment(spelt.strip(), piece.start, min(piece.end, max(seconds, piece.start)), words))
        joined = " ".join("".join(self._spelt(p.tokens) for p in recording.pieces).split())
        words = tuple(word for segment in segments for word in segment.words)
        return Transcript(joined, words, tuple(segments), seconds, notes=notes, language=language)

    def _words(self, recording: Recording, piece: Piece) -> tuple[Word, ...]:
        """Return the words of a segment with times, by where its tokens attended; none where no heads are named."""
        if not self.config.alignment_heads:
            return ()
        first, most = round(piece.window / self.hop_seconds), self.config.network.frames
        part_TM = recording.mel_TM[first : first + most]
        mel_1NM = F.pad(part_TM, (0, 0, 0, most - len(part_TM))).unsqueeze(0)
        spoken = [t for t in piece.tokens if t < self.config.tokens.end]
        times = word_times(
            self.network,
            mel_1NM,
            recording.prompt,
            spoken,
            self.config.tokens,
            self.config.alignment_heads,
            self._spelt,
            positions=max(1, len(part_TM) // FRAMES_PER_STEP),
            median=self.config.median,
        )
        step = FRAMES_PER_STEP * self.hop_seconds
        return tuple(
            Word(word, piece.window + start * step, piece.window + end * step, sure) for word, start, end, sure in times
        )

    def _spelt(self, numbers: Sequence[int]) -> str:
        """Return the text of tokens, without those that are none."""
        return self._text.decode([t for t in numbers if t < self.config.tokens.end])

    @property
    def _text(self) -> TokenProcessor:
        processor = self.processors["text"]
        assert isinstance(processor, TokenProcessor)
        return processor

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step on full windows and texts."""
        config = self.config.network
        encoder = config.encoder_depth * block_flops(
            config.source_positions, config.width, config.encoder_mlp or 4 * config.width
        )
        decoder = config.decoder_depth * block_flops(
            config.target_positions, config.width, config.decoder_mlp or 4 * config.width
        )
        cross = (
            4 * config.decoder_depth * config.source_positions * config.width * (config.width + config.target_positions)
        )
        last = 2 * config.target_positions * config.width * config.vocab_size
        return 3.0 * batch_size * (encoder + decoder + cross + last)

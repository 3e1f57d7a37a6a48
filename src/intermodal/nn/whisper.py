"""Whisper's network: an encoder of 30 seconds of sound and a decoder of text (Radford et al. 2022, section 2.2).

Shapes:

    B batch   M mel bins   T frames of sound   S positions of the encoder (T / 2)   L tokens   D width   V tokens that
    are known N sequences after a choice
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cache import KVCache
from intermodal.nn.cross import DecoderBlock, Written
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, Block, Transformer

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class WhisperNetworkConfig(Config):
    """What a :class:`WhisperNetwork` is built from; the defaults are those of Whisper tiny.

    Attributes:
        bins: M.
        vocab_size: V.
        width: D, a multiple of both numbers of heads.
        encoder_depth, decoder_depth: blocks.
        encoder_heads, decoder_heads: attention heads.
        encoder_mlp, decoder_mlp: hidden width of the MLPs; None for ``4 * width``.
        source_positions: S; the encoder takes twice as many frames.
        target_positions: the most tokens of a text, prompt included.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        dropout, attention_dropout: while training.

    Raises:
        ConfigError: if a number is out of range.
    """

    bins: int = 80
    vocab_size: int = 51865
    width: int = 384
    encoder_depth: int = 4
    decoder_depth: int = 4
    encoder_heads: int = 6
    decoder_heads: int = 6
    encoder_mlp: int | None = None
    decoder_mlp: int | None = None
    source_positions: int = 1500
    target_positions: int = 448
    activation: Activation = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.bins, self.vocab_size, self.width, self.encoder_depth, self.decoder_depth)
        if min(*sizes, self.encoder_heads, self.decoder_heads, self.source_positions, self.target_positions) < 1:
            raise ConfigError("Whisper: every size must be at least 1.")
        if self.width % self.encoder_heads or self.width % self.decoder_heads or self.width % 2:
            raise ConfigError(f"Whisper: width must be even and a multiple of the heads, found {self.width}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Whisper: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")

    @property
    def frames(self) -> int:
        """T: frames of sound that the encoder takes, 3000 of 10 ms in all published models."""
        return 2 * self.source_positions


def sinusoids(positions: int, width: int) -> Tensor:
    """Return position embeddings ``(positions, width)``: sines, then cosines, of wavelengths from 2 pi to 10,000 x 2 pi."""
    rate = torch.exp(-math.log(10_000) / (width // 2 - 1 or 1) * torch.arange(width // 2))
    angle = torch.arange(positions).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], 1)


class WhisperEncoder(nn.Module):
    """Log-mel frames to vectors: two convolutions, the second of stride 2, then blocks that see all.

    Args:
        config: sizes and choices.
    """

    position_embedding: Tensor

    def __init__(self, config: WhisperNetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv1d(config.bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("position_embedding", sinusoids(config.source_positions, width))
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Transformer(
            Block(
                width,
                Attention(width, config.encoder_heads, dropout=config.attention_dropout),
                MLP(width, config.encoder_mlp or 4 * width, config.activation),
                dropout=config.dropout,
            )
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, mel_BTM: Tensor) -> Tensor:
        """Map (B, T, M) to (B, S, D).

        Raises:
            DataError: if there are not exactly ``config.frames`` frames of ``config.bins`` bins.
        """
        if mel_BTM.dim() != 3 or mel_BTM.shape[1:] != (self.config.frames, self.config.bins):
            raise DataError(
                f"Whisper's encoder takes log-mel frames of shape (B, {self.config.frames}, {self.config.bins}), found "
                f"{tuple(mel_BTM.shape)}: cut or pad the sound."
            )
        x_BDT = F.gelu(self.conv1(mel_BTM.transpose(1, 2)))
        x_BSD = F.gelu(self.conv2(x_BDT)).transpose(1, 2) + self.position_embedding
        return self.norm(self.transformer(self.dropout(x_BSD)))


class WhisperDecoder(nn.Module):
    """Logits of the next token of a text, given sound.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: WhisperNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.target_positions, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                config.width,
                config.decoder_heads,
                config.width,
                config.decoder_mlp or 4 * config.width,
                activation=config.activation,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
            )
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(config.width)

    @property
    def layers(self) -> list[DecoderBlock]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

    def start(self, sound_BSD: Tensor, length: int) -> Written:
        """Return the memory of a text that has not begun, of at most ``length`` tokens."""
        kept = [block.cross.keys(sound_BSD) for block in self.layers]
        return Written(KVCache(self.config.decoder_depth, min(length, self.config.target_positions)), kept)

    def hidden(self, tokens_BL: Tensor, sound: Tensor | Written) -> Tensor:
        """Return a vector for each token, (B, L, D); its dot products with the token embeddings are the logits.

        Args:
            tokens_BL: int64 (B, L).
            sound: the encoder's vectors (B, S, D), or the memory, from which the tokens go on and in which they are kept.

        Raises:
            DataError: if there are more than ``target_positions`` tokens.
        """
        memory = sound if isinstance(sound, Written) else None
        start = memory.cache.length if memory else 0
        end = start + tokens_BL.shape[1]
        if end > self.config.target_positions:
            raise DataError(f"Whisper writes at most {self.config.target_positions} tokens at a time, found {end}.")
        x_BLD = self.dropout(self.token_embedding(tokens_BL) + self.position_embedding[start:end])
        for number, block in enumerate(self.blocks):
            if memory is None:
                x_BLD = block(x_BLD, sound)
            else:
                x_BLD = block(x_BLD, memory.context[number], cache=memory.cache.layers[number])
        return self.norm(x_BLD)

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., V) of vectors (..., D)."""
        return F.linear(x_BLD, self.token_embedding.weight)


class WhisperNetwork(nn.Module):
    """Encoder and decoder.

    Weights are drawn from a normal distribution of standard deviation 0.02; biases are zero.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: WhisperNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WhisperEncoder(config)
        self.decoder = WhisperDecoder(config)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding | nn.Conv1d):
                nn.init.normal_(part.weight, std=INIT_STD)
                if not isinstance(part, nn.Embedding) and part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.decoder.position_embedding, std=INIT_STD)

    def forward(self, mel_BTM: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return the logits (B, L, V) of the token after each, of sound (B, T, M) and tokens (B, L)."""
        return self.decoder.logits(self.decoder.hidden(tokens_BL, self.encoder(mel_BTM)))

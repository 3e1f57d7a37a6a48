"""Networks that read speech: features of a recording in, one hidden vector for each of some frames out.

An LSTM (Hochreiter & Schmidhuber 1997; Graves 2006 for CTC), a convolutional network over time (a TDNN, Waibel et al.
1989, or depthwise-separable as in QuartzNet, Kriman et al. 2020) and the Conformer (Gulati et al. 2020; its block is in
:mod:`intermodal.nn.conformer`). All are called alike, the padding of a batch never changes a recording's result, and those
with a limited context can be fed while the recording goes on, with the result of the whole.

Shapes: B recordings, T frames of features, F features, U frames out, D width, n and m frames of a piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.conformer import ConformerBlock
from intermodal.nn.speech_blocks import LSTMBlock, SeparableBlock, TDNNBlock
from intermodal.nn.time_conv import (
    Chain,
    Each,
    FullConv,
    MapConv,
    Stream,
    TimeConv,
    masked,
    valid,
)

Front = Literal["maps", "frames"]


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig(Config):
    """What all encoders share.

    Attributes:
        width: D, of the hidden vectors.
        subsampling: frames of features for one frame out: 1, 2, 4 or 8, by convolutions of stride 2.
        front: what those convolve: ``maps`` of time and frequency (3 x 3), or ``frames`` (over time alone).
        maps: channels of the maps.
        dropout: share of each block's output that is zeroed while training.
    """

    width: int = 256
    subsampling: int = 4
    front: Front = "frames"
    maps: int = 32
    dropout: float = 0.1

    def build(self, inputs: int) -> SpeechEncoder:
        """Return the encoder for F = ``inputs`` features, freshly initialised."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LSTMEncoderConfig(SpeechEncoderConfig):
    """Stacked LSTMs with residual connections.

    Attributes:
        depth: layers.
        bidirectional: each layer reads both ways, with half of the width each; one way only can be streamed.
    """

    depth: int = 3
    bidirectional: bool = True

    def build(self, inputs: int) -> LSTMEncoder:
        """Return the encoder for F = ``inputs`` features, freshly initialised."""
        return LSTMEncoder(self, inputs)


@dataclass(frozen=True, kw_only=True)
class CNNEncoderConfig(SpeechEncoderConfig):
    """Residual convolutions over time.

    Attributes:
        depth: blocks.
        kernel: frames that each sees, or that lie between those it sees where ``dilations`` are above 1.
        dilations: of the blocks, in turn.
        separable: each number has its own kernel, and a layer of ``expansion`` times the width mixes them; otherwise one
            convolution mixes both (a TDNN).
        expansion: see ``separable``.
        look_ahead: frames of the future that each block sees; None for half of the kernel.
    """

    depth: int = 8
    kernel: int = 11
    dilations: tuple[int, ...] = (1,)
    separable: bool = True
    expansion: int = 2
    look_ahead: int | None = None

    def build(self, inputs: int) -> CNNEncoder:
        """Return the encoder for F = ``inputs`` features, freshly initialised."""
        return CNNEncoder(self, inputs)


@dataclass(frozen=True, kw_only=True)
class ConformerEncoderConfig(SpeechEncoderConfig):
    """Conformer blocks.

    Attributes:
        depth: blocks.
        heads: of attention.
        expansion: the hidden width of the feed-forward layers, in widths.
        kernel: frames that the convolution module sees.
        chunk: frames out that are computed together and see one another, and no later ones; None for the whole recording.
            The convolutions see no future then.
        past_chunks: chunks before its own that a frame attends to.
    """

    depth: int = 6
    heads: int = 4
    expansion: int = 4
    kernel: int = 15
    chunk: int | None = None
    past_chunks: int = 4

    def build(self, inputs: int) -> ConformerEncoder:
        """Return the encoder for F = ``inputs`` features, freshly initialised."""
        return ConformerEncoder(self, inputs)


class SpeechEncoder(nn.Module):
    """Base of the encoders: a front that subsamples, then blocks.

    Attributes:
        width: D.
        stride: frames of features for one frame out.
        look_ahead: frames of features that must have come after a frame's own before it is settled, at most; None if the
            whole recording must have.
    """

    look_ahead: int | None

    def __init__(self, config: SpeechEncoderConfig, inputs: int, *, causal: bool) -> None:
        super().__init__()
        self.config, self.width, self.stride = config, config.width, config.subsampling
        self.front = Subsampling(config, inputs, causal=causal)
        self.blocks = nn.ModuleList()

    def frames(self, frames_B: Tensor) -> Tensor:
        """Return how many frames come out for ``frames_B`` of features: divided by the stride, rounded up."""
        return (frames_B + self.stride - 1).div(self.stride, rounding_mode="floor")

    def forward(
        self, feat_BTF: Tensor, frames_B: Tensor, watch: Callable[[int, Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of recordings.

        Args:
            feat_BTF: features, float ``(B, T, F)``; what lies beyond a recording's frames does not matter.
            frames_B: frames of each, int64 ``(B,)``.
            watch: called after each block with its number and its output ``(B, U, D)``.

        Returns:
            Hidden vectors ``(B, U, D)``, zero beyond a recording's frames, and the frames of each ``(B,)``.
        """
        x_BUD, out_B = self.front(feat_BTF, frames_B), self.frames(frames_B)
        valid_BU = valid(out_B, x_BUD.shape[1])
        x_BUD = masked(x_BUD, valid_BU)
        for number, block in enumerate(self.blocks):
            x_BUD = block(x_BUD, out_B, valid_BU)
            if watch is not None:
                watch(number, x_BUD)
        return masked(self.last(x_BUD), valid_BU), out_B

    def last(self, x_BUD: Tensor) -> Tensor:
        """Return what comes out, from the last block's output, frame by frame."""
        return x_BUD

    def stream(self) -> EncoderStream:
        """Return what reads one recording piece by piece, in evaluation mode and without gradients.

        Raises:
            ConfigError: if the encoder needs the whole recording.
        """
        if self.look_ahead is None:
            raise ConfigError(
                f"This {type(self).__name__} needs the whole recording before it can say anything: {self._why_not()}."
            )
        return EncoderStream(Chain([self.front.stream(), *self._streams(), Each(self.last)]), self)

    def _streams(self) -> list[Stream]:
        return [block.stream() for block in self.blocks]  # type: ignore[operator]

    def _why_not(self) -> str:
        raise NotImplementedError


class EncoderStream:
    """Reads the features of one recording piece by piece (:meth:`SpeechEncoder.stream`)."""

    def __init__(self, chain: Chain, encoder: SpeechEncoder) -> None:
        self._chain, self._encoder, self._features = chain, encoder, 0

    @torch.no_grad()
    def feed(self, feat_1nF: Tensor) -> Tensor:
        """Take the next features ``(1, n, F)`` and return the hidden vectors that are settled now, ``(1, m, D)``."""
        return self._read(feat_1nF, last=False)

    @torch.no_grad()
    def finish(self, feat_1nF: Tensor | None = None) -> Tensor:
        """Take the last features, if any, and return the rest of the hidden vectors, ``(1, m, D)``."""
        if feat_1nF is None:
            like = next(self._encoder.parameters())
            feat_1nF = like.new_zeros(1, 0, self._encoder.front.inputs)
        return self._read(feat_1nF, last=True)

    def _read(self, feat_1nF: Tensor, last: bool) -> Tensor:
        was_training = self._encoder.training
        self._encoder.eval()
        self._features += feat_1nF.shape[1]
        if last and self._features == 0:  # nothing has come at all
            return feat_1nF.new_zeros(1, 0, self._encoder.width)
        hidden_1mD = self._chain(feat_1nF, last)
        self._encoder.train(was_training)
        return hidden_1mD


class Subsampling(nn.Module):
    """Convolutions of stride 2 over time, then a linear layer to the width and a layer norm.

    ``maps`` are 3 x 3 convolutions over time and frequency (Gulati et al. 2020, figure 1, has two); without subsampling
    there is one of stride 1.
    """

    def __init__(self, config: SpeechEncoderConfig, inputs: int, *, causal: bool) -> None:
        super().__init__()
        steps = {1: 0, 2: 1, 4: 2, 8: 3}.get(config.subsampling)
        if steps is None:
            raise ConfigError(f"subsampling must be 1, 2, 4 or 8, found {config.subsampling}.")
        self.inputs, self.right = inputs, 0
        right = 0 if causal else 1
        convs: list[TimeConv] = []
        strides = [2] * steps or [1]
        size, bins, channels = inputs, inputs, 1
        for number, stride in enumerate(strides):
            conv: TimeConv
            if config.front == "maps":
                conv = maps = MapConv(bins, channels, config.maps, stride, right)
                bins, channels, size = (bins + 1) // 2, config.maps, maps.size
            else:
                conv = FullConv(size, config.width, 5, stride, right=2 * right)
                size = config.width
            convs.append(conv)
            self.right += conv.right * 2**number
        self.convs = nn.ModuleList(convs)
        self.out = nn.Linear(size, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, feat_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """Map ``(B, T, F)`` to ``(B, U, D)``."""
        x_BTN = feat_BTF
        for conv in self._convs():
            x_BTN = F.relu(conv(masked(x_BTN, valid(frames_B, x_BTN.shape[1]))))
            frames_B = (frames_B + conv.stride - 1).div(conv.stride, rounding_mode="floor")
        return self._each(x_BTN)

    def _convs(self) -> list[TimeConv]:
        return [conv for conv in self.convs if isinstance(conv, TimeConv)]

    def _each(self, x_BUN: Tensor) -> Tensor:
        return self.norm(self.out(x_BUN))

    def stream(self) -> Stream:
        """Return a stream of the front."""
        parts: list[Stream] = []
        for conv in self._convs():
            parts += [conv.stream(), Each(F.relu)]
        return Chain([*parts, Each(self._each)])


# --- convolutions ----------------------------------------------------------------------------------------------------


class CNNEncoder(SpeechEncoder):
    """A residual convolutional network over time; always streamable, with the sum of its blocks' look-aheads."""

    def __init__(self, config: CNNEncoderConfig, inputs: int) -> None:
        look_ahead = config.look_ahead
        super().__init__(config, inputs, causal=look_ahead == 0)
        if not config.dilations:
            raise ConfigError("A CNNEncoder needs at least one dilation.")
        rights = []
        for number in range(config.depth):
            dilation = config.dilations[number % len(config.dilations)]
            if config.separable and dilation != 1:
                raise ConfigError(
                    "Separable convolutions have no dilation: choose a larger kernel, or separable=False."
                )
            rights.append((config.kernel // 2 if look_ahead is None else look_ahead) * dilation)
            block: nn.Module
            if config.separable:
                hidden = config.expansion * config.width
                block = SeparableBlock(config.width, hidden, config.kernel, rights[-1], config.dropout)
            else:
                block = TDNNBlock(config.width, config.kernel, dilation, rights[-1], config.dropout)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(config.width)
        self.look_ahead = self.front.right + sum(rights) * self.stride

    def last(self, x_BUD: Tensor) -> Tensor:
        """Return the normalised output of the last block."""
        return self.norm(x_BUD)


# --- LSTM ------------------------------------------------------------------------------------------------------------


class LSTMEncoder(SpeechEncoder):
    """Stacked LSTMs over subsampled frames; one-directional ones can be streamed."""

    def __init__(self, config: LSTMEncoderConfig, inputs: int) -> None:
        super().__init__(config, inputs, causal=not config.bidirectional)
        if config.bidirectional and config.width % 2:
            raise ConfigError(f"A bidirectional LSTM needs an even width, found {config.width}.")
        self.blocks = nn.ModuleList(
            LSTMBlock(config.width, config.bidirectional, config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.look_ahead = None if config.bidirectional else self.front.right

    def last(self, x_BUD: Tensor) -> Tensor:
        """Return the normalised output of the last block."""
        return self.norm(x_BUD)

    def _why_not(self) -> str:
        return "it reads both ways. Choose bidirectional=False"


# --- Conformer -------------------------------------------------------------------------------------------------------


class ConformerEncoder(SpeechEncoder):
    """The Conformer (Gulati et al. 2020, figure 1); with chunks its context is limited and it can be streamed."""

    def __init__(self, config: ConformerEncoderConfig, inputs: int) -> None:
        super().__init__(config, inputs, causal=config.chunk is not None)
        if config.chunk is not None and (config.chunk < 1 or config.past_chunks < 0):
            raise ConfigError(
                f"chunk must be at least 1 and past_chunks at least 0, found {config.chunk} and {config.past_chunks}."
            )
        for _ in range(config.depth):
            self.blocks.append(
                ConformerBlock(
                    config.width,
                    config.heads,
                    config.expansion * config.width,
                    config.kernel,
                    dropout=config.dropout,
                    chunk=config.chunk,
                    past_chunks=config.past_chunks,
                )
            )
        self.look_ahead = None if config.chunk is None else self.front.right + (config.chunk - 1) * self.stride

    def _why_not(self) -> str:
        return "its attention sees all of it. Choose a chunk"

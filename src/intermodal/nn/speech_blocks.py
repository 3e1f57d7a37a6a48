"""Residual blocks of speech encoders (convolutions over time, LSTMs), each with a stream that gives the same in pieces.

All are called as ``block(x_BUD, frames_B, valid_BU)``, where ``valid_BU`` tells frames from padding (None: no padding).

Shapes: B recordings, U frames, D width, n frames of a piece.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.nn.dropout import Dropout
from intermodal.nn.time_conv import Chain, DepthwiseConv, Each, FullConv, Residual, Stream, masked


class SeparableBlock(nn.Module):
    """``x + W2 act(W1 norm(depthwise(x)))``: a depthwise-separable residual block.

    QuartzNet (Kriman et al. 2020) has depthwise and pointwise convolutions in turn; a wide layer between two pointwise
    convolutions is the order of Liu et al. 2022 (ConvNeXt, figure 4), which puts most work into matrix products.
    """

    def __init__(self, width: int, hidden: int, kernel: int, right: int, dropout: float) -> None:
        super().__init__()
        self.conv = DepthwiseConv(width, kernel, right)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BUD: Tensor, frames_B: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        del frames_B
        return x_BUD + self._each(self.conv(masked(x_BUD, valid_BU)))

    def _each(self, y_BUD: Tensor) -> Tensor:
        return self.dropout(self.fc2(F.silu(self.fc1(self.norm(y_BUD)))))

    def stream(self) -> Stream:
        """Return a stream of the block."""
        return Residual(Chain([self.conv.stream(), Each(self._each)]))


class TDNNBlock(nn.Module):
    """``x + relu(norm(conv(x)))``: a time-delay layer (Waibel et al. 1989) with a residual connection."""

    def __init__(self, width: int, kernel: int, dilation: int, right: int, dropout: float) -> None:
        super().__init__()
        self.conv = FullConv(width, width, kernel, right=right, dilation=dilation)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BUD: Tensor, frames_B: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        del frames_B
        return x_BUD + self._each(self.conv(masked(x_BUD, valid_BU)))

    def _each(self, y_BUD: Tensor) -> Tensor:
        return self.dropout(F.relu(self.norm(y_BUD)))

    def stream(self) -> Stream:
        """Return a stream of the block."""
        return Residual(Chain([self.conv.stream(), Each(self._each)]))


class LSTMBlock(nn.Module):
    """``x + lstm(norm(x))``: one layer, one way or both, whose backward half begins at each recording's own end.

    The LSTM is that of ``nn.LSTM`` on packed sequences, and faster on a CPU: each half is one call of the fused kernel over
    the padded batch. Reading forward, padding comes too late to matter; for the backward half each recording is turned
    around within its own length. Norm and residual get stacked layers through CTC's first phase, in which all is blank.
    """

    def __init__(self, width: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        half = width // 2 if bidirectional else width
        self.norm = nn.LayerNorm(width)
        self.ahead = nn.LSTM(width, half, batch_first=True)
        self.back = nn.LSTM(width, half, batch_first=True) if bidirectional else None
        self.dropout = Dropout(dropout)

    def forward(self, x_BUD: Tensor, frames_B: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        del valid_BU
        return x_BUD + self.dropout(self.read(self.norm(x_BUD), frames_B))

    def read(self, x_BUD: Tensor, frames_B: Tensor) -> Tensor:
        """Return what the LSTM makes of ``(B, U, D)``; what it makes of padding does not matter."""
        y_BUD = self.ahead(x_BUD)[0]
        if self.back is None:
            return y_BUD
        turned_BU1 = _turned(frames_B, x_BUD.shape[1])[..., None]
        z_BUD = self.back(x_BUD.gather(1, turned_BU1.expand_as(x_BUD)))[0]
        return torch.cat([y_BUD, z_BUD.gather(1, turned_BU1.expand_as(z_BUD))], 2)

    def stream(self) -> Stream:
        """Return a stream of the layer, which must be one-directional."""
        return Residual(Chain([Each(self.norm), LSTMStream(self.ahead)]))


class LSTMStream:
    """The stream of a one-directional LSTM: keeps its state."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self.lstm = lstm
        self.state: tuple[Tensor, Tensor] | None = None

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`intermodal.nn.time_conv.Stream`."""
        del last
        if x_1nN.shape[1] == 0:
            return x_1nN.new_zeros(1, 0, self.lstm.hidden_size)
        y_1nD, self.state = self.lstm(x_1nN, self.state)
        return y_1nD


def _turned(frames_B: Tensor, longest: int) -> Tensor:
    """Return the places ``(B, longest)`` that turn each recording around within its length and leave the padding."""
    places_U = torch.arange(longest, device=frames_B.device)
    return torch.where(places_U < frames_B[:, None], frames_B[:, None] - 1 - places_U, places_U)

"""Convolutions over time with a stated look-ahead, and what reads a recording piece by piece with the same result.

A layer that needs ``right`` frames of the future, and a bounded past, can be computed while the recording still goes on.
Its stream keeps the inputs that later outputs need and gives each output as soon as it is settled. Streams are called as
``stream(x_1nN, last)`` and return ``(1, m, M)``, where m may be 0; all outputs one after another are those of the layer on
the whole recording, whatever the pieces were.

Shapes: B recordings, T frames in, U frames out, N numbers in each in, M out, n and m frames of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import ConfigError


def valid(frames_B: Tensor, longest: int) -> Tensor | None:
    """Return which of ``longest`` frames belong to a recording, bool ``(B, longest)``; None where all do."""
    return None if int(frames_B.min()) >= longest else frames_up_to(frames_B, longest)


def frames_up_to(frames_B: Tensor, longest: int) -> Tensor:
    """Return which of ``longest`` frames (or samples) belong to a recording, bool ``(B, longest)``."""
    return torch.arange(longest, device=frames_B.device) < frames_B[:, None]


def mean_over(x_BTN: Tensor, frames_B: Tensor) -> Tensor:
    """Return each recording's mean over its own frames, ``(B, N)``; zeros for one that has none."""
    own_BT = frames_up_to(frames_B, x_BTN.shape[1])
    return x_BTN.masked_fill(~own_BT[..., None], 0.0).sum(1) / frames_B[:, None].clamp(min=1)


def masked(x_BTN: Tensor, valid_BT: Tensor | None) -> Tensor:
    """Return ``x_BTN`` with zeros where a recording is over."""
    return x_BTN if valid_BT is None else x_BTN.masked_fill(~valid_BT[..., None], 0.0)


class TimeConv(nn.Module):
    """Base of the convolutions over time: output u sees the inputs ``stride * u - left`` to ``stride * u + right``.

    Beyond both ends there are zeros, so T inputs give ``ceil(T / stride)`` outputs.

    Args:
        kernel: how many inputs an output sees.
        stride: inputs from one output to the next.
        right: of the inputs that an output sees, those of the future.
        dilation: inputs from one that is seen to the next.

    Raises:
        ConfigError: if a size is not positive or ``right`` lies outside of the kernel.
    """

    def __init__(self, kernel: int, stride: int = 1, right: int = 0, dilation: int = 1) -> None:
        super().__init__()
        self.span, self.stride, self.dilation = (kernel - 1) * dilation + 1, stride, dilation
        if min(kernel, stride, dilation) < 1 or stride > self.span or not 0 <= right < self.span:
            raise ConfigError(
                "A convolution over time needs a kernel, a stride and a dilation of at least 1, and its stride and its "
                f"look-ahead must lie within the kernel, found {kernel}, {stride}, {dilation} and {right}."
            )
        self.right, self.left = right, self.span - 1 - right

    def convolve(self, x_BTN: Tensor, padding: int = 0) -> Tensor:
        """Return the outputs of ``x_BTN`` with ``padding`` zeros before and behind, ``(B, U, M)``."""
        raise NotImplementedError

    def forward(self, x_BTN: Tensor) -> Tensor:
        """Map ``(B, T, N)`` to ``(B, ceil(T / stride), M)``; what is padding in ``x_BTN`` must be zero."""
        if self.left == self.right:
            return self.convolve(x_BTN, self.left)
        return self.convolve(F.pad(x_BTN, (0, 0, self.left, self.right)))

    def stream(self) -> Stream:
        """Return a stream of this layer."""
        return ConvStream(self)


class DepthwiseConv(TimeConv):
    """A convolution of each number with its own kernel (Gulati et al. 2020, section 2.2).

    torch computes it over twenty times as fast as ``conv1d`` would when frames lie one behind another in memory.
    """

    def __init__(self, width: int, kernel: int, right: int, *, bias: bool = True) -> None:
        super().__init__(kernel, right=right)
        self.conv = nn.Conv2d(width, width, (1, kernel), groups=width, bias=bias)

    def convolve(self, x_BTN: Tensor, padding: int = 0) -> Tensor:
        """See :meth:`TimeConv.convolve`."""
        x_BN1T = x_BTN.transpose(1, 2).unsqueeze(2)
        conv = self.conv
        return F.conv2d(x_BN1T, conv.weight, conv.bias, 1, (0, padding), 1, conv.groups).squeeze(2).transpose(1, 2)


class FullConv(TimeConv):
    """A convolution over time that mixes all numbers: ``nn.Conv1d``, with frames first."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, right: int = 0, dilation: int = 1
    ) -> None:
        super().__init__(kernel, stride, right, dilation)
        self.conv = nn.Conv2d(inputs, outputs, (1, kernel))

    def convolve(self, x_BTN: Tensor, padding: int = 0) -> Tensor:
        """See :meth:`TimeConv.convolve`."""
        x_BN1T = x_BTN.transpose(1, 2).unsqueeze(2)
        weight, bias = self.conv.weight, self.conv.bias
        y_BM1U = F.conv2d(x_BN1T, weight, bias, (1, self.stride), (0, padding), (1, self.dilation))
        return y_BM1U.squeeze(2).transpose(1, 2)


class MapConv(TimeConv):
    """A 3 x 3 convolution over time and frequency, of stride 2 over frequency.

    A frame holds a map of ``bins`` frequencies with ``inputs`` numbers each, and gives ``ceil(bins / 2)`` with ``outputs``.
    """

    def __init__(self, bins: int, inputs: int, outputs: int, stride: int, right: int) -> None:
        super().__init__(3, stride, right)
        self.bins, self.inputs = bins, inputs
        self.size = (bins + 1) // 2 * outputs
        """M, how many numbers a frame has then."""
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def convolve(self, x_BTN: Tensor, padding: int = 0) -> Tensor:
        """See :meth:`TimeConv.convolve`."""
        x_BCTF = x_BTN.unflatten(2, (self.bins, self.inputs)).permute(0, 3, 1, 2)
        y_BCUF = F.conv2d(x_BCTF, self.conv.weight, self.conv.bias, (self.stride, 2), (padding, 1))
        return y_BCUF.permute(0, 2, 3, 1).flatten(2)


class Stream(Protocol):
    """Reads a recording piece by piece: see the head of this file."""

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """Take the next frames, ``last`` if no more will come, and return those that are settled, ``(1, m, M)``."""
        ...


class Each:
    """The stream of what maps each frame alone."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`Stream`."""
        del last
        return self.function(x_1nN)


class ConvStream:
    """The stream of a :class:`TimeConv`: keeps the inputs that outputs to come will see."""

    def __init__(self, conv: TimeConv) -> None:
        self.conv = conv
        self.kept: Tensor | None = None

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`Stream`."""
        conv = self.conv
        began = x_1nN.new_zeros(1, conv.left, x_1nN.shape[2]) if self.kept is None else self.kept
        seen = [began, x_1nN] + ([x_1nN.new_zeros(1, conv.right, x_1nN.shape[2])] if last else [])
        x_1nN = torch.cat(seen, 1)
        count = max(0, (x_1nN.shape[1] - conv.span) // conv.stride + 1)
        self.kept = x_1nN[:, count * conv.stride :]
        if count == 0:  # the number of outputs of a frame is known to the layer alone
            whole = F.pad(x_1nN, (0, 0, 0, conv.span))[:, : conv.span]
            return conv.convolve(whole)[:, :0]
        return conv.convolve(x_1nN[:, : (count - 1) * conv.stride + conv.span])


class Residual:
    """The stream of ``x + f(x)``: keeps x until f of it is settled."""

    def __init__(self, branch: Stream) -> None:
        self.branch = branch
        self.kept: Tensor | None = None

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`Stream`."""
        kept = x_1nN if self.kept is None else torch.cat([self.kept, x_1nN], 1)
        y_1mN = self.branch(x_1nN, last)
        count = y_1mN.shape[1]
        self.kept = kept[:, count:]
        return kept[:, :count] + y_1mN


class Chain:
    """Streams one after another."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = list(streams)

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`Stream`."""
        for stream in self.streams:
            x_1nN = stream(x_1nN, last)
        return x_1nN

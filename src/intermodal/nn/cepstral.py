"""What is done to frames of features over time: slopes (deltas) and normalisation (CMVN), offline or while frames arrive.

Shapes: B recordings, N frames, F features of a frame, H frames that a slope looks ahead and back.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from intermodal.core.errors import DataError
from intermodal.nn.time_conv import frames_up_to

SMALLEST_DEVIATION = 1e-5
"""What a deviation is raised to before anything is divided by it: a feature that never changes becomes 0."""


class FrameStream(Protocol):
    """Frames in, frames out, in pieces; one recording."""

    def feed(self, feature_1nF: Tensor) -> Tensor:
        """Return the frames that can be had now."""
        ...

    def finish(self) -> Tensor:
        """Return what is left, at the end of the recording."""
        ...


def slope_kernel(order: int, window: int) -> Tensor:
    """Return the weights of frames -H..H of a slope, float64 ``(2 H + 1,)``, H being ``order * window``.

    The slope is that of the line of least squares, ``sum_j j x[t + j] / sum_j j^2`` over -window..window (HTK book, equation
    5.16); that of order 2 is the slope of the slope, as in Kaldi.
    """
    side = torch.arange(-window, window + 1, dtype=torch.float64)
    one = side / side.square().sum()
    kernel = torch.ones(1, dtype=torch.float64)
    for _ in range(order):
        grown = torch.zeros(len(kernel) + 2 * window, dtype=torch.float64)
        for shift, weight in enumerate(one):
            grown[shift : shift + len(kernel)] += weight * kernel
        kernel = grown
    return kernel


class Deltas:
    """Puts the slopes of order 1 to ``orders`` behind each frame.

    Beyond its ends a recording is taken to go on with its outermost frame.

    Args:
        orders: how many.
        window: frames to each side that a slope is fitted over.
    """

    def __init__(self, orders: int, window: int) -> None:
        self.reach = orders * window
        self.kernels = [(n * window, slope_kernel(n, window).tolist()) for n in range(1, orders + 1)]

    def __call__(self, feature_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Return features ``(B, N, (1 + orders) F)``."""
        size = feature_BNF.shape[1]
        if not size:
            return feature_BNF.repeat(1, 1, 1 + len(self.kernels))
        last = (frames_B - 1).clamp(min=0)[:, None]
        place = torch.arange(-self.reach, size + self.reach, device=feature_BNF.device).clamp(min=0)
        place_BP = torch.minimum(place.expand(len(feature_BNF), -1), last)
        padded = feature_BNF.gather(1, place_BP[..., None].expand(-1, -1, feature_BNF.shape[2]))
        return self.inside(padded)

    def inside(self, padded_BPF: Tensor) -> Tensor:
        """Return features and slopes of all frames that have ``reach`` frames before and behind them."""
        size = padded_BPF.shape[1] - 2 * self.reach
        parts = [padded_BPF[:, self.reach : self.reach + size]]
        for half, kernel in self.kernels:
            first = self.reach - half
            terms = (w * padded_BPF[:, first + j : first + j + size] for j, w in enumerate(kernel) if w)
            parts.append(sum(terms, torch.zeros_like(parts[0])))
        return torch.cat(parts, -1)

    def stream(self) -> FrameStream:
        """Return what does the same while frames arrive, ``reach`` frames behind them."""
        return _DeltaStream(self)


class _DeltaStream:
    def __init__(self, deltas: Deltas) -> None:
        self.deltas, self.kept = deltas, None

    kept: Tensor | None

    def feed(self, feature_1nF: Tensor) -> Tensor:
        reach = self.deltas.reach
        if self.kept is None:
            if not feature_1nF.shape[1]:
                return feature_1nF.repeat(1, 1, 1 + len(self.deltas.kernels))
            self.kept = feature_1nF[:, :1].expand(-1, reach, -1)
        self.kept = torch.cat([self.kept, feature_1nF], 1)
        ready = self.kept.shape[1] - 2 * reach
        if ready <= 0:
            return self.kept[:, :0].repeat(1, 1, 1 + len(self.deltas.kernels))
        out = self.deltas.inside(self.kept)
        self.kept = self.kept[:, ready:]
        return out

    def finish(self) -> Tensor:
        if self.kept is None:
            raise DataError("No frame has arrived.")
        return self.feed(self.kept[:, -1:].expand(-1, self.deltas.reach, -1))


def by_utterance(feature_BNF: Tensor, frames_B: Tensor, variance: bool = True) -> Tensor:
    """Return features less their mean over the recording, and over their standard deviation.

    The deviation is of the population (over N, as Kaldi's); what lies beyond a recording's frames is not counted.
    """
    valid = frames_up_to(frames_B, feature_BNF.shape[1])[..., None]
    number = frames_B.clamp(min=1)[:, None, None].to(feature_BNF.dtype)
    mean = feature_BNF.masked_fill(~valid, 0).sum(1, keepdim=True) / number
    centred = (feature_BNF - mean).masked_fill(~valid, 0)
    if not variance:
        return centred
    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt()
    return centred / deviation.clamp(min=SMALLEST_DEVIATION)


class Sliding:
    """Normalises each frame by the mean and deviation of the last frames, itself included (Kaldi's, not centred).

    Args:
        window: how many frames before it count, besides itself.
        least: as many frames there must be; at the beginning they are borrowed from the future.
        variance: divide by the deviation.
    """

    def __init__(self, window: int, least: int, variance: bool) -> None:
        self.window, self.least, self.variance = window, least, variance

    def __call__(self, feature_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Return normalised features."""
        size, device = feature_BNF.shape[1], feature_BNF.device
        place = torch.arange(size, device=device)
        begin = (place - self.window).clamp(min=0)
        end = torch.minimum((place + 1).clamp(min=self.least)[None], frames_B[:, None]).clamp(min=1)
        end = torch.maximum(end, begin[None] + 1).clamp(max=max(size, 1))  # beyond the recording: anything
        shifted = feature_BNF.double() - feature_BNF[:, :1].double()  # what is small keeps its digits in running sums
        return self.apply(shifted, _running(shifted), begin.expand(len(feature_BNF), -1), end).to(feature_BNF.dtype)

    def apply(self, feature_BNF: Tensor, sums_B1: tuple[Tensor, Tensor], begin_BN: Tensor, end_BN: Tensor) -> Tensor:
        """Return float64 frames normalised over ``begin`` to ``end`` of running sums (their first entry being 0)."""
        number = (end_BN - begin_BN)[..., None].double()

        def over(running: Tensor) -> Tensor:
            wide = running.shape[-1]
            return (
                running.gather(1, end_BN[..., None].expand(-1, -1, wide))
                - running.gather(1, begin_BN[..., None].expand(-1, -1, wide))
            ) / number

        mean = over(sums_B1[0])
        centred = feature_BNF - mean
        if self.variance:
            spread = (over(sums_B1[1]) - mean.square()).clamp(min=SMALLEST_DEVIATION**2)
            centred = centred / spread.sqrt()
        return centred

    def stream(self) -> FrameStream:
        """Return what does the same while frames arrive: at once, but for the first ``least``."""
        return _SlidingStream(self)


def _running(feature_BNF: Tensor) -> tuple[Tensor, Tensor]:
    """Return the running sums of features and of their squares, float64 ``(B, N + 1, F)``, from 0."""
    zero = feature_BNF.new_zeros(len(feature_BNF), 1, feature_BNF.shape[2])
    return torch.cat([zero, feature_BNF.cumsum(1)], 1), torch.cat([zero, feature_BNF.square().cumsum(1)], 1)


class _SlidingStream:
    def __init__(self, sliding: Sliding) -> None:
        self.sliding = sliding
        self.shift: Tensor | None = None  # the first frame of all
        self.kept: Tensor | None = None  # float64, shifted
        self.first = 0  # the number of the first frame in `kept`
        self.done = 0  # the number of the next frame that goes out

    def feed(self, feature_1nF: Tensor) -> Tensor:
        return self._take(feature_1nF, last=False)

    def finish(self) -> Tensor:
        if self.shift is None:
            raise DataError("No frame has arrived.")
        return self._take(self.shift[:, :0], last=True)

    def _take(self, feature_1nF: Tensor, last: bool) -> Tensor:
        if self.shift is None:
            if not feature_1nF.shape[1]:
                return feature_1nF
            self.shift = feature_1nF[:, :1]
            self.kept = feature_1nF[:, :0].double()
        assert self.kept is not None
        self.kept = torch.cat([self.kept, feature_1nF.double() - self.shift.double()], 1)
        seen = self.first + self.kept.shape[1]
        if not last and seen < self.sliding.least:
            return feature_1nF[:, :0]
        place = torch.arange(self.done, seen, device=self.kept.device)
        begin = (place - self.sliding.window).clamp(min=0)
        end = (place + 1).clamp(min=self.sliding.least).clamp(max=seen)
        new = self.kept[:, self.done - self.first :]
        out = self.sliding.apply(new, _running(self.kept), begin[None] - self.first, end[None] - self.first)
        self.done = seen
        drop = max(self.done - self.sliding.window - self.first, 0)
        self.kept, self.first = self.kept[:, drop:], self.first + drop
        return out.to(feature_1nF.dtype)


class Moments:
    """Mean and standard deviation of features over many recordings, in float64.

    Args:
        size: F.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64)
        self.square = torch.zeros(size, dtype=torch.float64)

    def add(self, feature_BNF: Tensor, frames_B: Tensor) -> None:
        """Take in the frames of some recordings (Chan et al. 1983)."""
        valid = frames_up_to(frames_B, feature_BNF.shape[1])
        frame = feature_BNF[valid].detach().cpu().double()
        if not len(frame):
            return
        mean = frame.mean(0)
        total = self.count + len(frame)
        apart = mean - self.mean
        self.square += (frame - mean).square().sum(0) + apart.square() * (self.count * len(frame) / total)
        self.mean += apart * (len(frame) / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the deviation (over the number of frames), both ``(F,)`` float64.

        Raises:
            DataError: if there was no frame.
        """
        if not self.count:
            raise DataError("There is no frame of sound to fit the normalisation from.")
        return self.mean, (self.square / self.count).sqrt().clamp(min=SMALLEST_DEVIATION)

"""Features while sound arrives: the same frames as of the whole recording, as soon as their samples are there.

Shapes: n samples or frames of a piece, F features of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cepstral import Deltas, FrameStream, Sliding

if TYPE_CHECKING:
    from intermodal.nn.speech_features import SpeechFeatures


class FeatureStream:
    """One recording's features, piece by piece; made by :meth:`SpeechFeatures.stream`.

    Args:
        features: what gives the frames.

    Raises:
        ConfigError: if a part of the features needs the whole recording.
    """

    def __init__(self, features: SpeechFeatures) -> None:
        config = features.config
        if config.whole is not None:
            raise ConfigError(
                f"Features with {config.whole} depend on the whole recording, so they cannot be had while sound arrives; "
                "take cmvn='sliding' or 'global', and log='ln'."
            )
        self.features = features
        self._wave: Tensor | None = None
        self._origin = 0  # the number of the first sample that is kept
        self._next = 0  # the number of the next frame
        self._ended = False
        self._stages: list[FrameStream] = []
        if config.deltas:
            self._stages.append(Deltas(config.deltas, config.delta_window).stream())
        if config.cmvn == "sliding":
            self._stages.append(Sliding(config.cmvn_window, config.cmvn_min, config.cmvn_variance).stream())

    def feed(self, wave_1T: Tensor) -> Tensor:
        """Take the next samples, ``(1, n)`` at the rate of the features, and return the frames that are new, ``(1, n, F)``.

        Raises:
            DataError: if the samples have another form, or the stream has been finished.
        """
        if self._ended:
            raise DataError("This stream of features is finished: begin another.")
        if wave_1T.ndim != 2 or len(wave_1T) != 1 or not wave_1T.is_floating_point():
            raise DataError(
                f"A stream of features takes floating-point samples of shape (1, n), found {wave_1T.dtype} of shape "
                f"{tuple(wave_1T.shape)}."
            )
        piece = wave_1T if wave_1T.dtype in (torch.float32, torch.float64) else wave_1T.float()
        self._wave = piece if self._wave is None else torch.cat([self._wave, piece], 1)
        return self._through(self._cut(self._ready()), False)

    def finish(self) -> Tensor:
        """End the recording and return its last frames, ``(1, n, F)``."""
        if self._ended:
            raise DataError("This stream of features is finished already.")
        self._ended = True
        if self._wave is None:
            self._wave = torch.zeros(1, 0)
        return self._through(self._cut(self.features.frames(self._seen)), True)

    @property
    def _seen(self) -> int:
        return self._origin + (0 if self._wave is None else self._wave.shape[1])

    def _ready(self) -> int:
        """Return how many frames have all their samples, whatever comes."""
        features, config = self.features, self.features.config
        offset = features.offset
        # The first frames of a reflecting edge need the samples that are reflected into them, one more than they lack.
        if offset < 0 and self._seen <= -offset:
            return 0
        ready = (self._seen - offset - config.window_samples) // config.hop_samples + 1
        # A frame that is there now, and is the last if nothing more comes, may be one to drop.
        return max(min(ready, features.frames(self._seen)), self._next, 0)

    def _cut(self, end: int) -> Tensor:
        """Return the bands of frames up to ``end``, and forget the samples that no later frame needs."""
        assert self._wave is not None
        features, config = self.features, self.features.config
        count = end - self._next
        length = torch.tensor([self._seen], device=self._wave.device)
        with torch.autocast(self._wave.device.type, enabled=False):
            span = features.span(self._wave, length, self._next, count, self._origin)
            frames = features.cepstra(features.bands(span, count))
        self._next = end
        # What is mirrored at the end lies no further back than a transform and a hop.
        reach = self._seen - config.points - 2 * config.hop_samples
        needed = max(min(end * config.hop_samples + features.offset, reach), self._origin)
        self._wave, self._origin = self._wave[:, needed - self._origin :], needed
        return frames

    def _through(self, frames: Tensor, last: bool) -> Tensor:
        """Return frames after deltas and normalisation, which may hold some back."""
        for stage in self._stages:
            frames = self._step(stage, frames, last)
        if self.features.config.cmvn == "global":
            frames = self.features.standardised(frames)
        return frames

    def _step(self, stage: FrameStream, frames: Tensor, last: bool) -> Tensor:
        out = stage.feed(frames)
        if last and (out.shape[1] or self._next):
            out = torch.cat([out, stage.finish()], 1)
        return out

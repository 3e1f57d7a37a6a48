"""The deep network over spliced frames of the first hybrid recognisers (Hinton et al. 2012), called as any speech encoder.

Each frame is seen with its neighbours, put side by side, and goes through layers of its own. The first layer over the
spliced frames is the same as a convolution over time whose kernel spans them, which is how it is computed; padding is zero,
the mean of normalised features.

Shapes: B recordings, T frames of features, F features, U frames out, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import ConfigError
from intermodal.nn.speech_encoders import SpeechEncoder, SpeechEncoderConfig
from intermodal.nn.time_conv import Chain, Each, FullConv, Stream, masked, valid


@dataclass(frozen=True, kw_only=True)
class SplicedEncoderConfig(SpeechEncoderConfig):
    """A multilayer perceptron over spliced frames.

    Attributes:
        context: frames to each side that a frame is seen with.
        depth: hidden layers, at least 1.
    """

    subsampling: int = 1
    context: int = 10
    depth: int = 4

    def build(self, inputs: int) -> SplicedEncoder:
        """Return the encoder for F = ``inputs`` features, freshly initialised."""
        return SplicedEncoder(self, inputs)


class SplicedEncoder(SpeechEncoder):
    """Spliced frames, then layers that see nothing else; always streamable, with a look-ahead of ``context`` frames.

    Raises:
        ConfigError: if there is no layer, the context is negative, or frames are not left out evenly.
    """

    def __init__(self, config: SplicedEncoderConfig, inputs: int) -> None:
        if config.depth < 1 or config.context < 0 or config.subsampling < 1:
            raise ConfigError(
                "A network over spliced frames needs a depth and a subsampling of at least 1 and a context of at least 0, "
                f"found {config.depth}, {config.subsampling} and {config.context}."
            )
        super().__init__(config.replace(subsampling=1), inputs, causal=False)
        self.config, self.stride = config, config.subsampling
        self.front = Splice(config, inputs)  # type: ignore[assignment]
        self.blocks = nn.ModuleList(PlainLayer(config) for _ in range(config.depth - 1))
        self.look_ahead = self.front.right


class Splice(nn.Module):
    """A linear layer over each frame and its neighbours; one in ``subsampling`` frames comes out."""

    def __init__(self, config: SplicedEncoderConfig, inputs: int) -> None:
        super().__init__()
        self.inputs, self.right = inputs, config.context
        kernel, right = 2 * config.context + 1, config.context
        if config.subsampling > kernel:
            raise ConfigError(f"A subsampling of {config.subsampling} leaves out frames between {kernel} spliced ones.")
        self.conv = FullConv(inputs, config.width, kernel, config.subsampling, right=right)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, feat_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """Map ``(B, T, F)`` to ``(B, U, D)``."""
        return self._each(self.conv(masked(feat_BTF, valid(frames_B, feat_BTF.shape[1]))))

    def _each(self, x_BUD: Tensor) -> Tensor:
        return self.dropout(F.relu(self.norm(x_BUD)))

    def stream(self) -> Stream:
        """Return a stream of the layer."""
        return Chain([self.conv.stream(), Each(self._each)])


class PlainLayer(nn.Module):
    """``relu(norm(W x))`` of each frame alone."""

    def __init__(self, config: SplicedEncoderConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BUD: Tensor, frames_B: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        del frames_B, valid_BU
        return self._each(x_BUD)

    def _each(self, x_BUD: Tensor) -> Tensor:
        return self.dropout(F.relu(self.norm(self.fc(x_BUD))))

    def stream(self) -> Stream:
        """Return a stream of the layer."""
        return Each(self._each)

"""The network of wav2vec 2.0 and HuBERT: convolutions over samples, then a transformer over frames.

Baevski et al. 2020, section 2; Hsu et al. 2021 (HuBERT). Both published layouts are here: post-norm blocks over a
feature encoder with one group norm (base), and pre-norm blocks over one with layer norms (large). What it is trained to
tell apart is in :mod:`intermodal.nn.wav2vec2_targets`.

Shapes: B batch, T samples, U frames, C channels of the feature encoder, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.frame_conv import convolve
from intermodal.nn.linear import linear, quicken
from intermodal.nn.time_conv import frames_up_to
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, Block, PostNormBlock, Transformer

CONV_NORM_EPS = 1e-5
"""Of the feature encoder's norms, which no published configuration states."""


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2EncoderConfig(Config):
    """What a :class:`Wav2Vec2Encoder` is built from; the defaults are those of wav2vec 2.0 base.

    Attributes:
        conv_channels: C of each convolution of the feature encoder.
        conv_kernels, conv_strides: as many, in samples of what each reads.
        conv_bias: whether the convolutions have biases.
        conv_norm: ``group`` normalises each channel of the first convolution over time; ``layer`` each frame of every one.
        padded_norm: a group norm counts a batch's padding too, as transformers does; otherwise each recording is normalised
            over its own frames alone, so that its result does not depend on the batch that it is in.
        width: D, a multiple of ``heads`` and of ``position_groups``.
        depth: blocks.
        heads: attention heads.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        pre_norm: blocks normalise what they read (published as ``do_stable_layer_norm``) instead of what they write.
        project_norm: the features are normalised before they are projected to the width.
        position_kernel, position_groups: of the convolution that says where a frame is.
        activation: a key of ``nn.transformer.ACTIVATIONS``, of the blocks; the convolutions have ``conv_activation``.
        conv_activation: of the convolutions.
        norm_eps: the layer norms' epsilon.
        dropout: of the projected features and of each branch of a block, while training.
        attention_dropout: of the attention weights, while training.
        mask_embedding: whether there is a vector that stands for a masked frame.
        trains_convolutions: whether the feature encoder is trained; fine-tuning leaves it as it is (Baevski et al. 2020,
            section 4.3).

    Raises:
        ConfigError: if a number is out of range or sizes do not fit each other.
    """

    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    padded_norm: bool = False
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int | None = None
    pre_norm: bool = False
    project_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    activation: Activation = "gelu"
    conv_activation: Activation = "gelu"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mask_embedding: bool = True
    trains_convolutions: bool = True

    def __post_init__(self) -> None:
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides) >= 1:
            raise ConfigError(
                "wav2vec 2.0: conv_channels, conv_kernels and conv_strides must be equally many, at least one, found "
                f"{len(self.conv_channels)}, {len(self.conv_kernels)} and {len(self.conv_strides)}."
            )
        if min(*self.conv_channels, *self.conv_kernels, *self.conv_strides, self.depth, self.position_kernel) < 1:
            raise ConfigError("wav2vec 2.0: channels, kernels, strides and depth must be at least 1.")
        if self.heads < 1 or self.width < 1 or self.width % self.heads or self.width % self.position_groups:
            raise ConfigError(
                f"wav2vec 2.0: width ({self.width}) must be a multiple of heads ({self.heads}) and of position_groups "
                f"({self.position_groups})."
            )
        for activation in (self.activation, self.conv_activation):
            if activation not in ACTIVATIONS:
                raise ConfigError(
                    f"wav2vec 2.0: an activation must be one of {list(ACTIVATIONS)}, found {activation!r}."
                )

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_strides)

    @property
    def window(self) -> int:
        """Samples that one frame hears."""
        total = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            total = (total - 1) * stride + kernel
        return total


class ConvLayer(nn.Module):
    """One convolution of the feature encoder, with its norm and activation; frames come last but one, channels last.

    Args:
        config: of the encoder.
        number: which one, from 0.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig, number: int) -> None:
        super().__init__()
        before = config.conv_channels[number - 1] if number else 1
        channels = config.conv_channels[number]
        self.conv = nn.Conv1d(
            before, channels, config.conv_kernels[number], config.conv_strides[number], bias=config.conv_bias
        )
        self.padded = config.padded_norm
        self.norm: nn.LayerNorm | nn.GroupNorm | None = None
        if config.conv_norm == "layer":
            self.norm = nn.LayerNorm(channels, eps=CONV_NORM_EPS)
        elif number == 0:
            self.norm = nn.GroupNorm(channels, channels, eps=CONV_NORM_EPS)
        self.activation = ACTIVATIONS[config.conv_activation]
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x_BTC: Tensor, frames_B: Tensor | None) -> Tensor:
        """Map (B, T, C) to fewer frames of more channels; ``frames_B`` says how many of them count, None for all."""
        if isinstance(self.norm, nn.GroupNorm):
            y_BUC = self._normalised(x_BTC, None if self.padded else frames_B, self.norm)
        else:
            y_BUC = self._convolved(x_BTC)
            if self.norm is not None:
                y_BUC = self.norm(y_BUC)
        return self.activation(y_BUC)

    def _convolved(self, x_BTC: Tensor) -> Tensor:
        """Return the convolution: of samples a matrix product, of channels one that keeps them last."""
        weight_CIK, bias_C, stride = self.conv.weight, self.conv.bias, self.conv.stride[0]
        if x_BTC.shape[-1] == 1:
            return linear(x_BTC[..., 0].unfold(1, weight_CIK.shape[2], stride), weight_CIK[:, 0], bias_C)
        return convolve(x_BTC, weight_CIK, bias_C, stride=stride)

    # --8<-- [start:norm]
    def _normalised(self, x_BT1: Tensor, frames_B: Tensor | None, norm: nn.GroupNorm) -> Tensor:
        """Return the group norm of the convolution of samples, each channel over a recording's own frames.

        The convolution is linear: the mean and variance of ``w . x`` over frames are ``w . mean`` and ``w^T covariance w``
        of the few samples that a frame hears. So the norm is a change of the weights, for each recording its own, and costs
        nothing by the frame. A bias of the convolution is taken off again with the mean.
        """
        weight_CK = self.conv.weight[:, 0]
        window_BUK = x_BT1[..., 0].unfold(1, weight_CK.shape[1], self.conv.stride[0])
        mean_BK, covariance_BKK = moments(window_BUK, frames_B)
        exact_CK = weight_CK.to(mean_BK.dtype)
        variance_BC = ((exact_CK @ covariance_BKK) * exact_CK).sum(-1)
        scale_BC = norm.weight.to(mean_BK.dtype) * torch.rsqrt(variance_BC + CONV_NORM_EPS)
        shift_BC = norm.bias.to(mean_BK.dtype) - scale_BC * (mean_BK @ exact_CK.T)
        weight_BCK = torch.cat(
            [scale_BC.unsqueeze(-1) * exact_CK, shift_BC.unsqueeze(-1)], -1
        )  # of K samples and a one
        heard_BUK = torch.cat([window_BUK, torch.ones_like(window_BUK[..., :1])], -1)
        return heard_BUK @ weight_BCK.transpose(1, 2).to(weight_CK.dtype)

    # --8<-- [end:norm]


def moments(window_BUK: Tensor, frames_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mean (B, K) and covariance (B, K, K) of windows over a recording's own frames, float64 (not on MPS).

    Neighbouring samples are much alike, so that what a kernel leaves of them may be a small difference of large numbers.

    Args:
        window_BUK: K samples of each frame.
        frames_B: how many frames count; None for all.
    """
    exact_BUK = window_BUK if window_BUK.device.type == "mps" else window_BUK.double()  # MPS has no float64
    if frames_B is None:
        mean_B1K = exact_BUK.mean(1, keepdim=True)
        centred_BUK, count = exact_BUK - mean_B1K, window_BUK.shape[1]
        return mean_B1K[:, 0], centred_BUK.transpose(1, 2) @ centred_BUK / count
    own_BU1, count_B11 = frames_up_to(frames_B, window_BUK.shape[1]).unsqueeze(-1), frames_B.view(-1, 1, 1)
    mean_B1K = (exact_BUK * own_BU1).sum(1, keepdim=True) / count_B11
    centred_BUK = (exact_BUK - mean_B1K) * own_BU1
    return mean_B1K[:, 0], centred_BUK.transpose(1, 2) @ centred_BUK / count_B11


class PositionConv(nn.Module):
    """A grouped convolution over frames, ``gelu(conv(x))``, that stands for position embeddings (section 2).

    Its kernel is ``gain * direction / |direction|``, the norm over all but the kernel's axis (Salimans & Kingma 2016).

    Args:
        config: of the encoder.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        super().__init__()
        kernel, groups, width = config.position_kernel, config.position_groups, config.width
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        nn.init.normal_(self.direction, std=2 * (kernel * width) ** -0.5)
        self.gain = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True).clone())
        self.bias = nn.Parameter(torch.zeros(width))
        self.activation = ACTIVATIONS[config.conv_activation]

    def forward(self, x_BUD: Tensor) -> Tensor:
        """Map (B, U, D) to (B, U, D)."""
        norm_11K = self.direction.square().sum((0, 1), keepdim=True).sqrt()
        weight = self.direction * (self.gain / norm_11K)
        y_BUD = convolve(x_BUD, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return self.activation(y_BUD[:, : x_BUD.shape[1]])


@dataclass(frozen=True)
class Heard:
    """What the encoder makes of waveforms.

    Attributes:
        hidden: ``(B, U, D)``, each frame with all that is around it.
        features: ``(B, U, C)``, what the convolutions heard, normalised: a frame without its surroundings.
        raw: the same before the norm.
        frames: int64 ``(B,)``, how many frames count; of a recording shorter than a frame's window, one.
    """

    hidden: Tensor
    features: Tensor
    raw: Tensor
    frames: Tensor


class Wav2Vec2Encoder(nn.Module):
    """Waveforms to frames; see the module's text.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(ConvLayer(config, n) for n in range(len(config.conv_channels)))
        last = config.conv_channels[-1]
        if config.project_norm:
            self.feature_norm = nn.LayerNorm(last, eps=config.norm_eps)
        self.project = nn.Linear(last, config.width)
        if config.mask_embedding:
            self.mask_embedding = nn.Parameter(torch.empty(config.width).uniform_())
        self.position = PositionConv(config)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        block = Block if config.pre_norm else PostNormBlock
        self.transformer = Transformer(
            block(
                config.width,
                Attention(config.width, config.heads, dropout=config.attention_dropout),
                MLP(config.width, config.hidden, config.activation),
                norm_eps=config.norm_eps,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        for part in self.transformer.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        quicken(self)
        if not config.trains_convolutions:
            self.convolutions.requires_grad_(False)

    @property
    def size(self) -> int:
        """D: the size of each frame's vector."""
        return self.config.width

    def frames(self, length_B: Tensor) -> Tensor:
        """Return how many frames recordings of these lengths have, int64 ``(B,)``; at least one."""
        length_B = length_B.clamp(min=self.config.window)
        for kernel, stride in zip(self.config.conv_kernels, self.config.conv_strides, strict=True):
            length_B = (length_B - kernel) // stride + 1
        return length_B

    def forward(
        self, wave_BT: Tensor, length_B: Tensor | None = None, mask_BU: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return each frame's vector ``(B, U, D)`` and how many frames count, int64 ``(B,)``; see :meth:`hear`."""
        heard = self.hear(wave_BT, length_B, mask_BU)
        return heard.hidden, heard.frames

    def hear(
        self,
        wave_BT: Tensor,
        length_B: Tensor | None = None,
        mask_BU: Tensor | None = None,
        *,
        feature_gradient: float = 1.0,
    ) -> Heard:
        """Turn waveforms into frames.

        Args:
            wave_BT: float samples (B, T), T at least 1; what is behind a recording's end does not matter.
            length_B: int64 samples of each recording (B,); None for T.
            mask_BU: bool, True for frames that the transformer must not hear: the mask's vector takes their place. U are the
                frames of the longest recording.
            feature_gradient: what the gradient that reaches the convolutions is multiplied by.

        Raises:
            DataError: if the shapes do not fit, or there is a mask but no vector for it.
        """
        if wave_BT.dim() != 2 or not wave_BT.shape[1]:
            raise DataError(f"wav2vec 2.0 takes waveforms of shape (B, T), T at least 1, found {tuple(wave_BT.shape)}.")
        if length_B is None:
            length_B = torch.full((len(wave_BT),), wave_BT.shape[1], device=wave_BT.device)
        wave_BT = wave_BT[:, : int(length_B.max())]
        whole = bool((length_B == wave_BT.shape[1]).all())
        if not whole:
            wave_BT = wave_BT * frames_up_to(length_B, wave_BT.shape[1])
        length_B = length_B.clamp(min=self.config.window)
        if wave_BT.shape[1] < self.config.window:
            wave_BT = F.pad(wave_BT, (0, self.config.window - wave_BT.shape[1]))
        raw_BUC = self._convolve(wave_BT, None if whole else length_B)
        if feature_gradient != 1 and raw_BUC.requires_grad:
            raw_BUC = raw_BUC.detach() + (raw_BUC - raw_BUC.detach()) * feature_gradient
        features_BUC = self.feature_norm(raw_BUC) if self.config.project_norm else raw_BUC
        x_BUD, frames_B = self.dropout(self.project(features_BUC)), self.frames(length_B)
        if mask_BU is not None:
            if not self.config.mask_embedding:
                raise DataError("This encoder was built without a vector for masked frames.")
            x_BUD = torch.where(mask_BU.unsqueeze(-1), self.mask_embedding.to(x_BUD.dtype), x_BUD)
        own_BU = None if whole else frames_up_to(frames_B, x_BUD.shape[1])
        return Heard(self._transform(x_BUD, own_BU), features_BUC, raw_BUC, frames_B)

    def _convolve(self, wave_BT: Tensor, length_B: Tensor | None) -> Tensor:
        """Return what the convolutions make of samples, (B, U, C)."""
        x_BTC, frames_B = wave_BT.unsqueeze(-1), length_B
        for number, layer in enumerate(self.convolutions):
            if frames_B is not None:
                kernel, stride = self.config.conv_kernels[number], self.config.conv_strides[number]
                frames_B = (frames_B - kernel) // stride + 1
            x_BTC = layer(x_BTC, frames_B)
        return x_BTC

    def _transform(self, x_BUD: Tensor, own_BU: Tensor | None) -> Tensor:
        """Return frames that know of one another; those that are none of a recording's own are silent to the others."""
        if own_BU is not None:
            x_BUD = x_BUD * own_BU.unsqueeze(-1)
        x_BUD = x_BUD + self.position(x_BUD)
        if self.config.pre_norm:
            return self.norm(self.transformer(self.dropout(x_BUD), mask=own_BU))
        return self.transformer(self.dropout(self.norm(x_BUD)), mask=own_BU)

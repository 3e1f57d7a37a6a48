"""A small convolutional network whose maps are features of pictures: what perceptual and Fréchet distances look through.

It has the plan of VGG (Simonyan & Zisserman 2015): stages of 3 x 3 convolutions and ReLUs with a pooling between them, so
that each stage sees a picture at half the resolution of the one before. The same composition holds VGG16's and AlexNet's
convolutions, which the published LPIPS networks are made of (:mod:`intermodal.hub.lpips`).

The library ships one with weights of its own, *features-v1*: :func:`features_v1`. It was trained on the emoji set's training
split alone, by ``python tools/train_features.py``; the handbook's page "The feature network" says how and with what result.

Shapes: B pictures, C channels, H, W height and width in pixels, h, w those of a stage's map, D channels of the last stage.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.checkpoint import check_tensors, read_tensors
from intermodal.core.config import Config
from intermodal.core.errors import CheckpointError, ConfigError, DataError

NAME = "features-v1"
SHA256 = "4b6668bef93e3e76547376b055329bf19df8256f7839eac5b866c5797fe8b461"
"""Of the shipped weights (:func:`weights_sha256`): figures on another network may not go by the same name."""
Pool = Literal["none", "mean2", "max2", "max3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig(Config):
    """One stage of a :class:`FeatureNetwork`.

    Attributes:
        channels: of its map.
        convs: how many convolutions, each with a ReLU after it.
        kernel, stride, padding: of the first convolution; the others are 3 x 3 and keep the size.
        pool: what comes before: ``mean2`` and ``max2`` take 2 x 2 places at a stride of 2 (an odd row or column at the end
            is dropped), ``max3`` takes 3 x 3 at a stride of 2.

    Raises:
        ConfigError: if a number is below what it counts.
    """

    channels: int
    convs: int = 1
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: Pool = "none"

    def __post_init__(self) -> None:
        if min(self.channels, self.convs, self.kernel, self.stride) < 1 or self.padding < 0:
            raise ConfigError(f"A stage needs at least one channel, convolution, tap and step, found {self}.")


STAGES = (
    StageConfig(channels=16, convs=2),
    StageConfig(channels=32, convs=2, pool="mean2"),
    StageConfig(channels=64, convs=2, pool="mean2"),
    StageConfig(channels=128, convs=2, pool="mean2"),
    StageConfig(channels=128, pool="mean2"),
)
"""The stages of features-v1: nine convolutions, 441,104 numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig(Config):
    """What a :class:`FeatureNetwork` is built from; the defaults are those of features-v1.

    Attributes:
        stages: from the finest to the coarsest.
        mean, std: of each colour in 0..1, taken off and divided by before the first convolution.

    Raises:
        ConfigError: if there is no stage.
    """

    stages: tuple[StageConfig, ...] = STAGES
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("A feature network has at least one stage.")

    @property
    def features(self) -> int:
        """D: channels of the last stage, which is the width of the pooled features."""
        return self.stages[-1].channels

    def map_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return height and width of each stage's map of a picture; 0 where nothing is left."""
        sizes, size = [], (height, width)
        for stage in self.stages:
            if stage.pool != "none":
                taps = 3 if stage.pool == "max3" else 2
                size = _after(size, taps, 2, 0)
            size = _after(size, stage.kernel, stage.stride, stage.padding)
            sizes.append(size)
        return sizes

    @property
    def smallest(self) -> int:
        """The smallest side in pixels of which every stage has a map."""
        side = 1
        while not self.map_sizes(side, side)[-1][0]:
            side += 1
        return side


class FeatureNetwork(nn.Module):
    """Convolutions in stages, whose maps are the features.

    Args:
        config: the stages; by default those of features-v1, with random weights.
    """

    def __init__(self, config: FeatureConfig | None = None) -> None:
        super().__init__()
        self.config = config = FeatureConfig() if config is None else config
        before = 3
        self.stages = nn.ModuleList()
        for stage in config.stages:
            layers: list[nn.Module] = []
            for i in range(stage.convs):
                kernel, stride, padding = (stage.kernel, stage.stride, stage.padding) if i == 0 else (3, 1, 1)
                layers.append(nn.Conv2d(before, stage.channels, kernel, stride, padding))
                before = stage.channels
            self.stages.append(nn.ModuleList(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Return each stage's map, ``(B, channels, h, w)``, after its last ReLU.

        Args:
            image_BCHW: float in 0..1, shape ``(B, 3, H, W)``, of any size down to ``config.smallest``.

        Raises:
            DataError: if the pictures have another number of channels, or are too small for the last stage.
        """
        if image_BCHW.ndim != 4 or image_BCHW.shape[1] != 3 or not image_BCHW.is_floating_point():
            raise DataError(
                "The feature network takes pictures in 0..1 of shape (B, 3, H, W), found "
                f"{image_BCHW.dtype} of shape {tuple(image_BCHW.shape)}: let grey pictures have three equal channels."
            )
        if min(image_BCHW.shape[2:]) < self.config.smallest:
            raise DataError(
                f"The feature network's last stage sees nothing of a picture of {image_BCHW.shape[2]} x "
                f"{image_BCHW.shape[3]} pixels: it takes at least {self.config.smallest} x {self.config.smallest}."
            )
        mean, std = (image_BCHW.new_tensor(c).view(3, 1, 1) for c in (self.config.mean, self.config.std))
        x_BChw = (image_BCHW - mean) / std
        maps = []
        for stage, layers in zip(self.config.stages, self.stages, strict=True):
            x_BChw = pool(x_BChw, stage.pool)
            for layer in layers:  # type: ignore[attr-defined]
                x_BChw = F.relu(layer(x_BChw), inplace=True)
            maps.append(x_BChw)
        return maps

    def pooled(self, image_BCHW: Tensor) -> Tensor:
        """Return the last stage's mean over all places, ``(B, D)``: what Fréchet distances are taken between.

        Raises:
            DataError: as :meth:`forward`.
        """
        return self(image_BCHW)[-1].float().mean(dim=(2, 3))


def pool(x_BCHW: Tensor, kind: Pool) -> Tensor:
    """Return a map at half the resolution, or as it is."""
    if kind == "none":
        return x_BCHW
    if kind == "mean2":
        return F.avg_pool2d(x_BCHW, 2)
    return F.max_pool2d(x_BCHW, 2 if kind == "max2" else 3, 2)


@functools.cache
def features_v1(device: str | torch.device = "cpu") -> FeatureNetwork:
    """Return the library's own feature network, read once for each device: frozen, float32, in evaluation mode.

    It is shared by all who ask: use it, and do not change it. It is meant to be called where it is needed and not to be kept
    as a part of a module, so that its weights are not in that module's checkpoints.

    Raises:
        CheckpointError: if the shipped file is missing or holds other weights.
    """
    file = resources.files("intermodal.nn") / "assets" / f"{NAME}.safetensors"
    with resources.as_file(file) as path, torch.inference_mode(False):  # gradients flow through it later
        if not path.exists():
            raise CheckpointError(f"The feature network {path} is missing: reinstall intermodal.")
        network = FeatureNetwork()
        tensors = read_tensors(path)
        if (found := weights_sha256(tensors)) != SHA256:
            raise CheckpointError(
                f"The feature network {path} is not {NAME}: the SHA-256 of its weights is {found}, expected {SHA256}. "
                "Reinstall intermodal."
            )
        check_tensors(tensors, {k: tuple(v.shape) for k, v in network.state_dict().items()}, path)
        network.load_state_dict({k: v.float() for k, v in tensors.items()})
        network.requires_grad_(False).eval()
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def features_v1_metadata() -> dict[str, str]:
    """Return what the shipped file says about itself: how it was trained, on what, with which versions, in what time."""
    from safetensors import safe_open

    file = resources.files("intermodal.nn") / "assets" / f"{NAME}.safetensors"
    with resources.as_file(file) as path, safe_open(str(path), "pt") as opened:
        return dict(opened.metadata() or {})


def _after(size: tuple[int, int], taps: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the size that taps at a stride leave."""
    height, width = (max(0, (s + 2 * padding - taps) // stride + 1) if s else 0 for s in size)
    return height, width

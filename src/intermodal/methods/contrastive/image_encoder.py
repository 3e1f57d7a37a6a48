"""What the methods that learn an image encoder share: the tower, the views of a batch, embedding, warnings.

Such a method looks at several versions of each picture (views), or at pictures with labels; its loss differs, its tower
and what becomes of it do not. A batch's ``image`` is ``(B, C, H, W)``, or ``(B, V, C, H, W)`` where the loader makes V
views of each (``ImageAugment.views``) or a sample holds V pictures (:mod:`intermodal.data.groups`).

Shapes: B pictures, V views of each, N = B V views in the order (picture, view), C, H, W channels, height and width,
F features of the tower, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.processors import Processor
from intermodal.losses.distances import precise, unit
from intermodal.losses.distributed import rank_and_world
from intermodal.methods.base import Batch, Method
from intermodal.metrics.alignment import effective_rank
from intermodal.nn.resnet import ModifiedResNet, ResNetConfig
from intermodal.nn.vit import VisionTransformer, ViTConfig

IMAGE = Field((), "image", "a picture")
LABEL = Field((), "str", "its class")
COLLAPSED = 0.95
"""Mean cosine of different pictures above which a space counts as collapsed."""
LEAST_RANK = 0.02
"""Share of the dimensions in use below which a space counts as collapsed into a few of them."""


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(Config):
    """Base of the configurations of methods that learn an image encoder.

    Attributes:
        image: the tower.
        views: V, how many views of each picture (or pictures of a group) a batch holds.

    Raises:
        ConfigError: if ``views`` is below 1.
    """

    image: ViTConfig | ResNetConfig
    views: int = 2

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ConfigError(f"model.views must be at least 1, found {self.views}.")


class ImageEncoder(Method):
    """Base of the methods that learn an image encoder; a subclass adds its head and its loss.

    Args:
        config: names the tower.
        processors: ``image``, and ``label`` where the loss needs classes.
    """

    needs: Mapping[str, Field] = {"image": IMAGE}
    contrasts_batch = True
    modalities: tuple[str, ...] = ("image",)

    config: ImageEncoderConfig

    def __init__(self, config: ImageEncoderConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.image: VisionTransformer | ModifiedResNet
        self.norm: nn.Module
        if isinstance(config.image, ViTConfig):
            self.image, self.norm = VisionTransformer(config.image), nn.Identity()
        else:
            self.image = ModifiedResNet(config.image)
            # It ends in a ReLU: without a mean taken off, all features lie in one corner of the space.
            self.norm = nn.BatchNorm1d(config.image.pooled_dim, affine=False)
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def features(self, image_NCHW: Tensor) -> Tensor:
        """Return the tower's pooled output ``(N, F)`` of prepared pictures; a ResNet's is normalised over the batch."""
        pooled_NF, _ = self.image(image_NCHW.contiguous(memory_format=torch.channels_last))
        return self.norm(precise(pooled_NF))

    def encode_image(self, image_NCHW: Tensor) -> Tensor:
        """Return unit vectors of prepared pictures: what :meth:`embed` gives, here the tower's features."""
        return unit(self.features(image_NCHW))

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return self.config.image.pooled_dim

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)`` of PIL images (``"image"``)."""
        if modality not in self.modalities:
            raise DataError(f"{type(self).__name__} embeds pictures (image), not {modality!r}.")
        if not inputs:
            return np.zeros((0, self.embed_dim), np.float32)
        with self.evaluating():
            vectors = self.encode_image(self.processors["image"](list(inputs)).to(self.device))
        return vectors.float().cpu().numpy()

    def views(self, batch: Batch) -> Tensor:
        """Return a batch's pictures as ``(B, V, C, H, W)``.

        Raises:
            DataError: if there are other than ``config.views`` views of each picture.
        """
        image = batch["image"]
        image_BVCHW = image if image.ndim == 5 else image[:, None]
        found, expected = image_BVCHW.shape[1], self.config.views
        if found != expected:
            raise DataError(
                f"The method {self.id} is configured for {expected} views of each picture (model.views), but the batch "
                f"holds {found}: let augment.views be the same number."
            )
        return image_BVCHW

    def note(self, vectors_BVD: Tensor, **parts: Tensor) -> dict[str, Tensor]:
        """Return a step's figures and keep them for :meth:`health`.

        Beside ``parts`` these are ``alike``, the mean cosine of different pictures (0 spread out, 1 collapsed), and
        with several views ``views_alike``, that of views of one picture.

        Args:
            vectors_BVD: the vectors that the loss compares.
            **parts: figures of the loss.
        """
        with torch.no_grad():
            unit_BVD = unit(vectors_BVD)
            figures = {name: part.detach() for name, part in parts.items()} | cosines(unit_BVD)
            self._seen = {**figures, "vectors": unit_BVD[:, 0].detach()}
        return figures

    def health(self) -> list[str]:
        """Warn of a space that has collapsed to a point, or to a few of its dimensions."""
        if not self._seen:
            return []
        alike, vectors = float(self._seen["alike"]), self._seen["vectors"]
        if alike > COLLAPSED:
            return [
                f"All pictures' vectors point the same way (mean cosine {alike:.2f}): the space has collapsed. Lower the "
                "learning rate, or raise the weight of what keeps them apart."
            ]
        rank, most = effective_rank(vectors), min(vectors.shape)
        if most > 2 and rank < max(2.0, LEAST_RANK * most):
            return [
                f"The vectors use {rank:.1f} of {most} dimensions: the space has collapsed into a few of them. Raise the "
                "batch size, or make the views differ more."
            ]
        return []

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step's towers: forward and twice as many backward, for each view."""
        return 3.0 * self.config.views * batch_size * self.config.image.flops()


@dataclass(frozen=True, kw_only=True)
class MetricConfig(ImageEncoderConfig):
    """Base of the configurations of methods that learn a distance.

    Attributes:
        embed_dim: D, of the unit vectors that the loss compares, a linear map of the features.
        embeds: what is of use afterwards: ``embedding``, whose distances the loss shaped, for asking whether two pictures
            belong together in its sense; or ``features``, the tower's output before it, which keeps more for other
            questions (Chen et al. 2020, section 4.2, for SimCLR).
    """

    embed_dim: int = 256
    embeds: Literal["embedding", "features"] = "embedding"


class MetricEncoder(ImageEncoder):
    """Base of the methods that learn a distance: a tower, and a linear map into the space where it is measured."""

    config: MetricConfig

    def __init__(self, config: MetricConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.embedding = nn.Linear(config.image.pooled_dim, config.embed_dim, bias=False)

    def compared(self, image_NCHW: Tensor) -> Tensor:
        """Return the unit vectors ``(N, D)`` that the loss compares, of prepared pictures."""
        return unit(self.embedding(self.features(image_NCHW)))

    def encode_image(self, image_NCHW: Tensor) -> Tensor:
        """Return unit vectors of prepared pictures: the embedding, or the features, as ``config.embeds`` says."""
        if self.config.embeds == "features":
            return super().encode_image(image_NCHW)
        return self.compared(image_NCHW)

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return super().embed_dim if self.config.embeds == "features" else self.config.embed_dim


def own_labels(count: int, device: torch.device) -> Tensor:
    """Return a class of its own for each of this rank's pictures, int64 ``(count,)``, different on every rank."""
    return torch.arange(count, device=device) + rank_and_world()[0] * count


def cosines(unit_BVD: Tensor) -> dict[str, Tensor]:
    """Return ``alike``, the mean cosine of different pictures, and ``views_alike``, that of views of one picture.

    Args:
        unit_BVD: unit vectors; with V = 1 there is no ``views_alike``.
    """
    batch, views = unit_BVD.shape[:2]
    within = (unit_BVD.sum(1).square().sum() - unit_BVD.square().sum()) / max(batch * views * (views - 1), 1)
    sums_BD = unit_BVD.mean(1)
    alike = (sums_BD.sum(0).square().sum() - sums_BD.square().sum()) / max(batch * (batch - 1), 1)
    return {"alike": alike, "views_alike": within} if views > 1 else {"alike": alike}

"""Swin: a vision transformer that looks through windows that move, over maps that shrink (Liu et al. 2021, 2022).

Attention inside windows of a fixed size costs as much for each place of a picture, however large that is; windows that are
shifted by half in every second block let neighbours meet; and joining four places into one after each stage gives the
pyramid of maps that detection and segmentation work on. The mean of the last map's places tells the class. Version 2
compares by cosines, has its norms after attention and MLP, and reads the position bias off a small network of log-spaced
offsets, so that a window of another size still knows what is where.

Shapes: B pictures, C, H, W channels, height and width, D width of the last stage, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.methods.vision_language.classifier import ClassifierConfig, PictureClassifier, classifier
from intermodal.nn.linear import quicken
from intermodal.nn.swin import SwinConfig, SwinTransformer

CARD = MethodCard(
    id="swin",
    title="Swin and Swin v2: attention inside shifted windows, over a pyramid of maps",
    paper="Liu et al. 2021; Liu et al. 2022",
    cls="Swin",
    capabilities=("embed", "classify"),
    recipes=("swin", "swin-v2", "swin-digits"),
    reference="transformers SwinForImageClassification, Swinv2ForImageClassification",
)


@dataclass(frozen=True, kw_only=True)
class SwinClassifierConfig(ClassifierConfig):
    """What a classifying Swin is made of.

    Attributes:
        image: the tower.
    """

    image: SwinConfig


class Swin(PictureClassifier):
    """A Swin transformer with a head; see the module's text.

    Args:
        config: the architecture and the loss.
        processors: ``label``, which knows the classes, and ``image`` for work on pictures.
    """

    id = "swin"
    config: SwinClassifierConfig

    def __init__(self, config: SwinClassifierConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.image = SwinTransformer(config.image)
        quicken(self.image)
        self.head = classifier(config.image.pooled_dim, len(self.classes))

    def heads(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the logits ``(B, K)`` of the one head."""
        return (self.head(self.features(image_BCHW)),)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return the pooled output ``(B, D)`` of prepared pictures of any size."""
        return self.image(image_BCHW)[0]

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return self.config.image.pooled_dim

    # --8<-- [start:looks]
    @torch.no_grad()
    def looks(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return how much each place of the last map speaks for the class found, float32 ``(len(images), rows, columns)``.

        The answer is the head's linear map of places, so that each place has its exact share of it (Zhou et al. 2016,
        equation 2): their mean is the logit found.
        """

        def share(image_BCHW: Tensor) -> Tensor:
            place_BhwD = self.image.norm(self.image.maps(image_BCHW)[-1])
            if self.config.image.pool == "mean":
                logit_BhwK = self.head(place_BhwD)
            else:
                count = place_BhwD.shape[1] * place_BhwD.shape[2]
                weight_KhwD = self.head.weight.unflatten(1, place_BhwD.shape[1:])
                logit_BhwK = count * torch.einsum("bhwd,khwd->bhwk", place_BhwD, weight_KhwD) + self.head.bias
            best_B = logit_BhwK.mean((1, 2)).argmax(1)
            return logit_BhwK[torch.arange(len(best_B)), :, :, best_B]

        found = self._each(share, images)
        return torch.cat(found).numpy() if found else np.zeros((0, 1, 1), np.float32)

    # --8<-- [end:looks]

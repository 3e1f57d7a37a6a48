"""The vision transformer: a picture is a sentence of patches (Dosovitskiy et al. 2021), and DeiT's way to train it.

A picture is cut into patches, each patch becomes a token, and a transformer reads them with a class token in front; a linear
map of what that token has become tells the class. Nothing in it knows that patches have neighbours but the position
embeddings, which are learnt and can be interpolated to other sizes and shapes of pictures.

With ``image.distillation`` a second token stands beside the class token and learns what a teacher says (Touvron et al.
2021); the answer is the mean of both heads. Without class tokens the head reads the patches, and ``second_head`` is a second
one for the teacher.

Shapes: B pictures, C, H, W channels, height and width, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.methods.vision_language.classifier import ClassifierConfig, PictureClassifier, classifier
from intermodal.nn.linear import quicken
from intermodal.nn.vit import VisionTransformer, ViTConfig, attention_rollout

CARD = MethodCard(
    id="vit",
    title="Vision transformer, and DeiT: a picture as a sentence of patches",
    paper="Dosovitskiy et al. 2021; Touvron et al. 2021",
    cls="ViT",
    capabilities=("embed", "classify"),
    recipes=("vit", "deit", "vit-digits"),
    reference="transformers ViTForImageClassification, DeiTForImageClassificationWithTeacher",
)


@dataclass(frozen=True, kw_only=True)
class ViTClassifierConfig(ClassifierConfig):
    """What a classifying vision transformer is made of.

    Attributes:
        image: the tower.
        two_heads: a distillation token has a head of its own; without it the token only takes part.
        second_head: without class tokens: a second head reads the pooled patches too, and learns from a teacher.

    Raises:
        ConfigError: if there are class tokens and a second head that reads patches.
    """

    image: ViTConfig
    two_heads: bool = True
    second_head: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second_head and self.image.extra:
            raise ConfigError(
                "model.second_head reads pooled patches: with class tokens set image.distillation instead."
            )

    @property
    def distils(self) -> bool:
        """Whether there is a second head, which learns from a teacher."""
        return self.second_head or (self.image.distillation and self.two_heads)


class ViT(PictureClassifier):
    """A vision transformer with one head, or DeiT's two; see the module's text.

    Args:
        config: the architecture and the loss.
        processors: ``label``, which knows the classes, and ``image`` for work on pictures.
    """

    id = "vit"
    config: ViTClassifierConfig

    def __init__(self, config: ViTClassifierConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.image = VisionTransformer(config.image)
        quicken(self.image)
        self.head = classifier(config.image.output_dim, len(self.classes))
        if config.distils:
            self.distillation_head = classifier(config.image.output_dim, len(self.classes))

    # --8<-- [start:heads]
    def heads(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the logits ``(B, K)`` of the first head and, if there is one, of that which learns from a teacher."""
        if not self.config.image.extra:  # no class token: the tower pools its patches
            feature_BF = self.features(image_BCHW)
            first_BK = self.head(feature_BF)
            return (first_BK, self.distillation_head(feature_BF)) if self.config.distils else (first_BK,)
        token_BLD = self.image.class_tokens(image_BCHW, interpolate=True)
        if not self.config.distils:
            return (self.head(token_BLD[:, 0]),)
        return self.head(token_BLD[:, 0]), self.distillation_head(token_BLD[:, 1])

    # --8<-- [end:heads]

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return the pooled output ``(B, D)`` of prepared pictures of any size."""
        if self.config.image.extra:
            return self.image.class_tokens(image_BCHW, interpolate=True)[:, 0]
        return self.image(image_BCHW, interpolate=True)[0]

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return self.config.image.output_dim

    @torch.no_grad()
    def looks(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return how much of each patch reaches the answer through all blocks, float32 ``(len(images), rows, columns)``.

        Attention rollout (:func:`~intermodal.nn.vit.attention_rollout`) to the class token, or to all tokens where there is
        none; what stays in tokens that are no patch is left out, so that a map sums to less than one.
        """
        rows, columns = self.config.image.grid
        extra = self.config.image.extra

        def roll(image_BCHW: Tensor) -> Tensor:
            rolled_BLL = attention_rollout(self.image.attention_maps(image_BCHW))
            seen_BL = rolled_BLL[:, 0] if extra else rolled_BLL.mean(1)
            return seen_BL[:, extra:].unflatten(1, (rows, columns))

        found = self._each(roll, images)
        return torch.cat(found).numpy() if found else np.zeros((0, rows, columns), np.float32)

"""Supervised contrastive learning: all pictures of one class find each other (Khosla et al. 2020).

SimCLR with labels: every other view of the same class is a positive, not the picture's own other view alone. The
positives' terms are averaged outside of the logarithm (``out``, equation 2, which the paper finds better) or inside
(``in``, equation 3). ``cross-entropy`` is the plain supervised training that the paper compares with: a linear
classifier on the tower, the same views, no projector.

What serves afterwards is the tower's output, as in SimCLR.

Shapes: B pictures, V views of each, N = B V, C, H, W channels, height and width, F features, D projection, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.losses.distances import precise
from intermodal.losses.supcon import supcon
from intermodal.methods.base import Batch, Losses
from intermodal.methods.contrastive.image_encoder import IMAGE, LABEL, ImageEncoder, ImageEncoderConfig
from intermodal.nn.projector import Projector, ProjectorConfig

CARD = MethodCard(
    id="supcon",
    title="Supervised contrastive learning, beside plain supervision",
    paper="Khosla et al. 2020",
    cls="SupCon",
    capabilities=("embed",),
    recipes=("supcon", "supervised"),
    reference="pytorch-metric-learning SupConLoss; exact",
)


HEAD = ProjectorConfig(hidden_dim=512, output_dim=128)


@dataclass(frozen=True, kw_only=True)
class SupConConfig(ImageEncoderConfig):
    """What supervised contrastive learning is made of.

    Attributes:
        projector: the head whose output is compared; ``cross-entropy`` has none.
        objective: ``out`` or ``in``, where the positives are averaged, or ``cross-entropy``.
        temperature: of the contrastive loss (the paper: 0.1).
        label_smoothing: of the cross entropy.

    Raises:
        ConfigError: if the temperature is not above 0.
    """

    projector: ProjectorConfig = HEAD
    objective: Literal["out", "in", "cross-entropy"] = "out"
    temperature: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ConfigError(f"The temperature must be above 0, found {self.temperature}.")


class SupCon(ImageEncoder):
    """A tower with a projector, or with a classifier; see the module's text.

    Args:
        config: the architecture and the objective.
        processors: ``image`` and ``label``, which knows the classes.
    """

    id = "supcon"
    needs: Mapping[str, Field] = {"image": IMAGE, "label": LABEL}

    config: SupConConfig

    def __init__(self, config: SupConConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.head: nn.Module
        if config.objective == "cross-entropy":
            names = processors["label"]
            assert isinstance(names, LabelProcessor)
            self.head = nn.Linear(config.image.pooled_dim, len(names.names))
        else:
            self.head = Projector(config.image.pooled_dim, config.projector)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of prepared ``image`` ``(B, V, C, H, W)`` and ``label`` ``(B,)``."""
        image_BVCHW = self.views(batch)
        label_N = batch["label"].repeat_interleave(self.config.views)
        features_NF = self.features(image_BVCHW.flatten(0, 1))
        output_N = precise(self.head(features_NF))
        if self.config.objective == "cross-entropy":
            total = F.cross_entropy(output_N, label_N, label_smoothing=self.config.label_smoothing)
            accuracy = (output_N.detach().argmax(1) == label_N).float().mean()
            return Losses(total, self.note(self._by_picture(features_NF), accuracy=accuracy))
        total = supcon(output_N, label_N, self.config.temperature, variant=self.config.objective)
        return Losses(total, self.note(self._by_picture(output_N)))

    def _by_picture(self, vectors_ND: Tensor) -> Tensor:
        return vectors_ND.unflatten(0, (-1, self.config.views))

    # --8<-- [end:loss]

    def class_logits(self, image_BCHW: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of prepared pictures, of plain supervision alone: what a student may learn from.

        Raises:
            ConfigError: if the model learnt by contrast and has no classifier.
        """
        if self.config.objective != "cross-entropy":
            raise ConfigError(f"This model learnt by contrast ({self.config.objective!r}) and tells no classes.")
        return self.head(self.features(image_BCHW))

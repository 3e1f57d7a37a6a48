"""The triplet loss: an anchor nearer to its positive than to its negative, by a margin (Schroff et al. 2015).

Pictures of one class (or views of one picture) are positives, all others negatives. Most triplets of a batch are easy
and teach nothing, so they are mined: ``all`` that violate the margin, the ``hard`` one of each anchor (Hermans et al.
2017, equation 5), or the ``semihard`` ones, whose negative is farther than the positive but within the margin (Schroff
2015, equation 4). For that a batch must hold several pictures of each class: ``intermodal.data.groups`` makes such
batches.

What serves afterwards is the embedding that is compared, a unit vector (or the tower's features, ``embeds``).

Shapes: B samples, V views or pictures of each, N = B V, C, H, W channels, height and width, F features, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from intermodal.core.errors import ConfigError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.distances import Distance
from intermodal.losses.triplet import Mining, batch_triplet_loss
from intermodal.methods.base import Batch, Losses
from intermodal.methods.contrastive.image_encoder import (
    IMAGE,
    LABEL,
    MetricConfig,
    MetricEncoder,
    own_labels,
)

CARD = MethodCard(
    id="triplet",
    title="Triplet loss with all, hard and semi-hard mining",
    paper="Schroff et al. 2015; Hermans et al. 2017",
    cls="TripletNetwork",
    capabilities=("embed",),
    recipes=("triplet",),
    reference="pytorch-metric-learning TripletMarginLoss and its miners; exact",
)


@dataclass(frozen=True, kw_only=True)
class TripletConfig(MetricConfig):
    """What a triplet network is made of.

    Attributes:
        positives: ``labels``: pictures of one class; ``views``: the views of one picture, without labels.
        mining: which triplets of a batch count: ``all``, ``hard`` or ``semihard``.
        distance: ``squared_euclidean`` is the paper's; ``euclidean`` is Hermans 2017's; ``cosine``.
        margin: in units of ``distance`` (of unit vectors: 0 to 4, 0 to 2, 0 to 2); the paper has 0.2.
        soft: ``log(1 + exp(x))`` instead of the hinge, which keeps pulling beyond the margin (Hermans 2017).

    Raises:
        ConfigError: if the margin is negative, or ``positives="views"`` meets a single view.
    """

    positives: Literal["labels", "views"] = "labels"
    mining: Mining = "semihard"
    distance: Distance = "squared_euclidean"
    margin: float = 0.2
    soft: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ConfigError(f"A triplet's margin must not be negative, found {self.margin}.")
        if self.positives == "views" and self.views < 2:
            raise ConfigError("Where views are the positives there must be at least two: set model.views=2.")


class TripletNetwork(MetricEncoder):
    """A tower that ends in unit vectors; see the module's text.

    Args:
        config: the architecture and the loss.
        processors: ``image``, and ``label`` where labels say what is positive.
    """

    id = "triplet"

    config: TripletConfig

    def __init__(self, config: TripletConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.needs = {"image": IMAGE, "label": LABEL} if config.positives == "labels" else {"image": IMAGE}

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the triplet loss of prepared ``image`` ``(B, V, C, H, W)`` and, where they count, ``label`` ``(B,)``."""
        image_BVCHW = self.views(batch)
        config, (count, views) = self.config, image_BVCHW.shape[:2]
        label_B = batch["label"] if config.positives == "labels" else own_labels(count, image_BVCHW.device)
        z_ND = self.compared(image_BVCHW.flatten(0, 1))
        total = batch_triplet_loss(
            z_ND,
            label_B.repeat_interleave(views),
            mining=config.mining,
            distance=config.distance,
            margin=config.margin,
            soft=config.soft,
        )
        return Losses(total, self.note(z_ND.unflatten(0, (count, views))))

    # --8<-- [end:loss]

"""The Siamese network: what belongs together lies together, what does not lies a margin apart (Hadsell et al. 2006).

One tower embeds both pictures of a pair. Which pairs there are is a choice: all pairs of a labelled batch, two views of
one picture against views of the others, or a list that a person made (``intermodal.data.image_pairs``).

What serves afterwards is the embedding that is compared, a unit vector (or the tower's features, ``embeds``). The
paper's embedding is not normalised; here the margin is a share of the sphere's diameter (2, for the Euclidean distance).

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
from intermodal.losses.pair import batch_pair_loss, pair_loss
from intermodal.methods.base import Batch, Losses
from intermodal.methods.contrastive.image_encoder import (
    IMAGE,
    LABEL,
    MetricConfig,
    MetricEncoder,
    own_labels,
)

CARD = MethodCard(
    id="siamese",
    title="Siamese network with the pair loss",
    paper="Hadsell et al. 2006",
    cls="SiameseNetwork",
    capabilities=("embed",),
    recipes=("siamese",),
    reference="pytorch-metric-learning ContrastiveLoss; exact",
)


@dataclass(frozen=True, kw_only=True)
class SiameseConfig(MetricConfig):
    """What a Siamese network is made of.

    Attributes:
        pairs: ``labels``: all pairs of the batch, positive within a class; ``views``: all pairs, positive between the
            views of one picture, without labels; ``listed``: each sample is a pair, whose label says whether it is one.
        distance: ``euclidean`` is the paper's; ``squared_euclidean``; ``cosine``.
        pos_margin: the distance up to which a positive pair costs nothing; the paper has none.
        neg_margin: the distance from which a negative pair costs nothing, in units of ``distance``.
        squared: the paper's squared hinge; else the plain one.

    Raises:
        ConfigError: if the pairs need two views and there are others.
    """

    pairs: Literal["labels", "views", "listed"] = "views"
    distance: Distance = "euclidean"
    pos_margin: float = 0.0
    neg_margin: float = 1.0
    squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neg_margin <= self.pos_margin:
            raise ConfigError(
                f"neg_margin must be above pos_margin, found {self.neg_margin} and {self.pos_margin}: no distance would "
                "satisfy both kinds of pairs."
            )
        if self.pairs == "views" and self.views < 2:
            raise ConfigError("Where views make the pairs there must be at least two: set model.views=2.")
        if self.pairs == "listed" and self.views != 2:
            raise ConfigError(f"A listed pair is two pictures, found model.views={self.views}.")


class SiameseNetwork(MetricEncoder):
    """A tower that ends in unit vectors, used for both pictures of a pair; see the module's text.

    Args:
        config: the architecture and the loss.
        processors: ``image``, and ``label`` where labels or a list say which pairs are positive.
    """

    id = "siamese"

    config: SiameseConfig

    def __init__(self, config: SiameseConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.needs = {"image": IMAGE} if config.pairs == "views" else {"image": IMAGE, "label": LABEL}

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the pair loss of prepared ``image`` ``(B, V, C, H, W)`` and, where it counts, ``label`` ``(B,)``.

        For listed pairs V is 2 and the label is 1 for a pair that belongs together, 0 for one that does not.
        """
        config, image_BVCHW = self.config, self.views(batch)
        count, views = image_BVCHW.shape[:2]
        z_BVD = self.compared(image_BVCHW.flatten(0, 1)).unflatten(0, (count, views))
        if config.pairs == "listed":
            total = pair_loss(
                z_BVD[:, 0],
                z_BVD[:, 1],
                batch["label"] == 1,
                distance=config.distance,
                pos_margin=config.pos_margin,
                neg_margin=config.neg_margin,
                squared=config.squared,
            )
        else:
            label_B = batch["label"] if config.pairs == "labels" else own_labels(count, image_BVCHW.device)
            total = batch_pair_loss(
                z_BVD.flatten(0, 1),
                label_B.repeat_interleave(views),
                distance=config.distance,
                pos_margin=config.pos_margin,
                neg_margin=config.neg_margin,
                squared=config.squared,
            )
        return Losses(total, self.note(z_BVD))

    # --8<-- [end:loss]

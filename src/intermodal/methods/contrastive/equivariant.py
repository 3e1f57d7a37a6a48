"""Invariance and equivariance: VICReg (Bardes et al. 2022) and equivariant learning, E-SSL (Dangovski et al. 2022).

*VICReg* has no negatives. The projections of two views of a picture should agree (invariance), each dimension should
vary over the batch (variance), and no two should say the same (covariance); the last two keep the space from collapsing.

*E-SSL* adds that the features should know what they are not asked to ignore: a head has to tell by how many quarter
turns a view was rotated, from features that the first part of the loss makes invariant to crop and colour. Features that
can answer change with the rotation in a way that can be read off them, which is what equivariance means here.

What serves afterwards is the tower's output.

Shapes: B pictures, V views of each, C, H, W channels, height and width, F features, D projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.distances import precise
from intermodal.losses.nt_xent import nt_xent
from intermodal.losses.vicreg import vicreg
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.contrastive.image_encoder import IMAGE, ImageEncoder, ImageEncoderConfig
from intermodal.nn.projector import Projector, ProjectorConfig

CARD = MethodCard(
    id="equivariant",
    title="VICReg and E-SSL: invariant to some changes, equivariant to others",
    paper="Bardes et al. 2022; Dangovski et al. 2022",
    cls="Equivariant",
    capabilities=("embed",),
    recipes=("vicreg", "e-ssl"),
    reference="exact",
)

TURNS = 4
"""Rotations by 0, 90, 180 and 270 degrees (counter-clockwise): E-SSL's group."""
EXPANDER = ProjectorConfig(hidden_dim=1024, output_dim=1024, layers=3)
ROTATION_HEAD = ProjectorConfig(hidden_dim=512, layers=2)


@dataclass(frozen=True, kw_only=True)
class EquivariantConfig(ImageEncoderConfig):
    """What the losses are made of.

    With E-SSL a third view (``views=3``) is the one that is rotated, as in the paper; with two views it is the first.

    Attributes:
        projector: the head whose output is compared (VICReg calls it the expander).
        objective: ``vicreg``, or ``e-ssl``: ``invariance`` plus ``rotation_weight`` times the rotations' cross entropy.
        invariance: the loss that E-SSL starts from: ``simclr`` or ``vicreg``.
        weights: of VICReg's invariance, variance and covariance (Bardes 2022, section 4.2).
        temperature: of SimCLR's loss.
        rotation_weight: lambda (Dangovski 2022, equation 1; their section 4.1 has 0.4 for SimCLR on CIFAR-10).
        rotation_head: of the network that predicts the rotation, but for its output.
        rotations: ``all`` four of each picture, as in the paper, or ``one``, drawn at random, at a quarter of the cost.

    Raises:
        ConfigError: if the number of views does not fit, or a weight is negative.
    """

    projector: ProjectorConfig = EXPANDER
    objective: Literal["vicreg", "e-ssl"] = "vicreg"
    invariance: Literal["simclr", "vicreg"] = "simclr"
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0)
    temperature: float = 0.2
    rotation_weight: float = 0.4
    rotation_head: ProjectorConfig = ROTATION_HEAD
    rotations: Literal["all", "one"] = "one"

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 3 if self.objective == "e-ssl" else 2
        if not 2 <= self.views <= most:
            raise ConfigError(f"{self.objective} compares two views{' and rotates a third' * (most - 2)}: model.views must "
                              f"be {'2 or 3' if most == 3 else '2'}, found {self.views}.")  # fmt: skip
        if min(*self.weights, self.rotation_weight) < 0 or self.temperature <= 0:
            raise ConfigError("The weights must not be negative and the temperature must be above 0.")


class Equivariant(ImageEncoder):
    """A tower, a projector, and for E-SSL a head that reads off the rotation; see the module's text.

    Args:
        config: the architecture and the objective.
        processors: ``image``.
    """

    id = "equivariant"

    config: EquivariantConfig

    def __init__(self, config: EquivariantConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.projector = Projector(config.image.pooled_dim, config.projector)
        if config.objective == "e-ssl":
            self.rotation_head = Projector(config.image.pooled_dim, config.rotation_head.replace(output_dim=TURNS))
            if config.rotations == "one":
                self.needs = {"image": IMAGE, "seed": SEED}

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of prepared ``image`` ``(B, V, C, H, W)``; where one rotation is drawn, ``seed`` decides it."""
        image_BVCHW = self.views(batch)
        config = self.config
        rotates = config.objective == "e-ssl"
        pictures, turns_R = image_BVCHW[:, :2].flatten(0, 1), None
        if rotates:
            rotated_RCHW, turns_R = self.rotated(image_BVCHW[:, -1 if config.views == 3 else 0], batch)
            pictures = torch.cat([pictures, rotated_RCHW])
        features = self.features(pictures)  # one pass: the batch norms see all that the tower is used for
        z_BVD = self.projector(features[: 2 * len(image_BVCHW)]).unflatten(0, (-1, 2))
        total, parts = self.invariance(z_BVD)
        if turns_R is not None:
            logits_RT = precise(self.rotation_head(features[2 * len(image_BVCHW) :]))
            rotation = F.cross_entropy(logits_RT, turns_R)
            total = total + config.rotation_weight * rotation
            accuracy = (logits_RT.detach().argmax(1) == turns_R).float().mean()
            parts |= {"rotation": rotation, "rotation_accuracy": accuracy}
        return Losses(total, self.note(z_BVD, **parts))

    def invariance(self, z_BVD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the invariant part of the loss of the projections of two views, and its terms."""
        first_BD, second_BD = z_BVD.unbind(1)
        if self.config.objective == "e-ssl" and self.config.invariance == "simclr":
            total = nt_xent(first_BD, second_BD, self.config.temperature)
            return total, {"nt_xent": total}
        terms = vicreg(first_BD, second_BD)
        by_invariance, by_variance, by_covariance = self.config.weights
        total = by_invariance * terms.invariance + by_variance * terms.variance + by_covariance * terms.covariance
        return total, terms._asdict()

    # --8<-- [end:loss]

    def rotated(self, image_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return quarter turns of square pictures, ``(R, C, H, W)``, and how many each was turned by, ``(R,)``.

        R is B with ``rotations="one"`` and 4 B with ``all``.

        Raises:
            DataError: if the pictures are not square: a quarter turn would not fit.
        """
        if image_BCHW.shape[2] != image_BCHW.shape[3]:
            raise DataError(f"E-SSL turns square pictures, found {tuple(image_BCHW.shape[2:])} pixels.")
        turned = [torch.rot90(image_BCHW, k, (2, 3)) for k in range(TURNS)]
        count = len(image_BCHW)
        if self.config.rotations == "all":
            return torch.cat(turned), torch.arange(TURNS, device=image_BCHW.device).repeat_interleave(count)
        turns_B = torch.randint(TURNS, (count,), generator=generator_of(batch)).to(image_BCHW.device)
        return torch.stack(turned, 1)[torch.arange(count, device=image_BCHW.device), turns_B], turns_B

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step's towers: forward and twice as many backward, for each picture seen."""
        seen = 2
        if self.config.objective == "e-ssl":
            seen += TURNS if self.config.rotations == "all" else 1
        return 3.0 * seen * batch_size * self.config.image.flops()

"""SimCLR: two views of a picture find each other among all views of a batch (Chen et al. 2020).

Each picture is changed twice at random. A tower and a small projector map every view to a unit vector; each view is
asked which of the 2B - 1 others comes from the same picture. The answer's cross entropy is NT-Xent, an InfoNCE bound on
what the two views share (van den Oord et al. 2018, equation 4). With ``loss="sigmoid"`` each pair of views is a question
of its own instead, as in SigLIP (Zhai et al. 2023, algorithm 1), with a learnt scale and bias.

What serves afterwards is the tower's output; the projector is thrown away (Chen 2020, section 4.2).

Shapes: B pictures, 2 views of each, C, H, W channels, height and width, F features, D projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.chunked import encode_in_chunks
from intermodal.losses.contrastive import sigmoid_loss
from intermodal.losses.distances import unit
from intermodal.losses.nt_xent import nt_xent
from intermodal.methods.base import Batch, Losses
from intermodal.methods.contrastive.image_encoder import ImageEncoder, ImageEncoderConfig
from intermodal.nn.projector import Projector, ProjectorConfig
from intermodal.nn.resnet import ResNetConfig

CARD = MethodCard(
    id="simclr",
    title="SimCLR: views of one picture told from all others, by InfoNCE or SigLIP's sigmoid",
    paper="Chen et al. 2020; van den Oord et al. 2018",
    cls="SimCLR",
    capabilities=("embed",),
    recipes=("simclr",),
    reference="pytorch-metric-learning NTXentLoss; exact",
)

MAX_LOGIT_SCALE = math.log(100.0)


HEAD = ProjectorConfig(hidden_dim=512, output_dim=128)


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(ImageEncoderConfig):
    """What a SimCLR is made of.

    Attributes:
        projector: the head whose output is compared.
        loss: ``nt-xent`` or ``sigmoid``.
        temperature: of NT-Xent; large batches want it higher (Chen 2020, table 5: 0.1 to 0.5).
        init_logit_scale: the sigmoid loss's learnt scale at the start, before the logarithm.
        init_logit_bias: its learnt bias at the start.
        chunk_size: encode the views in chunks of so many and recompute them in the backward pass: exact, with the
            memory of one chunk; None encodes them whole. Needs a network without batch norm.

    Raises:
        ConfigError: if there are other than two views, or ``chunk_size`` meets a batch norm.
    """

    projector: ProjectorConfig = HEAD
    loss: Literal["nt-xent", "sigmoid"] = "nt-xent"
    temperature: float = 0.2
    init_logit_scale: float = 10.0
    init_logit_bias: float = -10.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views != 2:
            raise ConfigError(f"SimCLR compares two views of each picture, found model.views={self.views}.")
        if self.temperature <= 0:
            raise ConfigError(f"The temperature must be above 0, found {self.temperature}.")
        if self.chunk_size is not None and (isinstance(self.image, ResNetConfig) or self.projector.norm == "batch"):
            raise ConfigError(
                "model.chunk_size needs a network that treats each row by itself, but batch norm does not: take a ViT "
                "tower and projector.norm='none', or leave chunk_size out."
            )


class SimCLR(ImageEncoder):
    """A tower and a projector; see the module's text.

    Args:
        config: the architecture and the loss.
        processors: ``image``.
    """

    id = "simclr"

    config: SimCLRConfig

    def __init__(self, config: SimCLRConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.projector = Projector(config.image.pooled_dim, config.projector)
        if config.loss == "sigmoid":
            self.logit_scale = nn.Parameter(torch.tensor(math.log(config.init_logit_scale)))
            self.logit_bias = nn.Parameter(torch.tensor(config.init_logit_bias))

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the contrastive loss of prepared ``image`` ``(B, 2, C, H, W)``; over several processes, of all views."""
        image_BVCHW = self.views(batch)
        z_BVD = self.project(image_BVCHW.flatten(0, 1)).unflatten(0, image_BVCHW.shape[:2])
        first_BD, second_BD = z_BVD.unbind(1)
        if self.config.loss == "sigmoid":
            scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
            total = sigmoid_loss(unit(first_BD), unit(second_BD), scale, self.logit_bias)
        else:
            total = nt_xent(first_BD, second_BD, self.config.temperature)
        return Losses(total, self.note(z_BVD))

    def project(self, image_NCHW: Tensor) -> Tensor:
        """Return the projections ``(N, D)`` of prepared views, not normalised."""

        def encode(image: Tensor) -> Tensor:
            return self.projector(self.features(image))

        if self.config.chunk_size is None or not self.training:
            return encode(image_NCHW)
        return encode_in_chunks(encode, image_NCHW, self.config.chunk_size, module=self)

    # --8<-- [end:loss]

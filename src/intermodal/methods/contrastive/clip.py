"""CLIP: pictures and texts in one space, learnt from pairs (Radford et al. 2021), with SigLIP's loss as an option.

Two towers map a picture and its text to unit vectors. In a batch of B pairs the matrix of all similarities, times a
learnt scale, is read as two classification problems, "which text belongs to this picture" and the reverse; the loss is
the mean of their cross entropies (Radford 2021, figure 3). With ``loss="sigmoid"`` each of the B x B pairs is a binary
problem of its own instead (Zhai et al. 2023, algorithm 1).

Shapes: B batch, C channels, H height, W width, L text length, D embedding, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.chunked import encode_in_chunks
from intermodal.losses.contrastive import info_nce, sigmoid_loss
from intermodal.methods.base import Batch, Losses, Method
from intermodal.nn.resnet import ModifiedResNet, ResNetConfig
from intermodal.nn.text import TextConfig, TextTransformer
from intermodal.nn.vit import VisionTransformer, ViTConfig

CARD = MethodCard(
    id="clip",
    title="CLIP: contrastive language-image pre-training, with SigLIP's loss as an option",
    paper="Radford et al. 2021; Zhai et al. 2023",
    cls="CLIP",
    capabilities=("embed", "classify"),
    recipes=("clip", "clip-small", "clip-photos", "siglip"),
    reference="transformers CLIPModel and SiglipModel; open_clip CLIP",
)

MAX_LOGIT_SCALE = math.log(100.0)  # Radford 2021, section 2.5: clipped so that logits are not scaled by more than 100


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(Config):
    """What a CLIP is made of.

    Attributes:
        image: the picture's tower.
        text: the text's tower.
        embed_dim: D, the size of the joint space.
        loss: ``softmax`` (CLIP) or ``sigmoid`` (SigLIP).
        init_logit_scale: the learnt scale's first value, before the logarithm (CLIP: 1/0.07; SigLIP: 10).
        init_logit_bias: SigLIP's bias at the start.
        project_image: a linear map from the picture's tower into the joint space; a tower that already ends there
            (the ResNet's attention pooling, SigLIP) has none.
        text_projection_bias: SigLIP's text projection has a bias, CLIP's has none.
        chunk_size: encode the batch in chunks of this many pairs and recompute them in the backward pass: exact, with
            the memory of one chunk; None encodes it whole.
    """

    image: ViTConfig | ResNetConfig
    text: TextConfig
    embed_dim: int
    loss: Literal["softmax", "sigmoid"] = "softmax"
    init_logit_scale: float = 1 / 0.07
    init_logit_bias: float = -10.0
    project_image: bool = True
    text_projection_bias: bool = False
    chunk_size: int | None = None


class CLIP(Method):
    """Two towers and a temperature; see the module's text.

    Args:
        config: the architecture.
        processors: ``image`` and ``text``; their sizes must fit the towers.
    """

    id = "clip"
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "text": Field((), "str", "a text that describes the picture"),
    }
    contrasts_batch = True
    modalities: tuple[str, ...] = ("image", "text")

    config: CLIPConfig

    def __init__(self, config: CLIPConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.image: VisionTransformer | ModifiedResNet
        if isinstance(config.image, ViTConfig):
            self.image = VisionTransformer(config.image)
        else:
            self.image = ModifiedResNet(config.image)
        self.text = TextTransformer(config.text)
        image_dim, dim = config.image.pooled_dim, config.embed_dim
        if not config.project_image and image_dim != dim:
            raise ConfigError(f"The picture's tower ends in {image_dim} dimensions, the joint space has {dim}.")
        self.image_projection = nn.Linear(image_dim, dim, bias=False) if config.project_image else nn.Identity()
        self.text_projection = nn.Linear(config.text.output_dim, dim, bias=config.text_projection_bias)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.init_logit_scale)))
        if config.loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.tensor(config.init_logit_bias))
        self._init_projections()
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def _init_projections(self) -> None:
        for projection in (self.image_projection, self.text_projection):
            if isinstance(projection, nn.Linear):
                nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Return unit vectors ``(B, D)`` of prepared pictures."""
        pooled_BD, _ = self.image(image_BCHW)
        return F.normalize(self.image_projection(pooled_BD), dim=-1)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Return unit vectors ``(B, D)`` of token ids."""
        pooled_BD, _ = self.text(tokens_BL)
        return F.normalize(self.text_projection(pooled_BD), dim=-1)

    def logits(self, image_BD: Tensor, text_KD: Tensor) -> Tensor:
        """Return scaled similarities ``(B, K)`` of unit vectors (plus SigLIP's bias)."""
        logits = self.logit_scale.exp() * image_BD @ text_KD.T
        return logits + self.logit_bias if self.config.loss == "sigmoid" else logits

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the contrastive loss of prepared ``image`` ``(B, C, H, W)`` and ``text`` ``(B, L)``.

        The batch is the global one: over several processes the vectors are gathered, with exact gradients.
        """
        image = self._encode(self.image, self.encode_image, batch["image"])
        text = self._encode(self.text, self.encode_text, batch["text"])
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        if self.config.loss == "sigmoid":
            total = sigmoid_loss(image, text, scale, self.logit_bias)
        else:
            total = info_nce(image, text, scale)
        with torch.no_grad():
            parts = {"logit_scale": scale.detach(), **_batch_statistics(image.float(), text.float())}
            self._seen = parts
        return Losses(total, parts)

    def _encode(self, tower: nn.Module, encode: Any, inputs: Tensor) -> Tensor:
        if self.config.chunk_size is None or not self.training:
            return encode(inputs)
        return encode_in_chunks(encode, inputs, self.config.chunk_size, module=tower)

    # --8<-- [end:loss]

    def health(self) -> list[str]:
        """Warn of a collapsed space, a saturated temperature and towers that have not met."""
        warnings = []
        seen = {name: float(value) for name, value in self._seen.items()}
        for name in ("image", "text"):
            alike = seen.get(f"{name}_alike", 0.0)
            if alike > 0.95:
                warnings.append(
                    f"All {name} vectors point the same way (mean cosine {alike:.2f}): the space has collapsed. Lower "
                    "the learning rate or raise the batch size."
                )
        if seen.get("logit_scale", 0.0) > 99.0:
            warnings.append("The temperature has reached its bound (scale 100): the pairs are fitted almost exactly.")
        return warnings

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)`` of PIL images (``"image"``) or strings (``"text"``)."""
        if modality not in self.modalities:
            raise DataError(f"CLIP embeds {' and '.join(self.modalities)}, not {modality!r}.")
        if not inputs:
            return np.zeros((0, self.config.embed_dim), np.float32)
        with self.evaluating():
            prepared = self.processors[modality](inputs).to(self.device)
            if prepared.is_floating_point():
                prepared = prepared.to(self.logit_scale.dtype)
            vectors = self.encode_image(prepared) if modality == "image" else self.encode_text(prepared)
        return vectors.float().cpu().numpy()

    def classify(
        self, images: Sequence[Image.Image], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """Return probabilities ``(len(images), len(labels))`` by prompts alone (Radford 2021, section 3.1).

        Raises:
            DataError: if there is no label, or a template lacks its ``{}``.
        """
        logits = self.embed("image", images) @ self.label_vectors(labels, templates).T
        scaled = torch.from_numpy(logits) * float(self.logit_scale.detach().exp())
        return scaled.softmax(-1).numpy()

    def label_vectors(self, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Return one unit vector a label, ``(len(labels), D)``: the normalised mean over its prompts."""
        if not labels:
            raise DataError("Classification needs at least one label.")
        for template in templates:
            if "{}" not in template:
                raise DataError(f"The prompt {template!r} has no {{}} to put the label in.")
        sums = np.zeros((len(labels), self.config.embed_dim), np.float32)
        for template in templates:
            sums += self.embed("text", [template.format(label) for label in labels])
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: forward and twice as many backward (once more forward when chunked)."""
        passes = 3 if self.config.chunk_size is None else 4
        towers = self.config.image.flops() + self.config.text.flops()
        return passes * batch_size * towers + 8.0 * batch_size**2 * self.config.embed_dim


def _batch_statistics(image_BD: Tensor, text_BD: Tensor) -> dict[str, Tensor]:
    """Return how alike the vectors of one modality are: the mean cosine of distinct pairs, 0 spread out, 1 collapsed."""
    size = max(image_BD.shape[0], 2)
    pairs = size * (size - 1)
    return {
        f"{name}_alike": (x.sum(0).square().sum() - x.square().sum()) / pairs
        for name, x in (("image", image_BD), ("text", text_BD))
    }

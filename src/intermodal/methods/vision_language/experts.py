"""Modality experts: one set of weights that compares pictures with texts and reads both together (VLMo; BEiT-3).

Three tasks train it at once. *Contrast*: a picture alone and a text alone, each by its own experts, end in one space.
*Matching*: both together, is this the text of this picture? The wrong ones are those that the first task finds hard to tell.
*Masked language*: a text with holes beside its picture, which words are missing? Afterwards a search ranks by the first and
orders the best again by the second. (Bao et al. 2022; Wang et al. 2023.)

Shapes: B pairs, C, H, W channels, height and width; I tokens of a picture, L of a text; D width; E the joint space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor, TextProcessor
from intermodal.losses.contrastive import info_nce
from intermodal.methods.base import Batch, Losses, Method, generator_of
from intermodal.nn.experts import ExpertsConfig, ExpertTransformer, Swap

CARD = MethodCard(
    id="experts",
    title="Modality experts: one set of weights as dual encoder and as fusion encoder",
    paper="Bao et al. 2022; Wang et al. 2023",
    cls="Experts",
    capabilities=("embed",),
    recipes=("experts",),
    reference="exact",
)

MAX_LOGIT_SCALE = math.log(100.0)
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ExpertsMethodConfig(Config):
    """What the method is made of.

    Attributes:
        network: the blocks.
        embed_dim: E.
        masked: the share of a text's tokens that are to be predicted.
        matching_weight: of the matching loss, beside the contrastive one.
        masked_weight: of the masked-language loss.
        init_logit_scale: the learnt scale's first value, before the logarithm.

    Raises:
        ConfigError: if a number is out of range.
    """

    network: ExpertsConfig
    embed_dim: int
    masked: float = 0.4
    matching_weight: float = 1.0
    masked_weight: float = 1.0
    init_logit_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        if not 0 < self.masked < 1 or min(self.matching_weight, self.masked_weight) < 0:
            raise ConfigError("Experts: masked must be in 0..1, and the losses' weights not negative.")


class Experts(Method):
    """Expert blocks and three heads; see the module's text.

    Args:
        config: sizes.
        processors: ``image`` and ``text``.
    """

    id = "experts"
    modalities: tuple[str, ...] = ("image", "text")
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "text": Field((), "str", "a text that describes it"),
        "seed": SEED,
    }
    contrasts_batch = True
    config: ExpertsMethodConfig

    def __init__(self, config: ExpertsMethodConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        width = config.network.width
        self.network = ExpertTransformer(config.network)
        self.image_projection = nn.Linear(width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(width, config.embed_dim, bias=False)
        self.matching_head = nn.Linear(width, 2)
        self.word_head = nn.Linear(width, config.network.vocab_size)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.init_logit_scale)))
        self._seen: dict[str, Tensor] = {}

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return contrastive + matching + masked-language loss of prepared ``image`` and ``text``.

        The matching loss is the mean of three cross entropies: pairs, pictures with a hard text, texts with a hard picture.
        """
        config, generator = self.config, generator_of(batch)
        image_BCHW, text_BL = batch["image"], batch["text"]
        image_BE, text_BE = self.encode_image(image_BCHW), self.encode_text(text_BL)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        contrastive = info_nce(image_BE, text_BE, scale)

        with torch.no_grad():
            similar_BB = scale.float() * image_BE.float() @ text_BE.float().T
            text_B, image_B = hard(similar_BB, generator), hard(similar_BB.T, generator)
        images = torch.cat([image_BCHW, image_BCHW, image_BCHW[image_B]])
        texts = torch.cat([text_BL, text_BL[text_B], text_BL])
        right = torch.arange(3, device=text_BL.device).repeat_interleave(len(text_BL)) == 0
        logits_N2 = self.match_logits(images, texts)
        matching = F.cross_entropy(logits_N2, right.long())

        hidden_BL = self.holes(text_BL, generator)
        holed_BL = text_BL.masked_fill(hidden_BL, self.network.mask_id)
        word_BLD = self.network(image_BCHW, holed_BL, real_BL=self.network.real(text_BL))[
            :, config.network.image_tokens :
        ]
        logits_MV, target_M = self.word_head(word_BLD[hidden_BL]), text_BL[hidden_BL]
        masked = F.cross_entropy(logits_MV, target_M) if len(target_M) else logits_MV.sum()
        total = contrastive + config.matching_weight * matching + config.masked_weight * masked
        # --8<-- [end:loss]
        with torch.no_grad():
            told = (logits_N2.argmax(1) == right.long()).float()
            parts = {
                "contrastive": contrastive.detach(),
                "matching": matching.detach(),
                "masked": masked.detach(),
                "told": (told[: len(text_BL)].mean() + told[len(text_BL) :].mean()) / 2,
                "words": (logits_MV.argmax(1) == target_M).float().mean() if len(target_M) else masked.detach() * 0,
                "logit_scale": scale.detach(),
            }
        self._seen = parts
        return Losses(total, parts)

    def holes(self, text_BL: Tensor, generator: torch.Generator) -> Tensor:
        """Return which tokens are to be predicted, bool ``(B, L)``: of the words, neither the first token nor the end."""
        words_BL = self.network.real(text_BL) & (text_BL != self.config.network.eos_id)
        words_BL[:, 0] = False
        drawn_BL = torch.rand(text_BL.shape, generator=generator).to(text_BL.device)
        return words_BL & (drawn_BL < self.config.masked)

    def encode_image(self, image_BCHW: Tensor, swap: Swap | None = None) -> Tensor:
        """Return unit vectors ``(B, E)`` of prepared pictures, each read alone."""
        return F.normalize(self.image_projection(self.network(image_BCHW, None, swap=swap)[:, 0]), dim=-1)

    def encode_text(self, text_BL: Tensor, swap: Swap | None = None) -> Tensor:
        """Return unit vectors ``(B, E)`` of token ids, each text read alone, from its first token."""
        return F.normalize(self.text_projection(self.network(None, text_BL, swap=swap)[:, 0]), dim=-1)

    def match_logits(self, image_BCHW: Tensor, text_BL: Tensor, swap: Swap | None = None) -> Tensor:
        """Return logits ``(B, 2)`` of "this is not its text" and "it is", read from the text's first token in the fusion."""
        x_BLD = self.network(image_BCHW, text_BL, swap=swap)
        return self.matching_head(x_BLD[:, self.config.network.image_tokens])

    # What a person asks for.

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any], *, swap: Swap | None = None) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), E)`` of PIL images (``"image"``) or strings (``"text"``).

        ``swap`` lets experts do the work of others, to see what each has learnt.
        """
        if modality not in self.modalities:
            raise DataError(f"Experts embed {' and '.join(self.modalities)}, not {modality!r}.")
        if not inputs:
            return np.zeros((0, self.config.embed_dim), np.float32)
        with self.evaluating():
            encode = self.encode_image if modality == "image" else self.encode_text
            vectors = encode(self._prepared(modality, inputs), swap)
        return vectors.float().cpu().numpy()

    @torch.inference_mode()
    def match(self, images: Sequence[Image.Image], texts: Sequence[str], *, swap: Swap | None = None) -> np.ndarray:
        """Return how sure the fusion encoder is that each picture and its text belong together, float32 ``(B,)``, 0 to 1.

        Raises:
            DataError: if there are not as many texts as pictures.
        """
        if len(images) != len(texts):
            raise DataError(f"Each picture needs a text to match, found {len(images)} and {len(texts)}.")
        if not images:
            return np.zeros(0, np.float32)
        found = []
        with self.evaluating():
            for first in range(0, len(images), BATCH):
                part = slice(first, first + BATCH)
                image, text = self._prepared("image", images[part]), self._prepared("text", texts[part])
                found.append(self.match_logits(image, text, swap).float().softmax(-1)[:, 1])
        return torch.cat(found).cpu().numpy()

    def _prepared(self, modality: str, inputs: Sequence[Any]) -> Tensor:
        prepared = self.processors[modality](inputs).to(self.device)
        return prepared.to(self.logit_scale.dtype) if prepared.is_floating_point() else prepared

    @torch.no_grad()
    def looks_of(
        self, images: Sequence[Image.Image], texts: Sequence[str]
    ) -> tuple[list[tuple[Image.Image, list[str], np.ndarray]], tuple[int, int]]:
        """Return for each picture, as it is seen, the tokens of its text and where each looks in the fusion, and the grid.

        The weights ``(tokens, patches)`` are the mean over the heads and the blocks with an expert for both.
        """
        found = []
        with self.evaluating():
            picture, text = self.processors["image"], self.processors["text"]
            assert isinstance(picture, ImageProcessor) and isinstance(text, TextProcessor)
            for image, said in zip(images, texts, strict=True):
                ids = self._prepared("text", [said])
                count = int(self.network.real(ids).sum())
                weights = self.network.weights(self._prepared("image", [image]), ids)
                looks = weights[0, -self.config.network.fusion_depth :].mean((0, 1))[1 : count - 1]
                words = [text.decode(token.view(1, 1))[0].strip() for token in ids[0, 1 : count - 1]]
                found.append((picture.fitted(image), words, looks.float().cpu().numpy()))
        return found, self.config.network.grid

    def health(self) -> list[str]:
        """Warn of a fusion that tells no right text from a wrong one, and of a saturated temperature."""
        warnings = []
        if self._seen and float(self._seen["told"]) < 0.55 and float(self._seen["contrastive"]) < 1.0:
            warnings.append(
                "The fusion encoder cannot tell right texts from hard wrong ones, though the dual encoder can: train "
                "longer, or raise matching_weight."
            )
        if self._seen and float(self._seen["logit_scale"]) > 99.0:
            warnings.append("The temperature has reached its bound (scale 100): the pairs are fitted almost exactly.")
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: pictures and texts alone, and four times both, forward and backward."""
        network = self.config.network
        alone = network.flops(network.image_tokens) + network.flops(network.context_length)
        return 3.0 * batch_size * (alone + 4 * network.flops(network.image_tokens + network.context_length))


def hard(similar_BB: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each row a wrong column, int64 ``(B,)``, drawn with the probabilities of ``softmax`` over the wrong ones.

    What is most easily taken for the right one is drawn most often (Bao et al. 2022, section 3.2, after ALBEF).
    """
    size = len(similar_BB)
    if size < 2:
        return torch.zeros(size, dtype=torch.int64, device=similar_BB.device)
    wrong_BB = similar_BB.cpu().fill_diagonal_(float("-inf")).softmax(1)
    return torch.multinomial(wrong_BB, 1, generator=generator).squeeze(1).to(similar_BB.device)

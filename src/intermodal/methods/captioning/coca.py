"""CoCa: one model that compares pictures with texts and writes texts about pictures (Yu et al. 2022).

A picture's tokens are pooled by learnt queries, once into a single vector for comparison and once into a few tokens for
reading. The text decoder is cut in two: its first half reads the text alone, and a class token at its end is the text's
vector; its second half goes on from there and looks at the picture too, and predicts each next word. One forward pass serves
both losses, a contrastive one between the two vectors and a captioning one.

Shapes: B pairs, C, H, W channels, height and width; L tokens of a text, V that are known; S tokens of a picture that are
read, D their width and that of the joint space.
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
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.data.sentences import up_to_end
from intermodal.losses.contrastive import info_nce
from intermodal.losses.distances import precise
from intermodal.losses.distributed import all_reduce_sum, rank_and_world
from intermodal.methods.base import Batch, Losses
from intermodal.methods.captioning.text_captioner import TextCaptioner
from intermodal.nn.cache import KVCache
from intermodal.nn.coca import AttentionalPooler, Kept, MultimodalDecoder, UnimodalDecoder
from intermodal.nn.resnet import ModifiedResNet, ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import VisionTransformer, ViTConfig

CARD = MethodCard(
    id="coca",
    title="CoCa: a contrastive captioner, which finds pictures by texts and writes texts about pictures",
    paper="Yu et al. 2022",
    cls="CoCa",
    capabilities=("embed", "caption"),
    recipes=("coca", "coca-flickr"),
    reference="open_clip CoCa; exact",
)

MAX_LOGIT_SCALE = math.log(100.0)
Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CoCaConfig(Config):
    """What a CoCa is made of.

    Attributes:
        image: the picture's encoder, whose tokens are pooled: a ViT with a class token, or a ResNet with the plain mean
            (``pool="mean"``), which is not used.
        text: the first half of the decoder; its width is that of the second half and of the joint space too.
        multimodal_depth: blocks of the second half.
        multimodal_heads: its attention heads.
        queries: of the pooler for captioning.
        pooler_heads: attention heads of the poolers.
        pooling: ``parallel``: the contrastive query has a pooler of its own (Yu 2022, algorithm 1). ``shared``: it is the
            first query of one pooler, and the others are read by the decoder (open_clip).
        captioning_weight: of the captioning loss; the contrastive one has weight 1 (the paper: 2).
        init_logit_scale: the learnt scale's first value, before the logarithm.
        shifted_class_mask: as open_clip's published weights have it; see :class:`~intermodal.nn.coca.UnimodalDecoder`.

    Raises:
        ConfigError: if a part does not fit the others.
    """

    image: ViTConfig | ResNetConfig
    text: TextConfig
    multimodal_depth: int
    multimodal_heads: int = 8
    queries: int = 256
    pooler_heads: int = 8
    pooling: Literal["parallel", "shared"] = "parallel"
    captioning_weight: float = 2.0
    init_logit_scale: float = 1 / 0.07
    shifted_class_mask: bool = False

    def __post_init__(self) -> None:
        wanted = "cls" if isinstance(self.image, ViTConfig) else "mean"
        if self.image.pool != wanted:
            raise ConfigError(
                f"CoCa pools by itself: the picture's encoder needs pool={wanted!r}, found {self.image.pool!r}."
            )
        if not self.text.causal or min(self.text.depth, self.multimodal_depth) < 1:
            raise ConfigError("CoCa: the text's decoder must be causal, and each half have at least one block.")
        if self.queries < 1 + (self.pooling == "shared") or self.captioning_weight < 0:
            raise ConfigError(
                "CoCa: a query to read (and one to compare) is needed, and captioning_weight of at least 0."
            )

    @property
    def multimodal(self) -> TextConfig:
        """Sizes of the second half."""
        return self.text.replace(depth=self.multimodal_depth, heads=self.multimodal_heads)


class CoCa(TextCaptioner):
    """Encoder, poolers and two halves of a decoder; see the module's text.

    Args:
        config: sizes and choices.
        processors: ``image`` and ``text``.
    """

    id = "coca"
    modalities = ("image", "text")
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "text": Field((), "str", "a text that describes it"),
    }
    contrasts_batch = True
    config: CoCaConfig

    def __init__(self, config: CoCaConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        width = config.text.width
        if isinstance(config.image, ViTConfig):
            self.image: VisionTransformer | ModifiedResNet = VisionTransformer(config.image)
            self.image.post_norm = nn.Identity()  # type: ignore[assignment]  # the poolers have norms of their own
            context, eps = config.image.width, config.image.norm_eps
        else:
            self.image = ModifiedResNet(config.image)
            context, eps = config.image.features, 1e-5
        self.pooler = AttentionalPooler(width, config.pooler_heads, context, config.queries)
        if config.pooling == "parallel":
            self.contrastive_pooler = AttentionalPooler(width, config.pooler_heads, context, 1)
            self.contrastive_norm = nn.LayerNorm(width, eps=eps)
        self.pooled_norm = nn.LayerNorm(width, eps=eps)
        self.image_projection = nn.Linear(width, width, bias=False)
        self.text = UnimodalDecoder(config.text, shifted=config.shifted_class_mask)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.decoder = MultimodalDecoder(config.multimodal, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.init_logit_scale)))
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=width**-0.5)
        self._seen: dict[str, Tensor] = {}

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return ``contrastive + captioning_weight * captioning`` of prepared ``image`` and ``text`` (Yu 2022, equation 4).

        The captioning loss is the mean over all tokens of the batch that are no padding, the first excepted, in nats.
        """
        text_BL, real_BL = batch["text"], self.real(batch["text"])
        image_BD, read_BSD = self.see(batch["image"])
        text_BD, token_BLD = self.read_text(text_BL)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        contrastive = info_nce(image_BD, text_BD, scale)

        logits_BLV = self.decoder.head(self.decoder(token_BLD[:, :-1], read_BSD))
        nats_BL = F.cross_entropy(precise(logits_BLV).transpose(1, 2), text_BL[:, 1:], reduction="none")
        counts_BL = real_BL[:, 1:]
        tokens = all_reduce_sum(counts_BL.sum()) / rank_and_world()[1]
        captioning = (nats_BL * counts_BL).sum() / tokens.clamp(min=1)
        total = contrastive + self.config.captioning_weight * captioning
        # --8<-- [end:loss]
        with torch.no_grad():
            self._seen = {"logit_scale": scale.detach(), "contrastive": contrastive.detach()}
            self._seen["captioning"] = captioning.detach()
            if self.training:
                self.keep_probe(batch["image"])
        return Losses(total, self._seen)

    def see(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures' unit vectors ``(B, D)`` and the tokens that the decoder reads, ``(B, S, D)``."""
        _, tokens_BSC = self.image(image_BCHW)
        pooled_BSD = self.pooled_norm(self.pooler(tokens_BSC))
        if self.config.pooling == "shared":
            one_BD, read_BSD = pooled_BSD[:, 0], pooled_BSD[:, 1:]
        else:
            one_BD, read_BSD = self.contrastive_norm(self.contrastive_pooler(tokens_BSC)[:, 0]), pooled_BSD
        return F.normalize(self.image_projection(one_BD), dim=-1), read_BSD

    def read_text(self, text_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return texts' unit vectors ``(B, D)`` and what the second half goes on from, ``(B, L, D)``."""
        pooled_BD, token_BLD = self.text(text_BL, self.real(text_BL))
        return F.normalize(self.text_projection(pooled_BD), dim=-1), token_BLD

    def real(self, text_BL: Tensor) -> Tensor:
        """Return which tokens are no padding, bool ``(B, L)``: up to the first end, and that too."""
        return up_to_end(text_BL, self.config.text.eos_id)

    def logits(self, image_BCHW: Tensor, text_BL: Tensor) -> Tensor:
        """Return logits ``(B, L, V)`` of the token after each place of texts, given the picture."""
        return self.decoder.head(self.decoder(self.read_text(text_BL)[1], self.see(image_BCHW)[1]))

    # The capabilities: one space for pictures and texts, and captions.

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)`` of PIL images (``"image"``) or strings (``"text"``)."""
        if modality not in self.modalities:
            raise DataError(f"CoCa embeds {' and '.join(self.modalities)}, not {modality!r}.")
        if not inputs:
            return np.zeros((0, self.config.text.width), np.float32)
        with self.evaluating():
            if modality == "image":
                vectors = self.see(self.pictures(inputs))[0]
            else:
                vectors = self.read_text(self.processors["text"](inputs).to(self.device))[0]
        return vectors.float().cpu().numpy()

    def begun(self, image: Tensor) -> tuple[CoCaStepper, Tensor]:
        """Return what goes on with captions of prepared pictures, and their first token, ``(B, 1)``."""
        return CoCaStepper(self, self.see(image)[1]), self.first(image)

    @property
    def room(self) -> int:
        """The most tokens of a caption: all places but that of the start."""
        return self.config.text.context_length - 1

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.config.text.eos_id

    @torch.no_grad()
    def looks(self, image_BCHW: Tensor, text_BL: Tensor) -> Tensor:
        """Return where each token of texts looks when the next is written, ``(B, L, positions of the picture)``.

        The decoder looks at the pooler's queries, and these at the picture: the product of both weights, each the mean over
        heads and the decoder's over blocks. Each row sums to one, less what a ViT's class token got, which has no place.
        """
        _, tokens_BSC = self.image(image_BCHW)
        pooled_BSD = self.pooled_norm(self.pooler(tokens_BSC))
        query_BQS = self.pooler.weights(tokens_BSC).mean(1)
        if self.config.pooling == "shared":
            pooled_BSD, query_BQS = pooled_BSD[:, 1:], query_BQS[:, 1:]
        word_BLQ = self.decoder.weights(self.read_text(text_BL)[1], pooled_BSD).mean((1, 2))
        found_BLS = word_BLQ @ query_BQS
        return found_BLS[..., 1:] if isinstance(self.config.image, ViTConfig) else found_BLS

    def looks_of(self, images: Sequence[Image.Image]) -> tuple[list[tuple[Image.Image, list[str], np.ndarray]], Grid]:
        """Return for each picture, as it is seen, the tokens of its greedy caption and where each looked, and the grid.

        The weights are those with which a token was chosen, ``(tokens, places)``.
        """
        with self.evaluating():
            prepared, found = self.pictures(images), []
            for image, row, caption in zip(images, prepared, self.write_prepared(prepared), strict=True):
                ids = self.tokenizer.encode(caption.text)
                ids = ids[: int(self.real(ids.unsqueeze(0)).sum())]
                looks = self.looks(row.unsqueeze(0), ids.unsqueeze(0).to(self.device))[0, :-1]
                words = [self.words(token.unsqueeze(0)) for token in ids[1:-1]]
                processor = self.processors["image"]
                assert isinstance(processor, ImageProcessor)
                found.append((processor.fitted(image), words, looks[: len(words)].float().cpu().numpy()))
        config = self.config.image
        if isinstance(config, ViTConfig):
            return found, config.grid
        return found, (config.size[0] // config.stride, config.size[1] // config.stride)

    def health(self) -> list[str]:
        """Warn of captions that repeat, and of a saturated temperature."""
        warnings = self.repeating()
        if float(self._seen.get("logit_scale", torch.zeros(()))) > 99.0:
            warnings.append("The temperature has reached its bound (scale 100): the pairs are fitted almost exactly.")
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step, forward and twice as many backward; the poolers are left out, as small."""
        text, second = self.config.text, self.config.multimodal
        head = 2 * text.context_length * text.width * text.vocab_size
        return 3.0 * batch_size * (self.config.image.flops() + text.flops() + 2 * second.flops() + head)


class CoCaStepper:
    """Writes on with both halves of the decoder, each with its own memory; a picture's keys are computed once.

    Args:
        model: the captioner.
        read_BSD: the tokens of the pictures that are read.
    """

    def __init__(self, model: CoCa, read_BSD: Tensor) -> None:
        self.model, self.read_BSD = model, read_BSD

    @property
    def context_length(self) -> int:
        """The most tokens that can be read of a text."""
        return self.model.config.text.context_length

    def start(self, length: int) -> tuple[KVCache, KVCache, Kept]:
        """Return empty memories of both halves, and the pictures' keys and values."""
        model, length = self.model, min(length, self.context_length)
        first, second = KVCache(model.config.text.depth, length), KVCache(model.config.multimodal_depth, length)
        return first, second, model.decoder.keys(self.read_BSD)

    def step(
        self, state: tuple[KVCache, KVCache, Kept], tokens_BL: Tensor
    ) -> tuple[Tensor, tuple[KVCache, KVCache, Kept]]:
        """Read tokens; see :meth:`~intermodal.decode.stepper.Stepper.step`."""
        first, second, kept = state
        token_BLD = self.model.text.tokens(tokens_BL, first, start=second.length)
        return self.model.decoder.head(self.model.decoder(token_BLD, kept, second)[:, -1]), state

    def reorder(self, state: tuple[KVCache, KVCache, Kept], rows_N: Tensor) -> tuple[KVCache, KVCache, Kept]:
        """Choose among the sequences; see :meth:`~intermodal.decode.stepper.Stepper.reorder`."""
        first, second, kept = state
        first.reorder(rows_N)
        second.reorder(rows_N)
        return first, second, [(keys[rows_N], values[rows_N]) for keys, values in kept]

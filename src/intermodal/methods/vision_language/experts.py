"""Modality experts: one set of weights that compares pictures and texts, reads both together, and writes.

VLMo (Bao et al. 2022) and BEiT-3 (Wang et al. 2023).

Its tasks: *Contrast*: a picture alone and a text alone, each by its own experts, end in one space. *Matching*: both
together, is this the text of this picture? The wrong ones are those that the first task finds hard to tell. *Masked
data*: which words or patches are missing, from what is left of the text or the picture alone, and from a pair, in which
the other is whole. *Writing*: which words are missing, where each sees the picture and the words before it. A search
ranks by the first task and orders the best again by the second; the last fills one hole after the other, which makes a
caption.

Shapes: B pairs, C, H, W channels, height and width; I tokens of a picture, P patches, L tokens of a text; D width; E
the joint space; K codes of patches; M hidden tokens; R pairs of a part of the batch.
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
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.losses.contrastive import info_nce
from intermodal.methods.base import Batch, Losses, generator_of
from intermodal.methods.captioning.text_captioner import TextCaptioner
from intermodal.methods.vision_language.expert_parts import Holed, HoleStepper, hard, mean_nats, some, told_right
from intermodal.nn.expert_blocks import Swap
from intermodal.nn.experts import ExpertsConfig, ExpertTransformer
from intermodal.nn.patch_codes import PatchCodes

CARD = MethodCard(
    id="experts",
    title="Modality experts: one set of weights as dual encoder, as fusion encoder and as decoder",
    paper="Bao et al. 2022; Wang et al. 2023",
    cls="Experts",
    capabilities=("embed", "caption"),
    recipes=("experts", "experts-flickr"),
    reference="torchscale BEiT3; exact",
)

MAX_LOGIT_SCALE = math.log(100.0)
BATCH = 256
Head = Literal["contrast", "matching", "words", "codes"]
HEADS: tuple[Head, ...] = ("contrast", "matching", "words", "codes")


@dataclass(frozen=True, kw_only=True)
class ExpertsMethodConfig(Config):
    """What the method is made of.

    Attributes:
        network: the blocks.
        heads: which tasks there are; published weights have one of the four, or none.
        embed_dim: E.
        codes: K, the codes of the visual tokenizer.
        code_cells: numbers of a patch's side by which its code is chosen: 4 are 4 x 4 mean colours.
        masked: the share of a text's words that are to be predicted.
        masked_patches: the share of a picture's patches.
        masked_captions: the share of a text's words, its end too, that are to be written.
        matching_weight: of the matching loss, beside the contrastive one.
        masked_weight: of each of the losses of hidden words and patches.
        first_apart: the first share of the training, in which pictures and texts are only read apart (as VLMo is trained in
            stages): matching, pairs with holes, and writing come behind it.
        hardness: the share of wrong pairs that the dual encoder draws in the end; at first all are drawn evenly.
        init_logit_scale: the learnt scale's first value, before the logarithm.

    Raises:
        ConfigError: if a number is out of range.
    """

    network: ExpertsConfig
    heads: tuple[Head, ...] = HEADS
    embed_dim: int
    codes: int = 128
    code_cells: int = 4
    masked: float = 0.4
    masked_patches: float = 0.6
    masked_captions: float = 0.7
    matching_weight: float = 1.0
    masked_weight: float = 1.0
    first_apart: float = 0.0
    hardness: float = 0.5
    init_logit_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        shares = (self.masked, self.masked_patches, self.masked_captions)
        if not all(0 < share < 1 for share in shares) or min(self.matching_weight, self.masked_weight) < 0:
            raise ConfigError("Experts: masked shares must be in 0..1, and the losses' weights not negative.")
        if not 0 <= self.hardness <= 1:
            raise ConfigError(f"Experts: hardness is a share, from 0 to 1, found {self.hardness}.")
        if set(self.heads) - set(HEADS) or not 0 <= self.first_apart < 1:
            raise ConfigError(f"Experts: heads are some of {', '.join(HEADS)}, and first_apart is from 0 to below 1.")
        if "matching" in self.heads and "contrast" not in self.heads:
            raise ConfigError("Experts: matching reads the joint space, which contrast makes: add that to heads.")
        if self.codes < 2 or self.network.patch_size % self.code_cells:
            raise ConfigError("Experts: two codes at least, and code_cells must divide the patch.")


class Experts(TextCaptioner):
    """Expert blocks and the heads of the tasks; see the module's text.

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
        network = config.network
        self.network = ExpertTransformer(network)
        if "contrast" in config.heads:
            self.image_projection = nn.Linear(network.width, config.embed_dim, bias=False)
            self.text_projection = nn.Linear(network.width, config.embed_dim, bias=False)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(config.init_logit_scale)))
        if "matching" in config.heads:
            self.matching_head = nn.Linear(config.embed_dim, 2)
            with torch.no_grad():  # as the dual encoder judges, to begin with
                self.matching_head.weight.copy_(torch.tensor([[-0.5], [0.5]]))
                self.matching_head.bias.zero_()
        if "words" in config.heads:
            self.word_head = nn.Linear(network.width, network.vocab_size)
        if "codes" in config.heads:
            self.patch_codes = PatchCodes(network.patch_size, config.code_cells, config.codes)
            self.code_head = nn.Linear(network.width, config.codes)
        self.joined, self.hardness = True, config.hardness
        self._seen: dict[str, Tensor] = {}

    def begin_step(self, step: int, steps: int) -> None:
        """Read pictures and texts apart at first, and then draw ever harder wrong pairs."""
        first = self.config.first_apart * steps
        self.joined = step >= first
        self.hardness = self.config.hardness * min(max(step - first, 0.0) / max(steps - first, 1.0), 1.0)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return contrastive + matching + masked losses of prepared ``image`` and ``text``.

        Every pair is contrasted and matched, each once with its own and once with a wrong text or picture. Of the first
        half of the batch, words are hidden in one pair and patches in the next; of the other half texts and pictures
        alone have holes, and captions are written. Cross entropies are means, in nats.
        """
        for head in HEADS:
            self.must_have(head)
        config, network, generator = self.config, self.network, generator_of(batch)
        text_BL, patch_BPD = batch["text"], network.seen(batch["image"])
        real_BL, code_BP = network.real(text_BL), self.patch_codes(batch["image"])
        image_BID = network.low(network.placed(patch_BPD), None, None)
        text_BLD = network.low(None, network.read(text_BL), real_BL)
        image_BE, text_BE = self._image_vector(image_BID), self._text_vector(text_BLD, real_BL)
        scale = self._scale()
        terms = {"contrastive": info_nce(image_BE, text_BE, scale)}
        word_BL = some(network.words(text_BL), config.masked, generator)
        patch_BP = some(torch.ones_like(code_BP, dtype=torch.bool), config.masked_patches, generator)
        holed = Holed(text_BL, real_BL, word_BL, patch_BPD, code_BP, patch_BP)
        terms |= self._alone(holed)
        if self.joined:
            similar_BB = (scale * image_BE @ text_BE.T).detach().float()
            logits_N2, right_N = self._told(image_BID, text_BLD, real_BL, similar_BB, generator)
            terms["matching"] = F.cross_entropy(logits_N2, right_N)
            terms |= self._pairs(holed) | self._writing(holed, image_BID, generator)
        weights = {"contrastive": 1.0, "matching": config.matching_weight}
        weighted = [weights.get(name, config.masked_weight) * term for name, term in terms.items()]
        # --8<-- [end:loss]
        parts = {name: term.detach() for name, term in terms.items()} | {"logit_scale": scale.detach()}
        if self.joined:
            parts["told"] = told_right(logits_N2, right_N)
        self._seen = parts
        return Losses(torch.stack(weighted).sum(), parts)

    # --8<-- [start:tasks]
    def _told(
        self, image_BID: Tensor, text_BLD: Tensor, real_BL: Tensor, similar_BB: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return logits of each pair and of a hard wrong one, and which are right; all read behind the lowest blocks."""
        wrong_text_B = hard(similar_BB, self.hardness, generator)
        wrong_image_B = hard(similar_BB.T, self.hardness, generator)
        by_text_B = torch.rand(len(text_BLD), generator=generator).to(text_BLD.device) < 0.5
        same_B = torch.arange(len(text_BLD), device=text_BLD.device)
        images_N = torch.cat([same_B, torch.where(by_text_B, same_B, wrong_image_B)])
        texts_N = torch.cat([same_B, torch.where(by_text_B, wrong_text_B, same_B)])
        x_NLD = self.network.high(image_BID[images_N], text_BLD[texts_N], real_BL[texts_N])
        return self._matched(x_NLD), (images_N == texts_N).long()

    def _alone(self, holed: Holed) -> dict[str, Tensor]:
        """Return the losses of texts and pictures with holes, each alone, of the second half of the batch."""
        part, network = holed.part(slice(holed.half, None)), self.network
        x_RLD = network.together(None, network.read(part.with_holes(network.mask_id)), part.real_BL)
        words = self._words(x_RLD, part.text_BL, part.word_BL)
        x_RID = network.together(network.placed(part.patch_BPD, part.hole_BP), None, None)
        return {"words_alone": words, "patches_alone": self._patches(x_RID, part.code_BP, part.hole_BP)}

    def _pairs(self, holed: Holed) -> dict[str, Tensor]:
        """Return the losses of pairs with holes, in the text or in the picture, of the first half of the batch."""
        part, network = holed.part(slice(holed.half)), self.network
        even_R1 = (torch.arange(len(part.text_BL), device=part.text_BL.device) % 2 == 0).unsqueeze(1)
        part = part._replace(word_BL=part.word_BL & even_R1, hole_BP=part.hole_BP & ~even_R1)
        text_RLD = network.read(part.with_holes(network.mask_id))
        x_RLD = network.together(network.placed(part.patch_BPD, part.hole_BP), text_RLD, part.real_BL)
        words = self._words(x_RLD, part.text_BL, part.word_BL)
        return {"words": words, "patches": self._patches(x_RLD, part.code_BP, part.hole_BP)}

    def _writing(self, holed: Holed, image_BID: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of texts that are written, of the second half of the batch."""
        part, network, rest = holed.part(slice(holed.half, None)), self.network, slice(holed.half, None)
        part = part._replace(
            word_BL=some(network.words(part.text_BL, end=True), self.config.masked_captions, generator)
        )
        text_RLD = network.low(None, network.read(part.with_holes(network.mask_id)), part.real_BL, writing=True)
        x_RLD = network.high(image_BID[rest], text_RLD, part.real_BL, writing=True)
        return {"writing": self._words(x_RLD, part.text_BL, part.word_BL)}

    # --8<-- [end:tasks]

    def _words(self, x_BLD: Tensor, text_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        """Return the mean cross entropy of the hidden words; the vectors of a text are the last of each row."""
        return mean_nats(self.word_head(x_BLD[:, -text_BL.shape[1] :][hidden_BL]), text_BL[hidden_BL])

    def _patches(self, x_BLD: Tensor, code_BP: Tensor, hidden_BP: Tensor) -> Tensor:
        """Return the mean cross entropy of the hidden patches' codes; 0 where none are hidden."""
        patch_BPD = x_BLD[:, 1 : self.config.network.image_tokens]
        return mean_nats(self.code_head(patch_BPD[hidden_BP]), code_BP[hidden_BP])

    def _image_vector(self, image_BID: Tensor, swap: Swap | None = None) -> Tensor:
        first_BD = self.network.high(image_BID, None, None, swap=swap)[:, 0]
        return F.normalize(self.image_projection(first_BD), dim=-1)

    def _text_vector(self, text_BLD: Tensor, real_BL: Tensor, swap: Swap | None = None) -> Tensor:
        first_BD = self.network.high(None, text_BLD, real_BL, swap=swap)[:, 0]
        return F.normalize(self.text_projection(first_BD), dim=-1)

    def _matched(self, x_BLD: Tensor) -> Tensor:
        image_BE = F.normalize(self.image_projection(x_BLD[:, 0]), dim=-1)
        text_BE = F.normalize(self.text_projection(x_BLD[:, self.config.network.image_tokens]), dim=-1)
        return self.matching_head(self._scale().detach() * image_BE * text_BE)

    def _scale(self) -> Tensor:
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def encode_image(self, image_BCHW: Tensor, swap: Swap | None = None) -> Tensor:
        """Return unit vectors ``(B, E)`` of prepared pictures, each read alone."""
        placed_BID = self.network.placed(self.network.seen(image_BCHW))
        return self._image_vector(self.network.low(placed_BID, None, None, swap), swap)

    def encode_text(self, text_BL: Tensor, swap: Swap | None = None) -> Tensor:
        """Return unit vectors ``(B, E)`` of token ids, each text read alone, from its first token."""
        real_BL = self.network.real(text_BL)
        return self._text_vector(self.network.low(None, self.network.read(text_BL), real_BL, swap), real_BL, swap)

    def match_logits(self, image_BCHW: Tensor, text_BL: Tensor, swap: Swap | None = None) -> Tensor:
        """Return logits ``(B, 2)`` of "this is not its text" and "it is", of pairs in the fusion.

        They are read from the product, number by number, of what the class token and the text's first token become in the
        joint space (a product as in Lu et al. 2019, section 3.1): so the fusion encoder begins as the dual encoder's judge,
        and learns from there what that one cannot see.
        """
        return self._matched(self.network(image_BCHW, text_BL, swap=swap))

    # What a person asks for.

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any], *, swap: Swap | None = None) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), E)`` of PIL images (``"image"``) or strings (``"text"``).

        ``swap`` lets experts do the work of others, to see what each has learnt.
        """
        if modality not in self.modalities:
            raise DataError(f"Experts embed {' and '.join(self.modalities)}, not {modality!r}.")
        self.must_have("contrast")
        if not inputs:
            return np.zeros((0, self.config.embed_dim), np.float32)
        with self.evaluating():
            encode = self.encode_image if modality == "image" else self.encode_text
            vectors = encode(self.prepared(modality, inputs), swap)
        return vectors.float().cpu().numpy()

    @torch.inference_mode()
    def match(self, images: Sequence[Image.Image], texts: Sequence[str], *, swap: Swap | None = None) -> np.ndarray:
        """Return how sure the fusion encoder is that each picture and its text belong together, 0 to 1, ``(B,)``.

        Raises:
            DataError: if there are not as many texts as pictures.
        """
        if len(images) != len(texts):
            raise DataError(f"Each picture needs a text to match, found {len(images)} and {len(texts)}.")
        self.must_have("matching")
        if not images:
            return np.zeros(0, np.float32)
        found = []
        with self.evaluating():
            for first in range(0, len(images), BATCH):
                part = slice(first, first + BATCH)
                image, text = self.prepared("image", images[part]), self.prepared("text", texts[part])
                found.append(self.match_logits(image, text, swap).float().softmax(-1)[:, 1])
        return torch.cat(found).cpu().numpy()

    def must_have(self, head: Head) -> None:
        """Check that the weights know a task.

        Raises:
            DataError: if they do not; published ones are of one task each.
        """
        if head not in self.config.heads:
            raise DataError(
                f"These experts were not trained for {head!r}, but for {', '.join(self.config.heads)}: use other weights."
            )

    def prepared(self, modality: str, inputs: Sequence[Any]) -> Tensor:
        """Return pictures or texts as the network takes them, on its device."""
        if modality == "image":
            return self.pictures(inputs)
        return self.tokenizer(inputs).to(self.device)

    def begun(self, image: Tensor) -> tuple[HoleStepper, Tensor]:
        """Return what writes captions of prepared pictures, and their first token, ``(B, 1)``."""
        self.must_have("words")
        network = self.network
        return HoleStepper(network, self.word_head, network.placed(network.seen(image))), self.first(image)

    @property
    def room(self) -> int:
        """The most tokens of a caption: all places but that of the first token."""
        return self.config.network.context_length - 1

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.config.network.eos_id

    @torch.no_grad()
    def looks_of(
        self, images: Sequence[Image.Image], texts: Sequence[str]
    ) -> tuple[list[tuple[Image.Image, list[str], np.ndarray]], tuple[int, int]]:
        """Return for each picture, as it is seen, the tokens of its text and where each looks, and the grid.

        The weights ``(tokens, patches)`` are the mean over the heads and the blocks with an expert for both (all, where
        there is none).
        """
        found = []
        with self.evaluating():
            picture = self.processors["image"]
            assert isinstance(picture, ImageProcessor)
            for image, said in zip(images, texts, strict=True):
                ids = self.prepared("text", [said])
                count = int(self.network.real(ids).sum())
                weights = self.network.weights(self.prepared("image", [image]), ids)
                looks = weights[0, -self.config.network.fusion_depth :].mean((0, 1))[1 : count - 1]
                words = [self.words(token.view(1)) for token in ids[0, 1 : count - 1]]
                found.append((picture.fitted(image), words, looks.float().cpu().numpy()))
        return found, self.config.network.grid

    def health(self) -> list[str]:
        """Warn of a fusion that tells no right text from a wrong one, and of a saturated temperature."""
        warnings = []
        if float(self._seen.get("told", 1.0)) < 0.55 and float(self._seen["contrastive"]) < 1.0:
            warnings.append(
                "The fusion encoder cannot tell right texts from hard wrong ones, though the dual encoder can: train "
                "longer, or raise matching_weight."
            )
        if float(self._seen.get("logit_scale", 0.0)) > 99.0:
            warnings.append("The temperature has reached its bound (scale 100): the pairs are fitted almost exactly.")
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step, forward and backward: see :meth:`loss` for what is read."""
        network = self.config.network
        alone = network.flops(network.image_tokens) + network.flops(network.context_length)
        return 3.0 * batch_size * (1.5 * alone + 3 * network.flops(network.image_tokens + network.context_length))

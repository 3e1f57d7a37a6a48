"""TrOCR: an image transformer looks at a line of text, and a text transformer writes it down (Li et al. 2021).

The encoder makes tokens of a picture, a ViT or DeiT of its patches, or (for small budgets) convolutions of strips from
left to right. The decoder predicts each token from those before it and, by cross-attention, from the picture. A page is
cut into lines first (:mod:`intermodal.data.page`); each is read by itself.

With ``ctc_weight`` the encoder says the text too, strip by strip (connectionist temporal classification; Kim et al. 2017):
that teaches small encoders where letters are, long before a decoder learns where to look.

Shapes: B lines, L tokens of a text, V that are known; S tokens of a picture, C their width, D the decoder's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.captioning import Captioning
from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.progress import Progress
from intermodal.core.reading import Line
from intermodal.core.registry import MethodCard
from intermodal.data.line_processor import LineProcessor
from intermodal.data.page import lines
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.decode.stepper import CrossStepper
from intermodal.losses.ctc import ctc_loss
from intermodal.losses.distances import precise
from intermodal.methods.base import Batch, Losses, generator_of, seeded
from intermodal.methods.writer import GREEDY, Writer
from intermodal.nn.line_encoder import LineConfig, LineEncoder
from intermodal.nn.linear import quicken
from intermodal.nn.reader import ReaderConfig, ReadingDecoder
from intermodal.nn.vit import VisionTransformer, ViTConfig

CARD = MethodCard(
    id="trocr",
    title="TrOCR: an image transformer looks, a text transformer writes down what it reads",
    paper="Li et al. 2021",
    cls="TrOCR",
    capabilities=("read",),
    recipes=("trocr",),
    reference="transformers VisionEncoderDecoderModel with TrOCRForCausalLM",
)


@dataclass(frozen=True, kw_only=True)
class TrOCRConfig(Config):
    """What a TrOCR is made of.

    Attributes:
        image: the encoder: a ViT with a class token (and perhaps a distillation token), all of whose tokens are read; or
            one for lines of any width.
        text: the decoder; its ``context_dim`` is the encoder's width, or its own where there is a projection.
        start_id: the token before every text.
        eos_id: the token that ends it.
        project: a linear layer between encoder and decoder.
        ctc_weight: of the loss of the encoder alone, from 0 to below 1; the decoder's has the rest.

    Raises:
        ConfigError: if a part does not fit the others.
    """

    image: ViTConfig | LineConfig
    text: ReaderConfig
    start_id: int = 2
    eos_id: int = 2
    project: bool = False
    ctc_weight: float = 0.0

    def __post_init__(self) -> None:
        wanted = self.text.width if self.project else self.image.width
        if self.text.context != wanted:
            raise ConfigError(
                f"TrOCR: the decoder reads tokens of width {self.text.context}, the encoder gives {wanted}: set "
                "text.context_dim, or project."
            )
        if isinstance(self.image, ViTConfig) and self.image.pool != "cls":
            raise ConfigError(f"TrOCR: a ViT with pool='cls' is needed, found {self.image.pool!r}.")
        if not 0 <= self.ctc_weight < 1 or max(self.start_id, self.eos_id) >= self.text.vocab_size:
            raise ConfigError("TrOCR: ctc_weight is from 0 to below 1, and start_id and eos_id are tokens.")


class TrOCR(Writer):
    """Encoder and decoder; see the module's text.

    Args:
        config: sizes and choices.
        processors: ``image`` and ``text``.
    """

    id = "trocr"
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture of a line of text"),
        "text": Field((), "str", "what it says"),
        "seed": SEED,
    }
    called = "Readings"
    doing = "reading"
    config: TrOCRConfig

    def __init__(self, config: TrOCRConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        if isinstance(config.image, ViTConfig):
            self.image: VisionTransformer | LineEncoder = VisionTransformer(config.image)
        else:
            self.image = LineEncoder(config.image)
        self.projection = nn.Linear(config.image.width, config.text.width) if config.project else nn.Identity()
        self.decoder = ReadingDecoder(config.text)
        if config.ctc_weight:
            self.ctc_head = nn.Linear(config.image.width, config.text.vocab_size)
        quicken(self)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return ``-log p(token | those before it, picture)``, the mean over all tokens but the first, ends included.

        With ``ctc_weight`` w: (1 - w) of it, and w of the encoder's own loss, per character.
        """
        text_BL, w = batch["text"], self.config.ctc_weight
        real_BL = self.text.real(text_BL)
        longest = int(real_BL.sum(1).max())
        text_BL, real_BL = text_BL[:, :longest], real_BL[:, :longest]
        token_BSC, seen_BS = self.tokens(batch["image"])
        with seeded(generator_of(batch)) if self._drops else nullcontext():
            hidden_BLD = self.decoder.hidden(text_BL[:, :-1], self.projection(token_BSC), seen_BS)
        logits_NV = self.decoder.logits(hidden_BLD[real_BL[:, 1:]])
        writing = F.cross_entropy(precise(logits_NV), text_BL[:, 1:][real_BL[:, 1:]])
        if not w:
            total, parts = writing, {"writing": writing.detach()}
        else:
            spelling = self._spelling(token_BSC, seen_BS, text_BL, real_BL)
            total, parts = (1 - w) * writing + w * spelling, {"writing": writing.detach(), "ctc": spelling.detach()}
        # --8<-- [end:loss]
        if self.training:
            self.keep_probe(batch["image"])
        return Losses(total, parts)

    @property
    def _drops(self) -> bool:
        """Whether the decoder draws at random now: then the batch's seeds decide."""
        return self.training and max(self.config.text.dropout, self.config.text.attention_dropout) > 0

    def _spelling(self, token_BSC: Tensor, seen_BS: Tensor | None, text_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Return the encoder's own loss per character; the start token is the blank, ends are left out."""
        logits_BSV = precise(self.ctc_head(token_BSC))
        length_B = real_BL.sum(1) - 2
        frames_B = torch.full_like(length_B, token_BSC.shape[1]) if seen_BS is None else seen_BS.sum(1)
        found = ctc_loss(logits_BSV, frames_B, text_BL[:, 1:], length_B, blank=self.config.start_id)
        return found.loss_B.sum() / (length_B * ~found.infinite_B).sum().clamp(min=1)

    # --8<-- [start:see]
    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's tokens (B, S, C) of prepared pictures, and which may be read, bool (B, S); None for all."""
        if isinstance(self.image, LineEncoder):
            found: tuple[Tensor, Tensor] = self.image(image)
            return found
        return self.image.post_norm(self.image(image)[1]), None

    def logits(self, image: Tensor, text_BL: Tensor) -> Tensor:
        """Return logits (B, L, V) of the token after each one of texts, given pictures."""
        token_BSC, seen_BS = self.tokens(image)
        return self.decoder.logits(self.decoder.hidden(text_BL, self.projection(token_BSC), seen_BS))

    # --8<-- [end:see]

    def begun(self, image: Tensor) -> tuple[CrossStepper, Tensor]:
        """Return what goes on with the texts of prepared pictures, and their start."""
        token_BSC, seen_BS = self.tokens(image)
        stepper = CrossStepper(self.decoder, self.projection(token_BSC), self.config.text.context_length, seen_BS)
        return stepper, torch.full((len(image), 1), self.config.start_id, device=self.device)

    @property
    def room(self) -> int:
        """The most tokens of a text, its end included."""
        return self.config.text.context_length - 1

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return self.config.eos_id

    @property
    def text(self) -> SentenceProcessor:
        """The processor of texts.

        Raises:
            ConfigError: if there is none.
        """
        processor = self.processors.get("text")
        if not isinstance(processor, SentenceProcessor):
            raise ConfigError("This reader has no tokenizer: load it with one to write text.")
        return processor

    def words(self, tokens_N: Tensor) -> str:
        """Return the text of token ids."""
        return self.text.decode_each([tokens_N])[0].strip()

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pictures of lines as the network takes them, on its device and in its type."""
        processor = self.processors["image"]
        if not isinstance(processor, LineProcessor):
            return super().pictures(images)
        return processor.together(list(images)).to(self.device, next(self.parameters()).dtype)

    @torch.no_grad()
    def read(
        self,
        images: Sequence[Image.Image],
        settings: Captioning | None = None,
        *,
        cut: bool = True,
        watch: Progress | None = None,
    ) -> list[list[Line]]:
        """Return the lines of each picture, from top to bottom; none of a blank page.

        Args:
            images: PIL images of any size and mode.
            settings: beam and so on; greedy by default.
            cut: pictures are pages, to be cut into lines; else each is a line, read whole.
            watch: told how far it is.
        """
        boxes = [lines(image) if cut else [(0, 0, image.width, image.height)] for image in images]
        places = [(page, box) for page, found in enumerate(boxes) for box in found]
        # Lines of like width are read together; the result does not depend on it.
        order = sorted(range(len(places)), key=lambda i: (places[i][1][2] - places[i][1][0]) / _height(places[i][1]))
        crops = [images[places[i][0]].crop(places[i][1]) for i in order]
        made = dict(zip(order, self.write(crops, settings or GREEDY, watch=watch), strict=True))
        pages: list[list[Line]] = [[] for _ in images]
        for number, (page, box) in enumerate(places):
            said = made[number]
            pages[page].append(Line(said.text, box, said.log_prob, said.ended))
        return pages

    @torch.no_grad()
    def spelled(self, images: Sequence[Image.Image]) -> list[str]:
        """Return what the encoder alone says of each line: its likeliest symbols, repeats merged, blanks left out.

        Raises:
            ConfigError: if it was not taught to.
        """
        if not self.config.ctc_weight:
            raise ConfigError("The encoder of this model was not taught to spell: it has no ctc_weight.")
        token_BSC, seen_BS = self.tokens(self.pictures(images))
        best_BS = self.ctc_head(token_BSC).argmax(-1)
        found = []
        for row_S, seen_S in zip(best_BS, torch.ones_like(best_BS) if seen_BS is None else seen_BS, strict=True):
            merged = torch.unique_consecutive(row_S[seen_S.bool()])
            found.append(self.words(merged[merged != self.config.start_id]))
        return found

    @torch.no_grad()
    def looks_of(self, image: Image.Image) -> tuple[Image.Image, list[str], np.ndarray]:
        """Return a line as it is seen, the tokens that are read, and where the decoder looked for each.

        The last are float32 ``(tokens, rows, columns)``: the mean over heads and blocks of the weights with which the
        picture's places were read when the token was chosen; what a class token got is left out.
        """
        prepared = self.pictures([image])
        ids = self.text.encode(self.write_prepared(prepared)[0].text).to(self.device)
        ids = ids[: int(self.text.real(ids.unsqueeze(0)).sum())]
        token_BSC, _ = self.tokens(prepared)
        weight_LS = self.decoder.weights(ids[None, :-1], self.projection(token_BSC))[0].mean((0, 1))
        config = self.config.image
        grid = config.grid if isinstance(config, ViTConfig) else (1, weight_LS.shape[1])
        weight_LS = weight_LS[:, config.extra :] if isinstance(config, ViTConfig) else weight_LS
        said = [self.text.tokenizer.decode([int(i)]) for i in ids[1:-1]]
        fitted: Any = self.processors["image"]
        return fitted.fitted(image), said, weight_LS[: len(said)].unflatten(1, grid).float().cpu().numpy()

    def health(self) -> list[str]:
        """Warn of a decoder that looks at the words before alone."""
        return self.repeating()

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step with the widest lines and texts of half the most length."""
        config = self.config
        tokens = config.image.tokens
        return 3.0 * batch_size * (config.image.flops() + config.text.flops(config.text.context_length // 2, tokens))


def _height(box: tuple[int, int, int, int]) -> int:
    return box[3] - box[1]

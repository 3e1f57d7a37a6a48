"""TrOCR: an image transformer looks at a line of text, and a text transformer writes it down (Li et al. 2021).

The encoder makes tokens of a picture, a ViT or DeiT of its patches, or (for small budgets) convolutions of strips from
left to right. The decoder predicts each token from those before it and, by cross-attention, from the picture. A page is
cut into lines first (:mod:`intermodal.data.page`); each is read by itself.

With ``ctc_weight`` the encoder says the text too, strip by strip (connectionist temporal classification; Kim et al. 2017):
that teaches small encoders where letters are, long before a decoder learns where to look. With ``joint`` a beam weighs what
the encoder says beside what the decoder does (Watanabe et al. 2017).

Shapes: B lines, L tokens of a text, V that are known, N of a batch; S tokens of a picture, C their width, D the decoder's.
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

from intermodal.core.captioning import Caption, Captioning
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
from intermodal.decode.ctc_prefix import PrefixStepper
from intermodal.decode.stepper import CrossStepper
from intermodal.losses.ctc import ctc_loss
from intermodal.losses.distances import precise
from intermodal.methods.base import Batch, Losses, generator_of, seeded
from intermodal.methods.writer import GREEDY, Writer
from intermodal.nn.line_encoder import LineConfig, LineEncoder
from intermodal.nn.linear import quicken
from intermodal.nn.reader import ReaderConfig, ReadingDecoder
from intermodal.nn.vit import VisionTransformer, ViTConfig

STEP = 4
"""Texts are filled up to a multiple of so many tokens behind their start."""
NOTHING = -100
"""Stands where no token is wanted."""
BEAM = 4
"""Hypotheses of a reader that joins encoder and decoder."""

CARD = MethodCard(
    id="trocr",
    title="TrOCR: an image transformer looks, a text transformer writes down what it reads",
    paper="Li et al. 2021",
    cls="TrOCR",
    capabilities=("read",),
    recipes=("trocr", "trocr-ctc"),
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
        ctc_weight: of the loss of the encoder alone, from 0 to 1; the decoder's has the rest. With 1 there is no decoder:
            what the encoder says is what is read.
        joint: a beam's weight of what the encoder spells, from 0 to 1; 0 for the decoder alone.
        hidden: this share of the tokens that the decoder reads while training, the start aside, is ``unknown_id`` in
            their place, so that it has to look.
        unknown_id: the token that stands for what is hidden; None where nothing is.
        usual_length: tokens of a usual text. A loss is then divided by it and the lines of the batch, so that a token of a
            long line counts as much as one of a short line (batches are of lines of like length); None divides by the
            batch's own tokens.

    Raises:
        ConfigError: if a part does not fit the others.
    """

    image: ViTConfig | LineConfig
    text: ReaderConfig
    start_id: int = 2
    eos_id: int = 2
    project: bool = False
    ctc_weight: float = 0.0
    joint: float = 0.0
    hidden: float = 0.0
    unknown_id: int | None = None
    usual_length: float | None = None

    def __post_init__(self) -> None:
        wanted = self.text.width if self.project else self.image.width
        if self.text.context != wanted:
            raise ConfigError(
                f"TrOCR: the decoder reads tokens of width {self.text.context}, the encoder gives {wanted}: set "
                "text.context_dim, or project."
            )
        if isinstance(self.image, ViTConfig) and self.image.pool != "cls":
            raise ConfigError(f"TrOCR: a ViT with pool='cls' is needed, found {self.image.pool!r}.")
        if not 0 <= self.ctc_weight <= 1 or max(self.start_id, self.eos_id) >= self.text.vocab_size:
            raise ConfigError("TrOCR: ctc_weight is from 0 to 1, and start_id and eos_id are tokens.")
        if not (0 <= self.joint <= 1 and 0 <= self.hidden < 1) or (self.usual_length or 1.0) <= 0:
            raise ConfigError("TrOCR: joint is from 0 to 1, hidden from 0 to below 1, and usual_length above 0.")
        if self.joint and not self.ctc_weight:
            raise ConfigError("TrOCR: joint needs an encoder that learns to spell: set ctc_weight.")
        if self.hidden and self.unknown_id is None:
            raise ConfigError("TrOCR: to hide tokens, say which one stands in their place: set unknown_id.")


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
        if config.ctc_weight < 1:
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
        longest += -(longest - 1) % STEP  # kernels are built anew for every length that they meet
        text_BL, real_BL = text_BL[:, :longest], real_BL[:, :longest]
        token_BSC, seen_BS = self.tokens(batch["image"])
        total, parts = torch.zeros((), device=text_BL.device), {}
        if w < 1:
            writing = self._writing(token_BSC, seen_BS, text_BL, real_BL, batch)
            total, parts["writing"] = (1 - w) * writing, writing.detach()
        if w:
            spelling = self._spelling(token_BSC, seen_BS, text_BL, real_BL)
            total, parts["ctc"] = total + w * spelling, spelling.detach()
        # --8<-- [end:loss]
        if self.training:
            self.keep_probe(batch["image"])
        return Losses(total, parts)

    def _writing(
        self, token_BSC: Tensor, seen_BS: Tensor | None, text_BL: Tensor, real_BL: Tensor, batch: Batch
    ) -> Tensor:
        """Return the decoder's loss per token; the batch's seeds decide what is drawn."""
        read_BL, generator = text_BL[:, :-1], generator_of(batch) if self._draws else None
        if generator is not None and self.config.hidden:
            hidden_BL = torch.rand(read_BL.shape, generator=generator).to(read_BL.device) < self.config.hidden
            hidden_BL[:, 0] = False
            read_BL = read_BL.masked_fill(hidden_BL, self.config.unknown_id or 0)
        with nullcontext() if generator is None else seeded(generator):
            hidden_BLD = self.decoder.hidden(read_BL, self.projection(token_BSC), seen_BS)
        wanted_BL = text_BL[:, 1:].masked_fill(~real_BL[:, 1:], NOTHING)
        logits_NV = precise(self.decoder.logits(hidden_BLD)).flatten(0, 1)
        found = F.cross_entropy(logits_NV, wanted_BL.flatten(), ignore_index=NOTHING, reduction="sum")
        return found / self._share(len(text_BL), real_BL[:, 1:].sum())

    @property
    def _draws(self) -> bool:
        """Whether the decoder draws at random now."""
        config = self.config
        return self.training and max(config.text.dropout, config.text.attention_dropout, config.hidden) > 0

    def _spelling(self, token_BSC: Tensor, seen_BS: Tensor | None, text_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Return the encoder's own loss per character; the start token is the blank, ends are left out."""
        logits_BSV = precise(self.ctc_head(token_BSC))
        length_B = real_BL.sum(1) - 2
        frames_B = torch.full_like(length_B, logits_BSV.shape[1]) if seen_BS is None else seen_BS.sum(1)
        found = ctc_loss(logits_BSV, frames_B, text_BL[:, 1:], length_B, blank=self.config.start_id)
        return found.loss_B.sum() / self._share(len(text_BL), (length_B * ~found.infinite_B).sum())

    def _share(self, lines: int, tokens: Tensor) -> Tensor:
        """Return what a batch's summed loss is divided by; see ``usual_length``."""
        usual = self.config.usual_length
        return tokens.clamp(min=1) if usual is None else torch.full_like(tokens, 1) * usual * lines

    # --8<-- [start:see]
    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the encoder's tokens (B, S, C) of prepared pictures, and which may be read, bool (B, S); None for all."""
        if isinstance(self.image, LineEncoder):
            found: tuple[Tensor, Tensor] = self.image(image)
            return found
        return self.image.post_norm(self.image(image)[1]), None

    def spelling(self, token_BSC: Tensor) -> Tensor:
        """Return log-probabilities (B, S, V) of what each of the encoder's tokens says; the start token is the blank."""
        return precise(self.ctc_head(token_BSC)).log_softmax(-1)

    def logits(self, image: Tensor, text_BL: Tensor) -> Tensor:
        """Return logits (B, L, V) of the token after each one of texts, given pictures."""
        token_BSC, seen_BS = self.tokens(image)
        return self.decoder.logits(self.decoder.hidden(text_BL, self.projection(token_BSC), seen_BS))

    # --8<-- [end:see]

    def begun(self, image: Tensor) -> tuple[CrossStepper, Tensor]:
        """Return what goes on with the texts of prepared pictures, and their start."""
        return self._after(*self.tokens(image))

    def _after(self, token_BSC: Tensor, seen_BS: Tensor | None) -> tuple[CrossStepper, Tensor]:
        read_BSC = self.projection(token_BSC)
        stepper = CrossStepper(self.decoder, read_BSC, self.config.text.context_length, seen_BS)
        return stepper, torch.full((len(read_BSC), 1), self.config.start_id, device=self.device)

    @torch.no_grad()
    def write_prepared(self, image: Tensor, settings: Captioning = GREEDY) -> list[Caption]:
        """Return one text for each prepared picture; with a beam and ``joint``, by encoder and decoder together.

        Raises:
            ConfigError: if it is asked for a beam or to draw, and there is no decoder.
        """
        config, (token_BSC, seen_BS) = self.config, self.tokens(image)
        if config.ctc_weight == 1:
            if settings.beam > 1 or settings.temperature > 0:
                raise ConfigError("This reader has no decoder: it neither searches nor draws. Ask for no beam.")
            return self._spelled(token_BSC, seen_BS)
        beside = None
        if settings.beam > 1 and config.joint:
            frames_B = None if seen_BS is None else seen_BS.sum(1)
            beside = PrefixStepper(self.spelling(token_BSC), config.start_id, config.eos_id, frames_B)
        return self.written(*self._after(token_BSC, seen_BS), settings, beside=beside, weight=config.joint)

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

    @property
    def reading(self) -> Captioning:
        """With ``joint`` a beam of four, which encoder and decoder share; else greedily."""
        return Captioning(beam=BEAM) if self.config.joint else GREEDY

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
            settings: beam and so on; :attr:`reading` by default.
            cut: pictures are pages, to be cut into lines; else each is a line, read whole.
            watch: told how far it is.
        """
        boxes = [lines(image) if cut else [(0, 0, image.width, image.height)] for image in images]
        places = [(page, box) for page, found in enumerate(boxes) for box in found]
        # Lines of like width are read together; the result does not depend on it.
        order = sorted(range(len(places)), key=lambda i: (places[i][1][2] - places[i][1][0]) / _height(places[i][1]))
        crops = [images[places[i][0]].crop(places[i][1]) for i in order]
        made = dict(zip(order, self.write(crops, settings or self.reading, watch=watch), strict=True))
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
        return [said.text for said in self._spelled(*self.tokens(self.pictures(images)))]

    def _spelled(self, token_BSC: Tensor, seen_BS: Tensor | None) -> list[Caption]:
        best = self.spelling(token_BSC).max(-1)
        found = []
        for row, (symbol_S, log_prob_S) in enumerate(zip(best.indices, best.values, strict=True)):
            own_S = slice(None) if seen_BS is None else seen_BS[row]
            merged = torch.unique_consecutive(symbol_S[own_S])
            said = merged[merged != self.config.start_id]
            found.append(Caption(self.words(said), float(log_prob_S[own_S].sum()), len(said)))
        return found

    @torch.no_grad()
    def looks_of(self, image: Image.Image) -> tuple[Image.Image, list[str], np.ndarray]:
        """Return a line as it is seen, the tokens that are read, and where the decoder looked for each.

        The last are float32 ``(tokens, rows, columns)``: the mean over heads and blocks of the weights with which the
        picture's places were read when the token was chosen; what a class token got is left out.

        Raises:
            ConfigError: if there is no decoder.
        """
        if self.config.ctc_weight == 1:
            raise ConfigError("This reader has no decoder that looks at places.")
        prepared = self.pictures([image])
        ids = self.text.encode(self.write_prepared(prepared)[0].text).to(self.device)
        ids = ids[: int(self.text.real(ids.unsqueeze(0)).sum())]
        token_BSC, seen_BS = self.tokens(prepared)
        weight_LS = self.decoder.looked(ids[None, :-1], self.projection(token_BSC), seen_BS)[1][0].mean((0, 1))
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
        writes = config.text.flops(config.text.context_length // 2, config.image.tokens) if config.ctc_weight < 1 else 0
        return 3.0 * batch_size * (config.image.flops() + writes)


def _height(box: tuple[int, int, int, int]) -> int:
    return box[3] - box[1]

"""LLaVA: the places of a picture as words that a language decoder reads (Liu et al. 2023; Liu et al. 2024 for version 1.5).

A tower that was trained with texts (CLIP's) turns a picture into a vector for each place; a projector turns those into what
the decoder reads in the place of tokens. A chat is one sequence, a picture so many tokens of it wherever it is shown. The
decoder learns to write the answers; questions are read only.

Training has two stages. In the first, the projector alone learns to speak the decoder's language; in the second, projector
and decoder learn to answer. The tower stays as it is, or learns in the second stage too (Li et al. 2024, LLaVA-OneVision).

Shapes: B chats, N pictures, P places of a picture, D width of a place, L tokens, E the decoder's width, V tokens that there
are, M tokens of a batch that are to be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.chat import Turn
from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.chat import FORMAT, WRITTEN, ChatFormat, ChatProcessor, with_picture_token
from intermodal.data.processors import Processor
from intermodal.decode.stepper import TransformerStepper
from intermodal.losses.distances import precise
from intermodal.methods.base import Batch, Losses, Phase
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.methods.contrastive.clip import CLIP
from intermodal.methods.vision_language.chatting import Chatting
from intermodal.nn import tower as towers
from intermodal.nn.linear import quicken
from intermodal.nn.resnet import ModifiedResNet, ResNetConfig
from intermodal.nn.vit import VisionTransformer, ViTConfig

CARD = MethodCard(
    id="llava",
    title="LLaVA: a chat about pictures, whose places a language decoder reads as words",
    paper="Liu et al. 2023; Liu et al. 2024",
    cls="LLaVA",
    capabilities=("caption", "answer"),
    recipes=("llava", "llava-text", "llava-flickr"),
    reference="transformers LlavaForConditionalGeneration",
)


@dataclass(frozen=True, kw_only=True)
class LLaVAConfig(Config):
    """What a LLaVA is made of.

    Attributes:
        tower: of pictures.
        language: the decoder.
        image_id: the token that stands for a place of a picture.
        layers: of the tower, whose places are read, side by side if several: -2 is the last but one.
        whole: the class token is read too.
        projector: ``linear`` (LLaVA) or ``mlp``, two layers with GELU between (1.5).
        bias: the projector has biases.
        stage: 1 trains the projector alone, 2 the decoder too.
        tuned: the tower learns in stage 2, up to the layer that is read; norms over batches keep their statistics.
        describe: what is asked where a caption is wanted.

    Raises:
        ConfigError: if the tower has no such layer, or the decoder no such token.
    """

    tower: ViTConfig | ResNetConfig
    language: LanguageConfig
    image_id: int
    layers: tuple[int, ...] = (-2,)
    whole: bool = False
    projector: Literal["linear", "mlp"] = "mlp"
    bias: bool = True
    stage: Literal[1, 2] = 2
    tuned: bool = False
    describe: str = "What is this?"

    def __post_init__(self) -> None:
        towers.chosen(self.tower, self.layers)
        if not 0 <= self.image_id < self.language.network.vocab_size:
            raise ConfigError(f"The decoder has no token {self.image_id} to stand for a picture.")

    @property
    def patches(self) -> int:
        """P, the tokens that a picture takes."""
        rows, columns = towers.grid(self.tower, self.layers)
        return rows * columns + (self.whole and isinstance(self.tower, ViTConfig))


class LLaVA(Chatting):
    """A picture's tower, a projector and a language decoder; see the module's text.

    Args:
        config: sizes and choices.
        processors: ``image`` and ``chat``; none for the network alone.
    """

    id = "llava"
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "chat": Field((), "chat", "questions about it, with answers"),
    }
    config: LLaVAConfig

    def __init__(self, config: LLaVAConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        vision = isinstance(config.tower, ViTConfig)
        self.tower = VisionTransformer(config.tower) if vision else ModifiedResNet(config.tower)  # type: ignore[arg-type]
        self.language = LanguageDecoder(config.language, {"text": processors["chat"]} if "chat" in processors else {})
        seen, width = towers.width(config.tower, config.layers), config.language.network.width
        self.projector: nn.Module = nn.Linear(seen, width, bias=config.bias)
        if config.projector == "mlp":
            self.projector = nn.Sequential(self.projector, nn.GELU(), nn.Linear(width, width, bias=config.bias))
        quicken(self.tower)
        quicken(self.projector)
        self.blind = False
        self.requires_grad_(True)

    @classmethod
    def over(
        cls, clip: CLIP, language: LanguageDecoder, *, length: int, form: ChatFormat = FORMAT, **settings: Any
    ) -> Self:
        """Return a LLaVA of a CLIP's tower and a language decoder, whose weights are copied; a token is added for pictures.

        Args:
            clip: whose pictures' tower sees.
            language: what writes.
            length: the longest chat of training in tokens, those of pictures included.
            form: the frame of a chat.
            settings: the other attributes of the configuration.

        Raises:
            ConfigError: if one lacks its processors, or the decoder cannot hold a chat of this length.
        """
        if "image" not in clip.processors:
            raise ConfigError("The CLIP has no processors: load it with that of its pictures.")
        network = language.config.network
        if length > network.context_length:
            raise ConfigError(f"A chat of {length} tokens does not fit a decoder of {network.context_length} places.")
        tokenizer, image_id = with_picture_token(language.text.tokenizer)
        grown = max(network.vocab_size, tokenizer.get_vocab_size())
        config = LLaVAConfig(
            tower=clip.config.image,
            language=language.config.replace(network=network.replace(vocab_size=grown)),
            image_id=image_id,
            **settings,
        )
        chat = ChatProcessor.over(language.text, length, config.patches, image_id, form)
        chat.tokenizer = tokenizer
        model = cls(config, {"image": clip.processors["image"], "chat": chat})
        model.tower.load_state_dict(clip.image.state_dict())
        mine, theirs = model.language.state_dict(), language.state_dict()
        for name, value in theirs.items():  # only the table of tokens has grown
            mine[name][: len(value)] = value
        return model

    def phases(self) -> tuple[Phase, ...]:
        """Return the descent of this stage: of the projector, in the second of the decoder too, and a tuned tower."""
        config = self.config
        trains = ("projector.",) if config.stage == 1 else ("projector.", "language.")
        return (Phase(trains=(*trains, "tower.") if config.stage == 2 and config.tuned else trains),)

    def layers_above(self, parameter: str) -> int:
        """Return how many parts stand between a parameter and the answers, for the decay of the learning rate by layers."""
        return int(parameter.startswith("tower."))

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of what this stage trains; the rest stays frozen."""
        super().requires_grad_(requires_grad)
        idle = tuple(f"tower.{name}" for name in towers.idle(self.tower, self.config.layers))
        for name, parameter in self.named_parameters():
            if name.startswith(idle) or not name.startswith(self.phases()[0].trains):
                parameter.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode for what is learnt; the tower, and in stage 1 the decoder, stay as they were trained."""
        super().train(mode)
        self.tower.eval()
        if self.config.stage == 1:
            self.language.eval()
        return self

    # --8<-- [start:see]
    def see(self, image_NCHW: Tensor) -> Tensor:
        """Return prepared pictures as the decoder reads them, ``(N, P, E)`` (Liu 2023, equation 1)."""
        config = self.config
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in self.tower.parameters())):
            places_NPD = towers.places(self.tower, image_NCHW, config.layers, whole=config.whole)
        seen_NPE: Tensor = self.projector(places_NPD)
        return seen_NPE * 0 if self.blind else seen_NPE

    def mixed(self, ids_BL: Tensor, seen_NPE: Tensor | None) -> Tensor:
        """Return the vectors of chats, ``(B, L, E)``: pictures stand where the token of pictures does, in their order.

        Raises:
            DataError: if there are not as many places for pictures as pictures have.
        """
        x_BLE = self.language.network.embed(ids_BL)
        place_BL = ids_BL == self.config.image_id
        count = 0 if seen_NPE is None else seen_NPE.shape[0] * seen_NPE.shape[1]
        if int(place_BL.sum()) != count:
            raise DataError(f"Chats have {int(place_BL.sum())} tokens for pictures, the pictures {count} places.")
        if seen_NPE is None:
            return x_BLE
        return x_BLE.masked_scatter(place_BL.unsqueeze(-1), seen_NPE.to(x_BLE.dtype))

    # --8<-- [end:see]

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean of ``-log p(token | all before it)`` over the answers' tokens, in nats (Liu 2023, equation 2)."""
        logits_MV, target_M = self.predicted(batch["image"], batch["chat"])
        total = F.cross_entropy(precise(logits_MV), target_M)
        return Losses(total, {"right": (logits_MV.argmax(1) == target_M).float().mean()})

    def predicted(self, image: Tensor, chat_B2L: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(M, V)`` and the M tokens of answers that they predict.

        Args:
            image: a prepared picture a chat, ``(B, 3, H, W)``, or as many as each shows, ``(B, K, 3, H, W)``. Chats
                without the token of a picture do not see theirs.
            chat_B2L: encoded chats.
        """
        longest = int((chat_B2L[:, 1] > 0).sum(1).max())
        ids_BL, kind_BL = chat_B2L[:, 0, :longest], chat_B2L[:, 1, :longest]
        image = image[((ids_BL == self.config.image_id) & (kind_BL > 0)).any(1)]
        seen = self.see(image.flatten(0, -4) if image.dim() > 4 else image) if len(image) else None
        hidden_BLE = self.language.network.hidden(self.mixed(ids_BL, seen)[:, :-1])
        kept_BL = kind_BL[:, 1:] == WRITTEN
        return self.language.network.logits(hidden_BLE[kept_BL]), ids_BL[:, 1:][kept_BL]

    # --8<-- [end:loss]

    def begun(self, image: Tensor) -> tuple[TransformerStepper, Tensor]:
        """Return what goes on with captions of prepared pictures: with answers to the question what each is."""
        ids = self.chats.chat([Turn(self.config.describe, None, (None,))])[0]  # type: ignore[arg-type]
        ids_BL = torch.tensor([ids] * len(image), device=image.device)
        return TransformerStepper(self.language.network), self.mixed(ids_BL, self.see(image))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's places."""
        return towers.grid(self.config.tower, self.config.layers)

    @property
    def describe(self) -> str:
        """What is asked where a caption is wanted."""
        return self.config.describe

    @contextmanager
    def sightless(self) -> Iterator[None]:
        """Read zeros in the place of pictures: what is answered then is known from the questions alone."""
        self.blind = True
        try:
            yield
        finally:
            self.blind = False

    def train_flops(self, batch_size: int) -> float:
        """Return 0: the work of a step depends on how many tokens its chats hold."""
        del batch_size
        return 0.0

"""What captioners that go on from a joint space share: a CLIP that stays as it is, and a language decoder that writes.

It is no method and has no card. Both travel inside the captioner's checkpoint.

Shapes: B pictures or texts, D the joint space, P vectors of a prefix, E the decoder's width, L tokens, V that are known, N
tokens that are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.decode.stepper import TransformerStepper
from intermodal.losses.distances import precise
from intermodal.methods.base import Method
from intermodal.methods.captioning.captioner import Captioner
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig


@dataclass(frozen=True, kw_only=True)
class JointConfig(Config):
    """What a captioner from a joint space is made of.

    Attributes:
        clip: the frozen CLIP.
        language: the language decoder.
    """

    clip: CLIPConfig
    language: LanguageConfig


class JointCaptioner(Captioner):
    """A frozen CLIP and a language decoder; a subclass says how the one tells the other what it sees.

    Args:
        config: both.
        processors: ``image`` and ``read``, the pictures and the texts of the CLIP, and ``text``, those of the decoder.
    """

    frozen: tuple[str, ...] = ("clip",)
    """Parts that stay as they are."""
    config: JointConfig

    def __init__(self, config: JointConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.clip = CLIP(config.clip, {"image": processors["image"], "text": processors["read"]})
        self.language = LanguageDecoder(config.language, {"text": processors["text"]})

    @classmethod
    def over(cls, clip: CLIP, language: LanguageDecoder, *, length: int, **settings: Any) -> Self:
        """Return a captioner of a CLIP and a language decoder, whose weights are copied.

        Args:
            clip: what is seen.
            language: what writes.
            length: the longest caption in tokens, what frames it included.
            settings: the other attributes of the configuration.

        Raises:
            ConfigError: if one lacks its processors, or the decoder cannot hold a caption of this length with what stands
                before it.
        """
        if not {"image", "text"} <= set(clip.processors):
            raise ConfigError("The CLIP has no processors: load it with those of its pictures and texts.")
        found = language.text
        text = SentenceProcessor(
            found.tokenizer,
            context_length=length,
            eos_id=found.eos_id,
            pad_id=found.pad_id,
            bos_id=found.bos_id,
            lower=found.lower,
        )
        config = cls.configuration(clip=clip.config, language=language.config, **settings)
        model = cls(config, {"image": clip.processors["image"], "read": clip.processors["text"], "text": text})
        most = language.config.network.context_length
        if length < 2 or length + model.before > most:
            raise ConfigError(
                f"A caption of {length} tokens with {model.before} vectors before it does not fit a decoder of {most} "
                "places."
            )
        model.clip.load_state_dict(clip.state_dict())
        model.language.load_state_dict(language.state_dict())
        return model.requires_grad_(True)

    @classmethod
    def configuration(cls, **settings: Any) -> JointConfig:
        """Return the configuration of these settings; a subclass has more of them."""
        return JointConfig(**settings)

    @property
    def before(self) -> int:
        """P, the vectors that stand before a caption."""
        return 0

    @property
    def writes(self) -> SentenceProcessor:
        """The processor of what is written."""
        processor = self.processors["text"]
        assert isinstance(processor, SentenceProcessor)
        return processor

    @property
    def room(self) -> int:
        """The most tokens of a caption, its end included."""
        return self.writes.context_length - (self.writes.bos_id is not None)

    @property
    def end(self) -> int:
        """The token that ends a caption."""
        return self.writes.eos_id

    def words(self, tokens_N: Tensor) -> str:
        """Return the text of token ids."""
        return self.writes.decode_each([tokens_N], self.config.language.ends)[0].strip()

    def see(self, image_BCHW: Tensor) -> Tensor:
        """Return unit vectors ``(B, D)`` of prepared pictures."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "clip" not in self.frozen):
            return self.clip.encode_image(image_BCHW)

    def prompt(self, prefix_BPE: Tensor) -> Tensor:
        """Return what stands before a caption: the prefix, and the token that begins a sentence, where there is one."""
        if (bos := self.writes.bos_id) is None:
            return prefix_BPE
        begin_E = self.language.network.embed(torch.tensor(bos, device=prefix_BPE.device))
        return torch.cat([prefix_BPE, begin_E.to(prefix_BPE.dtype).expand(len(prefix_BPE), 1, -1)], 1)

    def after(self, prefix_BPE: Tensor) -> tuple[TransformerStepper, Tensor]:
        """Return what goes on with captions after prefixes, and what it reads first."""
        return TransformerStepper(self.language.network), self.prompt(prefix_BPE)

    # --8<-- [start:predicted]
    def predicted(self, prefix_BPE: Tensor, text_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, V)`` and the N tokens of encoded captions that they predict, each from all before it."""
        begins = int(self.writes.bos_id is not None)
        real_BL = self.writes.real(text_BL)
        longest = int(real_BL.sum(1).max())
        text_BL, real_BL = text_BL[:, :longest], real_BL[:, :longest]
        words_BLE = self.language.network.embed(text_BL[:, begins:-1]).to(prefix_BPE.dtype)
        hidden = self.language.network.hidden(torch.cat([self.prompt(prefix_BPE), words_BLE], 1))
        kept_BL, first = real_BL[:, begins:], prefix_BPE.shape[1] + begins - 1
        return self.language.network.logits(hidden[:, first:][kept_BL]), text_BL[:, begins:][kept_BL]

    # --8<-- [end:predicted]

    def nats(self, prefix_BPE: Tensor, text_BL: Tensor) -> Tensor:
        """Return the mean of ``-log p(token | prefix, tokens before)`` over the captions' tokens, ends included."""
        logits_NV, target_N = self.predicted(prefix_BPE, text_BL)
        return F.cross_entropy(precise(logits_NV), target_N)

    def health(self) -> list[str]:
        """Warn of captions that repeat."""
        return self.repeating()

    def train(self, mode: bool = True) -> Self:
        """Set training mode for what is learnt; what is frozen stays as it was trained."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of what is learnt; what is frozen stays frozen."""
        super().requires_grad_(requires_grad)
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)
        return self

    def train_flops(self, batch_size: int) -> float:
        """Return 0: the work of a step depends on how many tokens its captions hold."""
        del batch_size
        return 0.0


def check_clip(found: Method, path: object) -> CLIP:
    """Return a loaded model as a CLIP.

    Raises:
        ConfigError: if it is none.
    """
    if not isinstance(found, CLIP):
        raise ConfigError(f"{path} holds the method {found.id!r}: a captioner from a joint space needs a clip.")
    return found

"""What a generator of pictures knows of a text: any text encoder of the library, as tokens and one vector.

The encoder is frozen (the text tower of a trained CLIP, or a BERT), or trained together with the generator. Either way it
travels inside the generator's checkpoint.

B batch   L tokens   E width of the encoder
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.drawing import MOST_PROMPT, MOST_SEED
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.processors import Processor
from intermodal.methods.base import Method
from intermodal.methods.contrastive.bert import BERT
from intermodal.methods.contrastive.clip import CLIP
from intermodal.nn.bert import BERTEncoder, EncoderConfig
from intermodal.nn.text import TextConfig, TextTransformer

TEXT = Field((), "str", "a text that describes the picture")


class TextCondition(NamedTuple):
    """Texts as a network is told them; a condition of a Denoiser.

    Attributes:
        tokens: ``(B, L, E)``.
        mask: bool ``(B, L)``, True where a token is to be read; at least one in each text.
        pooled: ``(B, E)``, the whole text.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Config):
    """An encoder of texts.

    Attributes:
        tower: CLIP's text transformer or BERT's encoder.
        frozen: keep it as it was trained; otherwise it learns with the generator.
    """

    tower: TextConfig | EncoderConfig
    frozen: bool = True


class TextEncoder(nn.Module):
    """A text encoder, as :class:`TextCondition`.

    Args:
        config: the tower, and whether it is frozen.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = (
            BERTEncoder(config.tower) if isinstance(config.tower, EncoderConfig) else TextTransformer(config.tower)
        )
        if config.frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but of a frozen encoder, which stays as it was trained."""
        return super().train(mode and not self.config.frozen)

    @property
    def width(self) -> int:
        """E."""
        return self.config.tower.width

    def forward(self, tokens_BL: Tensor) -> TextCondition:
        """Return what the network is told of token ids ``(B, L)``; padding is masked, but for a text of nothing else."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            mask_BL = tokens_BL != self.config.tower.pad_id
            mask_BL[:, 0] = True
            if isinstance(self.tower, BERTEncoder):
                x_BLE = self.tower(tokens_BL, mask_BL=mask_BL)
                return TextCondition(x_BLE, mask_BL, x_BLE[:, 0])
            pooled_BE, x_BLE = self.tower(tokens_BL)
            return TextCondition(x_BLE, mask_BL, pooled_BE)


def taken_from(method: Method) -> tuple[TextEncoderConfig, dict[str, Tensor], Processor]:
    """Return a trained model's text encoder: its frozen configuration, its weights, and the texts' processor.

    Raises:
        ConfigError: if the model has none.
    """
    if isinstance(method, CLIP) and "text" in method.processors:
        tower: nn.Module = method.text
        config: TextConfig | EncoderConfig = method.config.text
    elif isinstance(method, BERT) and "text" in method.processors:
        tower, config = method.encoder, method.config.encoder
    else:
        raise ConfigError(f"The method {method.id!r} has no text encoder to take: name a clip or a bert.")
    return TextEncoderConfig(tower=config), dict(tower.state_dict()), method.processors["text"]


def checked_prompts(prompts: Sequence[str | None], *, takes: bool) -> list[str]:
    """Return prompts as texts, an empty one for none.

    Raises:
        DataError: if one is given to a model that takes none, or is longer than :data:`MOST_PROMPT` characters.
    """
    for prompt in prompts:
        if prompt and not takes:
            shown = prompt if len(prompt) <= 40 else f"{prompt[:40]}..."
            raise DataError(f"This model takes no prompt ({shown!r} was given): it was trained without texts.")
        if prompt and len(prompt) > MOST_PROMPT:
            raise DataError(f"A prompt has at most {MOST_PROMPT:,} characters, found {len(prompt):,}.")
    return [prompt or "" for prompt in prompts]


def check_seeds(seeds: Sequence[int], prompts: Sequence[str]) -> None:
    """Check the seeds of pictures, one for each prompt.

    Raises:
        DataError: if there are not as many, or one is negative or above 2^63 - 1.
    """
    if len(prompts) != len(seeds) or any(not 0 <= seed <= MOST_SEED for seed in seeds):
        raise DataError(f"{len(prompts)} prompts need as many seeds of at least 0, found {list(seeds)[:8]}.")

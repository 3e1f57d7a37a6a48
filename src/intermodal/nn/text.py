"""The text tower of CLIP and SigLIP: token and position embeddings, a transformer, one pooled vector.

B batch   L tokens   D width
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.transformer import ACTIVATIONS, Activation, block_flops, build_transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """What a :class:`TextTransformer` is built from; the defaults of the last four fields are CLIP's.

    Attributes:
        vocab_size: number of token ids.
        context_length: the most tokens of a text.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.
        eos_id: the token that ends a text, from 0 to ``vocab_size - 1``.
        pad_id: the token that fills a text up.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        norm_eps: the layer norms' epsilon.
        causal: a token sees only those before it (CLIP).
        pool: ``"eos"`` reads the first ``eos_id`` (CLIP), ``"last"`` the final position, be it padding
            (SigLIP, which pads each text to ``context_length``), ``"mean"`` averages what is not padding.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads``, the activation is unknown, ``eos_id`` is no
            token, or padding would have to be masked and cannot be told from the end of the text.
    """

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    eos_id: int
    pad_id: int
    mlp_width: int | None = None
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = True
    pool: Literal["eos", "last", "mean"] = "eos"

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"Text: width must be a multiple of heads, found {self.width} and {self.heads}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Text: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")
        if self.pool == "eos" and not 0 <= self.eos_id < self.vocab_size:
            raise ConfigError(f"Text: eos_id must be from 0 to {self.vocab_size - 1}, found {self.eos_id}.")
        if self.pool == "eos" and self.masks_padding and self.pad_id == self.eos_id:
            raise ConfigError("Text: without causal attention, pool='eos' needs a pad_id other than eos_id.")

    @property
    def masks_padding(self) -> bool:
        """Whether attention must not see padding.

        A causal text never sees the padding behind it, and with ``pool="last"`` the padding is part of the
        input.
        """
        return not self.causal and self.pool != "last"

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def output_dim(self) -> int:
        """Width of the pooled output."""
        return self.width

    def flops(self) -> int:
        """Return the forward floating-point operations of one text of full length (a multiply-add is two)."""
        return self.depth * block_flops(self.context_length, self.width, self.hidden)


class TextTransformer(nn.Module):
    """A text as one vector (Radford et al. 2021, section 2.4; Zhai et al. 2023, section 3).

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)
        self.transformer = build_transformer(
            config.width,
            config.depth,
            config.heads,
            config.hidden,
            activation=config.activation,
            norm_eps=config.norm_eps,
            causal=config.causal,
        )
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Embed texts.

        Args:
            tokens_BL: int64 token ids, shape (B, L), L from 1 to ``context_length``, padded at the end.

        Returns:
            The pooled output, shape (B, D), and the tokens, shape (B, L, D), both after the final norm.

        Raises:
            DataError: if the texts are longer than ``context_length``, or (checked on the CPU only, because a
                device would have to be waited for) a text lacks the ``eos_id`` that is to be read.
        """
        config = self.config
        if tokens_BL.dim() != 2 or not 1 <= tokens_BL.shape[1] <= config.context_length:
            raise DataError(
                f"The text transformer takes token ids of shape (B, L), L from 1 to {config.context_length}, "
                f"found {tuple(tokens_BL.shape)}: shorten the texts, or use the model's text processor."
            )
        x_BLD = self.token_embedding(tokens_BL) + self.position_embedding[: tokens_BL.shape[1]]
        mask_BL = tokens_BL != config.pad_id if config.masks_padding else None
        x_BLD = self.final_norm(self.transformer(x_BLD, mask=mask_BL))
        return self._pool(x_BLD, tokens_BL), x_BLD

    def _pool(self, x_BLD: Tensor, tokens_BL: Tensor) -> Tensor:
        config = self.config
        if config.pool == "last":
            return x_BLD[:, -1]
        if config.pool == "mean":
            keep_BL1 = (tokens_BL != config.pad_id).unsqueeze(-1).to(x_BLD.dtype)
            return (x_BLD * keep_BL1).sum(1) / keep_BL1.sum(1)
        is_eos_BL = tokens_BL == config.eos_id
        if tokens_BL.device.type == "cpu" and not bool(is_eos_BL.any(1).all()):
            raise DataError(
                f"A text has no end token (id {config.eos_id}), at which it would be read: "
                "end each with it, or use the model's text processor."
            )
        position_B = is_eos_BL.int().argmax(1)  # the first of several
        return x_BLD[torch.arange(len(x_BLD), device=x_BLD.device), position_B]

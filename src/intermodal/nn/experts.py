"""Modality experts: blocks that share attention and switch their MLP (VLMo, Bao et al. 2022; BEiT-3, Wang et al. 2023).

Picture and text are one sequence, and every token attends to all. What differs is the MLP behind the attention: one for the
tokens of pictures, one for those of texts, and in the upper blocks one for both where they are read together. A picture
alone or a text alone passes by its own experts through all blocks: the same weights are a dual and a fusion encoder.

B batch   I tokens of a picture (its class token first)   L tokens of a text   D width   H heads
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.sentences import up_to_end
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, block_flops

Expert = Literal["vision", "language", "fusion"]
EXPERTS: tuple[Expert, ...] = ("vision", "language", "fusion")
Swap = Mapping[Expert, Expert]
"""Which expert does another's work, to see what each has learnt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig(Config):
    """What an :class:`ExpertTransformer` is built from.

    Attributes:
        image_size: pixels of a square picture.
        patch_size: pixels; what a size leaves over is cut off.
        vocab_size: token ids of texts.
        context_length: the most tokens of a text.
        pad_id: the token that fills a text up (behind its end).
        eos_id: the token that ends a text.
        width: D, a multiple of ``heads``.
        depth: blocks.
        fusion_depth: so many of them, the uppermost, have an expert for picture and text together.
        heads: H.
        mlp_width: hidden width of every expert; None for ``4 * width``.
        activation: of the experts.
        norm_eps: the layer norms' epsilon.

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int
    patch_size: int
    vocab_size: int
    context_length: int
    pad_id: int
    eos_id: int
    width: int
    depth: int
    fusion_depth: int
    heads: int
    mlp_width: int | None = None
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"Experts: width must be a multiple of heads, found {self.width} and {self.heads}.")
        if not 1 <= self.fusion_depth <= self.depth:
            raise ConfigError(f"Experts: fusion_depth is 1 to depth ({self.depth}), found {self.fusion_depth}.")
        if not 1 <= self.patch_size <= self.image_size or min(self.vocab_size, self.context_length) < 1:
            raise ConfigError("Experts: a patch must fit into the picture, and there must be tokens.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Experts: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """I: the class token and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def hidden(self) -> int:
        """Hidden width of the experts."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    def flops(self, tokens: int) -> int:
        """Return the forward floating-point operations of a sequence of so many tokens (a multiply-add is two)."""
        return self.depth * block_flops(tokens, self.width, self.hidden)


# --8<-- [start:block]
class ExpertBlock(nn.Module):
    """``x + attention(norm(x))``, then for each token ``x + mlp_e(norm_e(x))`` with the expert ``e`` of its modality.

    Bao et al. 2022, equations 1 and 2; each expert has a layer norm of its own.

    Args:
        config: sizes.
        experts: which there are.
    """

    def __init__(self, config: ExpertsConfig, experts: tuple[Expert, ...]) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = Attention(width, config.heads)
        self.norms = nn.ModuleDict({e: nn.LayerNorm(width, eps=config.norm_eps) for e in experts})
        self.mlps = nn.ModuleDict({e: MLP(width, config.hidden, config.activation) for e in experts})

    def forward(self, x_BLD: Tensor, experts: tuple[tuple[Expert, int], ...], mask: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D).

        Args:
            x_BLD: the tokens of one modality, or of both one behind the other.
            experts: which expert takes how many tokens, in their order.
            mask: bool (B, L), which tokens may be attended to.
        """
        x_BLD = x_BLD + self.attention(self.norm(x_BLD), mask=mask)
        parts = x_BLD.split([count for _, count in experts], 1)
        made = [self.mlps[e](self.norms[e](part)) for (e, _), part in zip(experts, parts, strict=True)]
        return x_BLD + (made[0] if len(made) == 1 else torch.cat(made, 1))


# --8<-- [end:block]


class ExpertTransformer(nn.Module):
    """Pictures, texts, or both together through the same blocks.

    Args:
        config: sizes.
    """

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = PatchEmbedding(3, width, PatchConfig(size=config.patch_size))
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.image_position = nn.Parameter(0.02 * torch.randn(config.image_tokens, width))
        self.token_embedding = nn.Embedding(config.vocab_size + 1, width)
        self.text_position = nn.Parameter(0.02 * torch.randn(config.context_length, width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        low = config.depth - config.fusion_depth
        self.blocks = nn.ModuleList(
            ExpertBlock(config, EXPERTS if i >= low else ("vision", "language")) for i in range(config.depth)
        )
        self.final_norm = nn.LayerNorm(width, eps=config.norm_eps)
        writes = width**-0.5 * (2 * config.depth) ** -0.5
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("out.weight", "fc2.weight")):
                nn.init.normal_(parameter, std=writes)

    @property
    def mask_id(self) -> int:
        """The token that stands for one that is to be predicted: one more than those of the texts."""
        return self.config.vocab_size

    def real(self, tokens_BL: Tensor) -> Tensor:
        """Return which tokens are no padding, bool (B, L): up to the first end, and that too."""
        return up_to_end(tokens_BL, self.config.eos_id)

    def forward(
        self,
        image_BCHW: Tensor | None,
        tokens_BL: Tensor | None,
        *,
        real_BL: Tensor | None = None,
        swap: Swap | None = None,
    ) -> Tensor:
        """Return the tokens' vectors after the final norm, (B, I + L, D), those of the picture first.

        Args:
            image_BCHW: prepared pictures; None for a text alone.
            tokens_BL: token ids; None for a picture alone.
            real_BL: which of them are no padding, where masked tokens hide it; by default what :meth:`real` says.
            swap: experts that do the work of others, in the blocks that have them.

        Raises:
            DataError: if there is neither, or a size is not the configured one.
        """
        x_BLD, mask_BL = self.embedded(image_BCHW, tokens_BL, real_BL)
        for number in range(self.config.depth):
            x_BLD = self._block(number)(x_BLD, self._experts(number, image_BCHW, tokens_BL, swap), mask_BL)
        return self.final_norm(x_BLD)

    def weights(self, image_BCHW: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return how each token of a text weighs the patches in each block of the fusion, (B, blocks, H, L, patches).

        Each row sums to one: what goes to the class token and to the text is left out.
        """
        (x_BLD, mask_BL), found = self.embedded(image_BCHW, tokens_BL), []
        first = self.config.image_tokens
        for number in range(self.config.depth):
            block = self._block(number)
            found.append(block.attention.weights(block.norm(x_BLD))[:, :, first:, 1:first])
            x_BLD = block(x_BLD, self._experts(number, image_BCHW, tokens_BL, None), mask_BL)
        share = torch.stack(found, 1)
        return share / share.sum(-1, keepdim=True)

    def embedded(
        self, image_BCHW: Tensor | None, tokens_BL: Tensor | None, real_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the first block takes, and which tokens may be attended to; None for all."""
        config, parts = self.config, list[Tensor]()
        if image_BCHW is not None:
            if tuple(image_BCHW.shape[1:]) != (3, config.image_size, config.image_size):
                raise DataError(
                    f"The experts take pictures of shape (B, 3, {config.image_size}, {config.image_size}), found "
                    f"{tuple(image_BCHW.shape)}: use the model's image processor."
                )
            first_B1D = self.class_token.expand(len(image_BCHW), 1, -1)
            parts.append(torch.cat([first_B1D, self.patches(image_BCHW)], 1) + self.image_position)
        if tokens_BL is None:
            if not parts:
                raise DataError("The experts take a picture, a text, or both; there is neither.")
            return parts[0], None
        if tokens_BL.dim() != 2 or not 1 <= tokens_BL.shape[1] <= config.context_length:
            raise DataError(
                f"The experts take texts of 1 to {config.context_length} tokens, found {tuple(tokens_BL.shape)}."
            )
        parts.append(self.token_embedding(tokens_BL) + self.text_position[: tokens_BL.shape[1]])
        mask_BL = self.real(tokens_BL) if real_BL is None else real_BL
        if len(parts) == 2:
            mask_BL = torch.cat([mask_BL.new_ones(len(mask_BL), config.image_tokens), mask_BL], 1)
        return torch.cat(parts, 1), mask_BL

    def _experts(
        self, number: int, image_BCHW: Tensor | None, tokens_BL: Tensor | None, swap: Swap | None
    ) -> tuple[tuple[Expert, int], ...]:
        """Return which expert of a block takes how many tokens."""
        swap, image = swap or {}, self.config.image_tokens

        def who(expert: Expert) -> Expert:
            found = swap.get(expert, expert)
            return found if found in self._block(number).mlps else expert

        if image_BCHW is None:
            assert tokens_BL is not None
            return ((who("language"), tokens_BL.shape[1]),)
        if tokens_BL is None:
            return ((who("vision"), image),)
        if number >= self.config.depth - self.config.fusion_depth:
            return ((who("fusion"), image + tokens_BL.shape[1]),)
        return ((who("vision"), image), (who("language"), tokens_BL.shape[1]))

    def _block(self, number: int) -> ExpertBlock:
        block = self.blocks[number]
        assert isinstance(block, ExpertBlock)
        return block

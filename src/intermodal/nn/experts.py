"""Modality experts: one network for pictures, texts and both (VLMo, Bao et al. 2022; BEiT-3, Wang et al. 2023).

Picture and text are one sequence, and every token attends to all. What differs is the MLP behind the attention: one for
the tokens of pictures, one for those of texts, and in the upper blocks one for both where they are read together. A
picture alone or a text alone passes by its own experts through all blocks: the same weights are a dual and a fusion
encoder. With another mask of the attention they write: the picture sees itself, each token of the text the picture and
the text before it.

B batch   I tokens of a picture (its class token first)   P patches   L tokens of a text   D width   H heads
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.sentences import up_to_end
from intermodal.nn.expert_blocks import (
    EXPERTS,
    Expert,
    ExpertBlock,
    Kept,
    Parts,
    PatchStem,
    SeparateBlock,
    Swap,
    alone,
    length,
    routed,
    written,
)
from intermodal.nn.linear import quicken
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.transformer import ACTIVATIONS, Activation, block_flops, past

RESERVED = 2
"""So many first rows of the positions nobody uses in the layout ``separate``, as fairseq counts them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig(Config):
    """What an :class:`ExpertTransformer` is built from.

    Attributes:
        image_size: pixels of a square picture.
        patch_size: pixels; what a size leaves over is cut off.
        stem: channels of convolutions by which each patch is read by itself (Xiao et al. 2021, but no patch sees its
            neighbours, so that a hidden one stays hidden); then ``patch_size`` is ``2 ** len(stem)``. None for one
            matrix.
        vocab_size: token ids of texts.
        context_length: the most tokens of a text.
        pad_id: the token that fills a text up (behind its end).
        eos_id: the token that ends a text.
        mask_id: the token that stands for one that is to be predicted; None for one of its own, behind the others.
        width: D, a multiple of ``heads``.
        depth: blocks.
        fusion_depth: so many of them, the uppermost, have an expert for picture and text together.
        apart: in so many blocks, the lowest, the tokens of a pair see their own modality alone (Li et al. 2021, ALBEF); what
            they make of a picture or a text is then the same in every pair. 0 in VLMo and BEiT-3.
        heads: H.
        mlp_width: hidden width of every expert; None for ``4 * width``.
        activation: of the experts.
        norm_eps: the layer norms' epsilon.
        layout: ``shared``: the modalities share all but the MLPs and their norms. ``separate``: each has all layers for
            itself, as in BEiT-3's published weights, and there is no fusion expert.

    Raises:
        ConfigError: if a size does not fit.
    """

    image_size: int
    patch_size: int
    stem: tuple[int, ...] = ()
    vocab_size: int
    context_length: int
    pad_id: int
    eos_id: int
    mask_id: int | None = None
    width: int
    depth: int
    fusion_depth: int
    apart: int = 0
    heads: int
    mlp_width: int | None = None
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    layout: Literal["shared", "separate"] = "shared"

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"Experts: width must be a multiple of heads, found {self.width} and {self.heads}.")
        least = int(self.layout == "shared")
        if not least <= self.fusion_depth <= self.depth * least or self.depth < 1:
            raise ConfigError(
                f"Experts: fusion_depth is 1 to depth ({self.depth}), or 0 with separate layers; found {self.fusion_depth}."
            )
        if not 0 <= self.apart < self.depth:
            raise ConfigError(f"Experts: apart is from 0 to below the depth ({self.depth}), found {self.apart}.")
        if not 1 <= self.patch_size <= self.image_size or min(self.vocab_size, self.context_length) < 1:
            raise ConfigError("Experts: a patch must fit into the picture, and there must be tokens.")
        if self.stem and self.patch_size != 2 ** len(self.stem):
            raise ConfigError(
                f"Experts: a stem of {len(self.stem)} layers reads patches of {2 ** len(self.stem)} pixels, found "
                f"{self.patch_size}."
            )
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ConfigError(f"Experts: mask_id must be one of the {self.vocab_size} ids, found {self.mask_id}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Experts: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    @property
    def image_tokens(self) -> int:
        """I: the class token and the patches."""
        return 1 + self.patches

    @property
    def hidden(self) -> int:
        """Hidden width of the experts."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    def flops(self, tokens: int) -> int:
        """Return the forward floating-point operations of a sequence of so many tokens (a multiply-add is two)."""
        return self.depth * block_flops(tokens, self.width, self.hidden)


class ExpertTransformer(nn.Module):
    """Pictures, texts, or both together through the same blocks.

    Args:
        config: sizes.
    """

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        width, shared = config.width, config.layout == "shared"
        self.reserved = 0 if shared else RESERVED
        self.patches = (
            PatchStem(config.patch_size, config.stem, width)
            if config.stem
            else PatchEmbedding(3, width, PatchConfig(size=config.patch_size))
        )
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.image_position = nn.Parameter(0.02 * torch.randn(self.reserved + config.image_tokens, width))
        self.token_embedding = nn.Embedding(config.vocab_size + (config.mask_id is None), width)
        self.text_position = nn.Parameter(0.02 * torch.randn(self.reserved + config.context_length, width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        low, two = config.depth - config.fusion_depth, EXPERTS[:2]
        block = ExpertBlock if shared else SeparateBlock
        sizes = (width, config.heads, config.hidden, config.activation, config.norm_eps)
        self.blocks = nn.ModuleList(block(*sizes, EXPERTS if i >= low else two) for i in range(config.depth))
        last: dict[str, nn.Module] = {e: nn.LayerNorm(width, eps=config.norm_eps) for e in two}
        self.final_norm = nn.LayerNorm(width, eps=config.norm_eps) if shared else nn.ModuleDict(last)
        writes = width**-0.5 * (2 * config.depth) ** -0.5
        for name, parameter in self.blocks.named_parameters():
            if parameter.dim() == 2 and (".out." in name or ".fc2." in name):
                nn.init.normal_(parameter, std=writes)
        quicken(self)

    @property
    def mask_id(self) -> int:
        """The token that stands for one that is to be predicted."""
        return self.config.vocab_size if self.config.mask_id is None else self.config.mask_id

    def real(self, tokens_BL: Tensor) -> Tensor:
        """Return which tokens are no padding, bool (B, L): up to the first end, and that too."""
        return up_to_end(tokens_BL, self.config.eos_id)

    def words(self, tokens_BL: Tensor, *, end: bool = False) -> Tensor:
        """Return which tokens are words, which may be hidden, bool (B, L): not the first; the end only with ``end``."""
        words_BL = self.real(tokens_BL)
        if not end:
            words_BL = words_BL & (tokens_BL != self.config.eos_id)
        words_BL[:, 0] = False
        return words_BL

    def forward(
        self,
        image_BCHW: Tensor | None,
        tokens_BL: Tensor | None,
        *,
        real_BL: Tensor | None = None,
        hidden_BP: Tensor | None = None,
        swap: Swap | None = None,
        writing: bool = False,
    ) -> Tensor:
        """Return the tokens' vectors after the final norm, (B, I + L, D), those of the picture first.

        Args:
            image_BCHW: prepared pictures; None for a text alone.
            tokens_BL: token ids; None for a picture alone.
            real_BL: which of them are no padding, where masked tokens hide it; by default what :meth:`real` says.
            hidden_BP: bool, the patches in whose place stands the mask token; None for none.
            swap: experts that do the work of others, in the blocks that have them.
            writing: the picture sees itself alone, and each token of the text the picture and the text up to itself.

        Raises:
            DataError: if there is neither, or a size is not the configured one.
        """
        image_BID = None if image_BCHW is None else self.placed(self.seen(image_BCHW), hidden_BP)
        text_BLD = None if tokens_BL is None else self.read(tokens_BL)
        if real_BL is None and tokens_BL is not None:
            real_BL = self.real(tokens_BL)
        return self.together(image_BID, text_BLD, real_BL, swap=swap, writing=writing)

    def seen(self, image_BCHW: Tensor) -> Tensor:
        """Return the patches' vectors (B, P, D), before their places are known: once a picture, for many passes.

        Raises:
            DataError: if the pictures have another size.
        """
        size = self.config.image_size
        if tuple(image_BCHW.shape[1:]) != (3, size, size):
            raise DataError(
                f"The experts take pictures of shape (B, 3, {size}, {size}), found "
                f"{tuple(image_BCHW.shape)}: use the model's image processor."
            )
        return self.patches(image_BCHW)

    def placed(self, patch_BPD: Tensor, hidden_BP: Tensor | None = None) -> Tensor:
        """Return what the first block takes of a picture, (B, I, D); ``hidden_BP`` as in :meth:`forward`."""
        if hidden_BP is not None:
            patch_BPD = torch.where(hidden_BP.unsqueeze(-1), self.mask_token.to(patch_BPD.dtype), patch_BPD)
        first_B1D = self.class_token.to(patch_BPD.dtype).expand(len(patch_BPD), 1, -1)
        return torch.cat([first_B1D, patch_BPD], 1) + self.image_position[self.reserved :]

    def read(self, tokens_BL: Tensor, start: int = 0) -> Tensor:
        """Return what the first block takes of a text, (B, L, D), whose first token has the place ``start``.

        Raises:
            DataError: if it is longer than the context.
        """
        most = self.config.context_length
        if tokens_BL.dim() != 2 or not 1 <= tokens_BL.shape[1] <= most - start:
            raise DataError(f"The experts take texts of 1 to {most} tokens, found {tuple(tokens_BL.shape)}.")
        first = self.reserved + start
        return self.token_embedding(tokens_BL) + self.text_position[first : first + tokens_BL.shape[1]]

    def together(
        self,
        image_BID: Tensor | None,
        text_BLD: Tensor | None,
        real_BL: Tensor | None,
        *,
        swap: Swap | None = None,
        writing: bool = False,
    ) -> Tensor:
        """Return the vectors (B, I + L, D) of what :meth:`placed` and :meth:`read` made; see :meth:`forward`."""
        if image_BID is not None:
            image_BID = self.low(image_BID, None, None, swap)
        if text_BLD is not None:
            text_BLD = self.low(None, text_BLD, real_BL, swap, writing)
        return self.high(image_BID, text_BLD, real_BL, swap=swap, writing=writing)

    def low(
        self,
        image_BID: Tensor | None,
        text_BLD: Tensor | None,
        real_BL: Tensor | None,
        swap: Swap | None = None,
        writing: bool = False,
    ) -> Tensor:
        """Return a picture or a text behind the blocks that read pairs apart: once, for many pairs; see :meth:`high`."""
        return self._through(range(self.config.apart), image_BID, text_BLD, real_BL, swap=swap, writing=writing)

    def high(
        self,
        image_BID: Tensor | None,
        text_BLD: Tensor | None,
        real_BL: Tensor | None,
        *,
        swap: Swap | None = None,
        writing: bool = False,
    ) -> Tensor:
        """Return the vectors (B, I + L, D) of what :meth:`low` made of a picture, a text, or both; see :meth:`forward`."""
        upper = range(self.config.apart, self.config.depth)
        x_BLD = self._through(upper, image_BID, text_BLD, real_BL, swap=swap, writing=writing)
        return self.normed(x_BLD, length(image_BID), length(text_BLD))

    def _through(
        self,
        numbers: range,
        image_BID: Tensor | None,
        text_BLD: Tensor | None,
        real_BL: Tensor | None,
        *,
        swap: Swap | None,
        writing: bool,
    ) -> Tensor:
        x_BLD, mask = self._sequence(image_BID, text_BLD, real_BL, writing)
        for number in numbers:
            x_BLD = self.block(number)(x_BLD, self.parts(number, length(image_BID), length(text_BLD), swap), mask)
        return x_BLD

    def normed(self, x_BLD: Tensor, image: int, text: int) -> Tensor:
        """Return the final norm of ``image`` and ``text`` tokens."""
        if isinstance(self.final_norm, nn.ModuleDict):
            return routed(self.final_norm, x_BLD, alone(image, text))
        return self.final_norm(x_BLD)

    def begun(self, image_BID: Tensor) -> list[Kept]:
        """Return what each block keeps of pictures about which texts are written: nothing, where pairs are read apart."""
        found, x_BLD, image = list[Kept](), image_BID, image_BID.shape[1]
        for number in range(self.config.depth):
            pair = number >= self.config.apart
            x_BLD, (k_BHNK, v_BHNK) = self.block(number).onward(x_BLD, self.parts(number, image, 0, None, pair), None)
            found.append((k_BHNK, v_BHNK) if pair else (k_BHNK[:, :, :0], v_BHNK[:, :, :0]))
        return found

    def onward(self, text_BLD: Tensor, kept: list[Kept]) -> tuple[Tensor, list[Kept]]:
        """Go on with a text about pictures, each token of which sees what was kept and the tokens up to itself.

        Args:
            text_BLD: the new tokens, as :meth:`read` returns them.
            kept: of each block, of the picture (:meth:`begun`) and of the tokens before.

        Returns:
            Their vectors after the final norm, and what is kept with them.
        """
        found, x_BLD, count = list[Kept](), text_BLD, text_BLD.shape[1]
        for number in range(self.config.depth):
            seen = past(count, kept[number][0].shape[2] + count, x_BLD.device)
            parts = self.parts(number, 0, count, None, number >= self.config.apart)
            x_BLD, after = self.block(number).onward(x_BLD, parts, kept[number], seen)
            found.append(after)
        return self.normed(x_BLD, 0, count), found

    def weights(self, image_BCHW: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return how each token of a text weighs the patches, in each block in which it sees them, (B, blocks, H, L, P).

        Each row sums to one: what goes to the class token and to the text is left out.
        """
        real_BL = self.real(tokens_BL)
        image_BID = self.low(self.placed(self.seen(image_BCHW)), None, None)
        x_BLD, mask = self._sequence(image_BID, self.low(None, self.read(tokens_BL), real_BL), real_BL, False)
        first, found = self.config.image_tokens, []
        for number in range(self.config.apart, self.config.depth):
            parts = self.parts(number, first, tokens_BL.shape[1], None)
            found.append(self.block(number).weights(x_BLD, parts)[:, :, first:, 1:first])
            x_BLD = self.block(number)(x_BLD, parts, mask)
        share = torch.stack(found, 1)
        return share / share.sum(-1, keepdim=True)

    @staticmethod
    def _sequence(
        image_BID: Tensor | None, text_BLD: Tensor | None, real_BL: Tensor | None, writing: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return one sequence of what there is, and who may attend to whom; None for all to all."""
        if text_BLD is None:
            if image_BID is None:
                raise DataError("The experts take a picture, a text, or both; there is neither.")
            return image_BID, None
        assert real_BL is not None
        mask = real_BL[:, None, None, :]
        if image_BID is not None:
            mask = torch.cat([mask.new_ones(len(mask), 1, 1, image_BID.shape[1]), mask], -1)
            text_BLD = torch.cat([image_BID, text_BLD], 1)
        if writing:
            mask = mask & written(length(image_BID), real_BL.shape[1], real_BL.device)
        return text_BLD, mask

    def parts(self, number: int, image: int, text: int, swap: Swap | None, pair: bool = False) -> Parts:
        """Return which expert of a block takes how many tokens, of a ``pair`` also where one of both is not here."""
        swap, there = swap or {}, self.block(number).mlps

        def who(expert: Expert) -> Expert:
            found = swap.get(expert, expert)
            return found if found in there else expert

        if (pair or (image and text)) and "fusion" in there:
            return ((who("fusion"), image + text),)
        return tuple((who(expert), count) for expert, count in alone(image, text))

    def block(self, number: int) -> ExpertBlock | SeparateBlock:
        """Return one of the blocks."""
        block = self.blocks[number]
        assert isinstance(block, ExpertBlock | SeparateBlock)
        return block

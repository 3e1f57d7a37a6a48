"""The vision transformer (Dosovitskiy et al. 2021), with CLIP's and SigLIP's ways to pool it.

B batch   C colour channels   H, W height and width in pixels   P patch size   L tokens   D width
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.drop_path import check_rate
from intermodal.nn.patches import ConvStem, PatchConfig, PatchEmbedding, interpolate_positions
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, Block, block_flops, build_transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    """What a :class:`VisionTransformer` is built from; the defaults of the last six fields are CLIP's.

    Attributes:
        image_size: pixels, one number for a square or (height, width).
        patch_size: P, pixels; what a size leaves over is cut off at the right and lower edge.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads, in the pooling head too.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        channels: colour channels.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        norm_eps: the layer norms' epsilon.
        pre_norm: a layer norm before the first block, as CLIP has.
        patch_bias: the patch embedding has a bias, as SigLIP's has.
        pool: ``"cls"`` reads a class token (CLIP), ``"attention"`` a learnt probe that attends to the patches
            (SigLIP), ``"mean"`` averages the patches, ``"flat"`` puts them one behind the other, so that what reads them
            knows where each lies (of another size of picture, means over as many parts).
        qkv_bias: queries, keys and values have biases.
        distillation: with ``"cls"``: a second token after the class token, for what a teacher says (Touvron et al. 2021).

        stem: channels of convolutions of stride 2 that stand in the place of the patch embedding (Xiao et al. 2021), as many
            as make ``patch_size`` = ``2 ** len(stem)``; a size that leaves something over has one more token along it.
            () for patches.
        drop_path: the last block's rate of stochastic depth in training, to which the others' rise from 0
            (:mod:`intermodal.nn.drop_path`).

    Raises:
        ConfigError: if a size is not positive, a patch is larger than the picture, ``width`` is no multiple
            of ``heads``, the activation is unknown, or the rate is out of range.
    """

    image_size: int | tuple[int, int]
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int | None = None
    channels: int = 3
    activation: Activation = "quick_gelu"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    patch_bias: bool = False
    pool: Literal["cls", "attention", "mean", "flat"] = "cls"
    distillation: bool = False
    qkv_bias: bool = True
    stem: tuple[int, ...] = ()
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.drop_path)
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"ViT: width must be a multiple of heads, found {self.width} and {self.heads}.")
        if self.depth < 0 or self.patch_size < 1 or self.patch_size > min(self.size):
            raise ConfigError(
                f"ViT: depth must be at least 0 and patch_size from 1 to the picture's {min(self.size)}, "
                f"found {self.depth} and {self.patch_size}."
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"ViT: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")
        if self.stem and (self.patch_size != 2 ** len(self.stem) or min(self.stem) < 1):
            raise ConfigError(
                f"ViT: a stem of {len(self.stem)} convolutions makes patches of {2 ** len(self.stem)} pixels, found "
                f"patch_size {self.patch_size} and channels {self.stem}."
            )
        if self.distillation and self.pool != "cls":
            raise ConfigError("ViT: a distillation token stands beside a class token: set pool to 'cls'.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.grid_of(*self.size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of a picture of this size."""
        if self.stem:
            return -(-height // self.patch_size), -(-width // self.patch_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def extra(self) -> int:
        """How many tokens stand before the patches'."""
        return (self.pool == "cls") + self.distillation

    @property
    def tokens(self) -> int:
        """L: patches, and the class and distillation tokens if there are any."""
        return self.grid[0] * self.grid[1] + self.extra

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def output_dim(self) -> int:
        """Width of the pooled output."""
        return self.width * (math.prod(self.grid) if self.pool == "flat" else 1)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled output, under the name that every image tower has."""
        return self.output_dim

    def flops(self, height: int | None = None, width: int | None = None) -> int:
        """Return the forward operations of one picture (a multiply-add is two), of the configured size or another one."""
        high, wide = height or self.size[0], width or self.size[1]
        places = math.prod(self.grid_of(high, wide))
        tokens = places + self.extra
        patches = 2 * places * (self.stem[-1] if self.stem else self.channels * self.patch_size**2) * self.width
        for before, after in zip((self.channels, *self.stem), self.stem, strict=False):
            high, wide = -(-high // 2), -(-wide // 2)
            patches += 2 * high * wide * 9 * before * after
        blocks = self.depth * block_flops(tokens, self.width, self.hidden)
        if self.pool != "attention":
            return patches + blocks
        # One query: its projection and the output's, keys and values of all tokens, two products, the MLP.
        query = 4 * self.width**2 + 4 * self.width * self.hidden
        return patches + blocks + query + 4 * tokens * self.width * (self.width + 1)


class AttentionPool(nn.Module):
    """SigLIP's pooling head: a learnt probe attends to the tokens, then an MLP (Zhai et al. 2022, sec. 3.3).

    Args:
        config: the tower's configuration.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(config.width**-0.5 * torch.randn(1, 1, config.width))
        self.attention = Attention(config.width, config.heads, context_dim=config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.hidden, config.activation)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        x_B1D = self.attention(self.probe.expand(len(tokens_BLD), -1, -1), tokens_BLD)
        return (x_B1D + self.mlp(self.norm(x_B1D)))[:, 0]


def flattened(x_BhwD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the places of maps one behind the other, ``(B, rows * columns * D)``: who reads them knows where each lies.

    Args:
        x_BhwD: maps.
        grid: rows and columns of places, or of the parts whose means are taken.
    """
    if tuple(x_BhwD.shape[1:3]) != grid:
        x_BhwD = F.adaptive_avg_pool2d(x_BhwD.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    return x_BhwD.flatten(1)


class VisionTransformer(nn.Module):
    """A transformer over the patches of a picture (Dosovitskiy et al. 2021, equations 1 to 4).

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        scale = config.width**-0.5
        patches = PatchConfig(size=config.patch_size)
        self.patch_embedding: PatchEmbedding | ConvStem = (
            ConvStem(config.channels, config.width, config.stem)
            if config.stem
            else PatchEmbedding(config.channels, config.width, patches, bias=config.patch_bias)
        )
        if config.pool == "cls":
            self.class_token = nn.Parameter(scale * torch.randn(config.width))
        if config.distillation:
            self.distillation_token = nn.Parameter(scale * torch.randn(config.width))
        self.position_embedding = nn.Parameter(scale * torch.randn(config.tokens, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        self.transformer = build_transformer(
            config.width,
            config.depth,
            config.heads,
            config.hidden,
            activation=config.activation,
            norm_eps=config.norm_eps,
            input_bias=config.qkv_bias,
            drop_path=config.drop_path,
        )
        self.post_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        if config.pool == "attention":
            self.pool = AttentionPool(config)

    def forward(self, image_BCHW: Tensor, *, interpolate: bool = False) -> tuple[Tensor, Tensor]:
        """Embed pictures.

        Args:
            image_BCHW: float, normalised as the model's processor does, shape (B, C, H, W) of the configured
                size.
            interpolate: take other sizes and shapes too; the position embeddings are then interpolated
                (Dosovitskiy et al. 2021, section 3.2).

        Returns:
            The pooled output, shape (B, D), after the final norm (and the pooling head), and the tokens, shape (B, L,
            D): after the final norm, except with ``pool="cls"``, where only the class token is
                normalised
            and the tokens are the last block's, as in CLIP.

        Raises:
            DataError: if the pictures are not of the configured channels and size.
        """
        x_BLD = self.transformer(self.embed_patches(image_BCHW, interpolate=interpolate))
        if self.config.pool == "cls":
            return self.post_norm(x_BLD[:, 0]), x_BLD
        x_BLD = self.post_norm(x_BLD)
        if self.config.pool == "attention":
            return self.pool(x_BLD), x_BLD
        if self.config.pool == "mean":
            return x_BLD.mean(1), x_BLD
        return flattened(x_BLD.unflatten(1, self.config.grid_of(*image_BCHW.shape[2:])), self.config.grid), x_BLD

    def class_tokens(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """Return the class token and, if there is one, the distillation token after the final norm, ``(B, 1 or 2, D)``.

        The same numbers as :meth:`forward` computes, without what only other tokens would need of the last block.

        Raises:
            ConfigError: if the tower has no class token.
            DataError: as :meth:`forward`.
        """
        count = self.config.extra
        if not count:
            raise ConfigError(f"A vision transformer with pool={self.config.pool!r} has no class token.")
        x_BLD = self.embed_patches(image_BCHW, interpolate=interpolate)
        *blocks, last = [*self.transformer.blocks] or [None]
        for block in blocks:
            x_BLD = block(x_BLD)
        x_BLD = x_BLD[:, :count] if last is None else last.first(x_BLD, count)
        return self.post_norm(x_BLD)

    def embed_patches(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """Return what the first block takes, ``(B, L, D)``: class tokens, if there are any, and patches, with positions.

        Raises:
            DataError: as :meth:`forward`.
        """
        config = self.config
        wanted = image_BCHW.shape[2:] if interpolate else config.size
        if image_BCHW.dim() != 4 or tuple(image_BCHW.shape[1:]) != (config.channels, *wanted):
            raise DataError(
                f"The vision transformer takes pictures of shape (B, {config.channels}, {config.size[0]}, "
                f"{config.size[1]}), found {tuple(image_BCHW.shape)}: use the model's image processor."
            )
        x_BLD = self.patch_embedding(image_BCHW)
        position_LD: Tensor = self.position_embedding
        if interpolate:
            grid = config.grid_of(*image_BCHW.shape[2:])
            position_LD = interpolate_positions(position_LD, config.grid, grid, extra=config.extra)
        if config.pool == "cls":
            first: list[Tensor] = [self.class_token]
            if config.distillation:
                first.append(self.distillation_token)
            x_BLD = torch.cat([torch.stack(first).expand(len(x_BLD), -1, -1), x_BLD], dim=1)
        return self.pre_norm(x_BLD + position_LD)

    # --8<-- [start:rollout]
    @torch.no_grad()
    def attention_maps(self, image_BCHW: Tensor) -> Tensor:
        """Return how each block's heads weigh the tokens, ``(B, blocks, heads, L, L)``; each row sums to one.

        Args:
            image_BCHW: prepared pictures of any size.
        """
        x_BLD, found = self.embed_patches(image_BCHW, interpolate=True), []
        for block in self.transformer.blocks:
            assert isinstance(block, Block) and isinstance(block.attention, Attention)
            found.append(block.attention.weights(block.norm1(x_BLD)))
            x_BLD = block(x_BLD)
        length, heads = x_BLD.shape[1], self.config.heads
        return torch.stack(found, 1) if found else x_BLD.new_zeros(len(x_BLD), 0, heads, length, length)


def attention_rollout(weight_BNHLL: Tensor) -> Tensor:
    """Return how much of each token reaches each token through all blocks, ``(B, L, L)`` (Abnar & Zuidema 2020).

    A block passes on half by its residual path and half by the mean of its heads; the blocks' matrices are multiplied (their
    equation 1). Row ``i`` says of what the last block's token ``i`` is made; it sums to one.

    Args:
        weight_BNHLL: attention weights ``(B, blocks, heads, L, L)``, rows that sum to one.
    """
    mean_BNLL = weight_BNHLL.mean(2)
    same = torch.eye(mean_BNLL.shape[-1], dtype=mean_BNLL.dtype, device=mean_BNLL.device)
    rolled = same.expand(len(mean_BNLL), -1, -1)
    for block_BLL in mean_BNLL.unbind(1):
        rolled = (0.5 * block_BLL + 0.5 * same) @ rolled
    return rolled


# --8<-- [end:rollout]

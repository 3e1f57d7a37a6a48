"""The vision transformer (Dosovitskiy et al. 2021), with CLIP's and SigLIP's ways to pool it.

B batch   C colour channels   H, W height and width in pixels   P patch size   L tokens   D width
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, block_flops, build_transformer


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
            (SigLIP), ``"mean"`` averages the patches.

    Raises:
        ConfigError: if a size is not positive, a patch is larger than the picture, ``width`` is no multiple
            of ``heads``, or the activation is unknown.
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
    pool: Literal["cls", "attention", "mean"] = "cls"

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"ViT: width must be a multiple of heads, found {self.width} and {self.heads}.")
        if self.depth < 0 or self.patch_size < 1 or self.patch_size > min(self.size):
            raise ConfigError(
                f"ViT: depth must be at least 0 and patch_size from 1 to the picture's {min(self.size)}, "
                f"found {self.depth} and {self.patch_size}."
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"ViT: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """L: patches, and the class token if there is one."""
        return self.grid[0] * self.grid[1] + (self.pool == "cls")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def output_dim(self) -> int:
        """Width of the pooled output."""
        return self.width

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled output, under the name that every image tower has."""
        return self.width

    def flops(self) -> int:
        """Return the forward floating-point operations of one picture (a multiply-add is two)."""
        patches = 2 * self.grid[0] * self.grid[1] * self.channels * self.patch_size**2 * self.width
        blocks = self.depth * block_flops(self.tokens, self.width, self.hidden)
        if self.pool != "attention":
            return patches + blocks
        # One query: its projection and the output's, keys and values of all tokens, two products, the MLP.
        query = 4 * self.width**2 + 4 * self.width * self.hidden
        return patches + blocks + query + 4 * self.tokens * self.width * (self.width + 1)


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
        self.patch_embedding = PatchEmbedding(config.channels, config.width, patches, bias=config.patch_bias)
        if config.pool == "cls":
            self.class_token = nn.Parameter(scale * torch.randn(config.width))
        self.position_embedding = nn.Parameter(scale * torch.randn(config.tokens, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        self.transformer = build_transformer(
            config.width,
            config.depth,
            config.heads,
            config.hidden,
            activation=config.activation,
            norm_eps=config.norm_eps,
        )
        self.post_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        if config.pool == "attention":
            self.pool = AttentionPool(config)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pictures.

        Args:
            image_BCHW: float, normalised as the model's processor does, shape (B, C, H, W) of the configured
                size.

        Returns:
            The pooled output, shape (B, D), after the final norm (and the pooling head), and the tokens,
            shape
            (B, L, D): after the final norm, except with ``pool="cls"``, where only the class token is
                normalised
            and the tokens are the last block's, as in CLIP.

        Raises:
            DataError: if the pictures are not of the configured channels and size.
        """
        config = self.config
        if image_BCHW.dim() != 4 or tuple(image_BCHW.shape[1:]) != (config.channels, *config.size):
            raise DataError(
                f"The vision transformer takes pictures of shape (B, {config.channels}, {config.size[0]}, "
                f"{config.size[1]}), found {tuple(image_BCHW.shape)}: use the model's image processor."
            )
        x_BLD = self.patch_embedding(image_BCHW)
        if config.pool == "cls":
            x_BLD = torch.cat([self.class_token.expand(len(x_BLD), 1, -1), x_BLD], dim=1)
        x_BLD = self.transformer(self.pre_norm(x_BLD + self.position_embedding))
        if config.pool == "cls":
            return self.post_norm(x_BLD[:, 0]), x_BLD
        x_BLD = self.post_norm(x_BLD)
        return (self.pool(x_BLD) if config.pool == "attention" else x_BLD.mean(1)), x_BLD

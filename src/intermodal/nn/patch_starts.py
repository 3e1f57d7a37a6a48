"""Where a vision transformer begins: patches whitened, positions as waves. The first weights differ, not the network.

From nothing, a patch embedding of random weights hands on little but how bright a patch is: neighbouring pixels are alike,
and most of what differs between patches lies in a few directions. Whitened, all directions of patches are as large (Coates
et al. 2011, section 3.2, for features of patches). Positions of random numbers say nothing of what lies beside what; waves
of rows and of columns do (Vaswani et al. 2017, section 3.5, on both axes).

    B pictures   C channels   H, W height and width   P numbers of a patch   D width   L places
"""

from __future__ import annotations

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.nn.patches import PatchEmbedding, split
from intermodal.nn.swin import Merging, SwinTransformer, WindowAttention
from intermodal.nn.transformer import MLP, Block, first_weights
from intermodal.nn.vit import VisionTransformer
from intermodal.nn.whisper import sinusoids

FLOOR = 1e-3
"""No direction of patches is taken for smaller than this share of the largest variance."""
MOST_PATCHES = 2**16


# --8<-- [start:whiten]
@torch.no_grad()
def whiten(embedding: PatchEmbedding, image_BCHW: Tensor, generator: torch.Generator) -> None:
    """Let a patch embedding begin with whitened patches, turned at random to its width.

    With the mean and the covariance ``U S U^T`` of the pictures' patches: ``weight = R S^-1/2 U^T``, and the bias takes the
    mean away. The numbers of a token then have mean 0 and a variance of about 1 over these patches.

    Args:
        embedding: with a bias.
        image_BCHW: prepared pictures as in training.
        generator: on the CPU; of the turn.

    Raises:
        ConfigError: if the embedding has no bias to take the mean away.
    """
    if embedding.bias is None:
        raise ConfigError("A patch embedding without a bias cannot be whitened: set image.patch_bias.")
    patch_NP = split(image_BCHW.double().cpu(), embedding.config).flatten(0, 1)
    patch_NP = patch_NP[:: -(-len(patch_NP) // MOST_PATCHES)]
    mean_P = patch_NP.mean(0)
    covariance_PP = (patch_NP - mean_P).T @ (patch_NP - mean_P) / len(patch_NP)
    variance_P, direction_PP = torch.linalg.eigh(covariance_PP)
    largest = float(variance_P[-1])
    if largest <= 0:
        return  # all patches are the same: there is nothing to whiten
    whitened_PP = (direction_PP / variance_P.clamp(min=FLOOR * largest).sqrt()).T
    turn_DP = torch.randn(embedding.out_channels, len(mean_P), generator=generator, dtype=torch.float64)
    weight_DP = (turn_DP * len(mean_P) ** -0.5) @ whitened_PP
    embedding.weight.copy_(weight_DP.view_as(embedding.weight))
    embedding.bias.copy_(-(weight_DP @ mean_P))


# --8<-- [end:whiten]


def grid_waves(rows: int, columns: int, width: int) -> Tensor:
    """Return positions ``(rows * columns, width)``: waves of the column, then of the row, each of half the width.

    Raises:
        ConfigError: if the width is no multiple of four.
    """
    if width % 4:
        raise ConfigError(f"Waves of rows and columns take a width that is a multiple of 4, found {width}.")
    down_rD, across_cD = sinusoids(rows, width // 2), sinusoids(columns, width // 2)
    return torch.cat([across_cD.repeat(rows, 1), down_rD.repeat_interleave(columns, 0)], 1)


@torch.no_grad()
def begin(tower: VisionTransformer | SwinTransformer, image_BCHW: Tensor, generator: torch.Generator) -> None:
    """Give a tower such first weights: patches whitened; a ViT's positions as waves, its class tokens small.

    A Swin's blocks begin as a ViT's do here (:func:`~intermodal.nn.transformer.first_weights`), and what merges places keeps
    the variance. Swin's own standard deviation of 0.02 for all is meant for wide layers: in narrow ones the branches would
    begin at almost nothing.

    Args:
        tower: freshly built.
        image_BCHW: prepared pictures as in training.
        generator: on the CPU; of what is turned at random and of tokens. Blocks draw from torch's global one.
    """
    if isinstance(tower, SwinTransformer):
        for module in tower.modules():
            if isinstance(module, Block):
                assert isinstance(module.attention, WindowAttention) and isinstance(module.mlp, MLP)
                first_weights(module.attention.attention, module.mlp, sum(tower.config.depths))
            elif isinstance(module, Merging):
                torch.nn.init.normal_(module.reduction.weight, std=module.reduction.in_features**-0.5)
    if isinstance(tower.patch_embedding, PatchEmbedding) and tower.patch_embedding.bias is not None:
        whiten(tower.patch_embedding, image_BCHW, generator)
    if isinstance(tower, VisionTransformer) and tower.config.width % 4 == 0:
        tower.position_embedding.zero_()
        tower.position_embedding[tower.config.extra :] = grid_waves(*tower.config.grid, tower.config.width)
        for name in ("class_token", "distillation_token"):
            if hasattr(tower, name):
                token = getattr(tower, name)
                token.copy_(0.02 * torch.randn(token.shape, generator=generator))

"""What an inner layer of a picture's tower says of each place: vectors in the place of a pooled one.

B pictures   L places   D width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.nn.resnet import EXPANSION, ModifiedResNet, ResNetConfig
from intermodal.nn.vit import VisionTransformer, ViTConfig

Tower = VisionTransformer | ModifiedResNet


def depth(config: ViTConfig | ResNetConfig) -> int:
    """Return how many layers there are: blocks, or stages."""
    return config.depth if isinstance(config, ViTConfig) else len(config.layers)


def chosen(config: ViTConfig | ResNetConfig, layers: Sequence[int]) -> list[int]:
    """Return layers as numbers from 0 (what the first one reads) to :func:`depth`; negative ones count from the end.

    Raises:
        ConfigError: if there is no such layer; the places of a ResNet's stages differ, so it has one at a time.
    """
    most, least = depth(config), 0 if isinstance(config, ViTConfig) else 1
    found = [layer if layer >= 0 else most + 1 + layer for layer in layers]
    if not found or min(found) < least or max(found) > most or (least and len(found) > 1):
        raise ConfigError(f"A tower of {most} layers has no layers {list(layers)} to look at.")
    return found


def grid(config: ViTConfig | ResNetConfig, layers: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of places."""
    if isinstance(config, ViTConfig):
        return config.grid
    shrunk = 4 * 2 ** (chosen(config, layers)[0] - 1)
    return config.size[0] // shrunk, config.size[1] // shrunk


def width(config: ViTConfig | ResNetConfig, layers: Sequence[int]) -> int:
    """Return D, of all these layers together."""
    found = chosen(config, layers)
    if isinstance(config, ViTConfig):
        return config.width * len(found)
    return EXPANSION * config.width * 2 ** (found[0] - 1)


def places(tower: Tower, image_BCHW: Tensor, layers: Sequence[int], *, whole: bool = False) -> Tensor:
    """Return the vectors of places, ``(B, L, D)``, row by row; several layers' side by side.

    Args:
        tower: a vision transformer or a ResNet.
        image_BCHW: prepared pictures.
        layers: which (:func:`chosen`); of a transformer as they are, with no norm behind them.
        whole: keep the class token before the places.
    """
    numbers = chosen(tower.config, layers)
    if isinstance(tower, ModifiedResNet):
        return tower.maps(image_BCHW, numbers[0]).flatten(2).transpose(1, 2)
    x_BLD = tower.embed_patches(image_BCHW)
    states = [x_BLD]
    for block in [*tower.transformer.blocks][: max(numbers)]:
        states.append(block(states[-1]))
    return torch.cat([states[n][:, 0 if whole else tower.config.extra :] for n in numbers], -1)


def idle(tower: Tower, layers: Sequence[int]) -> tuple[str, ...]:
    """Return prefixes of the names of parameters that :func:`places` does not use (without ``whole``)."""
    last = max(chosen(tower.config, layers))
    if isinstance(tower, ModifiedResNet):
        return (*(f"stages.{i}." for i in range(last, depth(tower.config))), "pool.", "position_embedding")
    unread = ("post_norm.", "pool.") if last else ("post_norm.", "pool.", "class_token")  # no block has mixed it in yet
    return (*(f"transformer.blocks.{i}." for i in range(last, depth(tower.config))), *unread)

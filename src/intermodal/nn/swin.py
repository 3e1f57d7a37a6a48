"""Swin (Liu et al. 2021) and Swin v2 (Liu et al. 2022): attention inside windows that move, over maps that shrink.

A picture becomes a map of patches. Each block attends inside windows of ``w x w`` places; every second block cuts the
windows half a window further down and right, so that neighbours meet. Between stages four places become one of twice the
width: a pyramid of maps, as a convolutional network has, at a cost that grows with the picture's area, not with its square.

The shift is cyclic, as in the paper: what is cut off above and at the left is put below and at the right, and a mask keeps
apart what does not lie side by side (Liu et al. 2021, figure 4). Shift and cut are one gather here. A map that windows do
not fit is filled up with zeros below and at the right, which take part, as in the published models.

    B batch   C channels   H, W pixels   h, w rows and columns of a map   D width   N windows   S places of a window
    L = h w places   A heads   K width of one head
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cache import LayerCache
from intermodal.nn.drop_path import check_rate, rates
from intermodal.nn.linear import linear
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.swin_windows import ContinuousBias, Cosines, Gathers, Permute, TableBias, gathers
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, Block, block_flops
from intermodal.nn.vit import flattened

MOST_KEPT = 2**22
"""So many numbers a block keeps of what it adds to scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinConfig(Config):
    """What a :class:`SwinTransformer` is built from; the defaults are Swin-Tiny's.

    Attributes:
        image_size: pixels, one number for a square or (height, width); other sizes are taken too.
        patch_size: P, pixels.
        width: D of the first stage; each stage doubles it.
        depths: blocks of each stage.
        heads: of each stage, which divide its width.
        window: places along a window's side: one number, of which a stage whose map is smaller takes no more than that has,
            or each stage's.
        version: 1: norms before attention and MLP, a table of position biases, dot products. 2: norms after them, biases
            from a small network of log-spaced coordinates, cosines.
        pretrained_windows: of version 2: the window of each stage that the coordinates are scaled to; 0 for its own.
        mlp_ratio: the MLPs' hidden width, as a multiple of the stage's.
        merge: how four places become one: ``concat`` joins their numbers before the linear map (the paper), ``mean`` and
            ``max`` pool them.
        pool: of the last map: ``mean`` averages its places (the paper), ``flat`` puts them one behind the other
            (:func:`~intermodal.nn.vit.flattened`).
        channels: colour channels.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        norm_eps: the layer norms' epsilon in blocks and at the end.
        drop_path: the last block's rate of stochastic depth in training, to which the others' rise from 0
            (:mod:`intermodal.nn.drop_path`).

    Raises:
        ConfigError: if a number is out of range, or there are not as many heads as stages.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int | tuple[int, ...] = 7
    version: Literal[1, 2] = 1
    pretrained_windows: tuple[int, ...] = ()
    mlp_ratio: float = 4.0
    merge: Literal["concat", "mean", "max"] = "concat"
    pool: Literal["mean", "flat"] = "mean"
    channels: int = 3
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.drop_path)
        if not self.depths or len(self.depths) != len(self.heads) or min(self.depths) < 0 or min(self.heads) < 1:
            raise ConfigError(f"Swin: depths and heads name each stage once, found {self.depths} and {self.heads}.")
        if self.width < 1 or any(self.width_of(i) % heads for i, heads in enumerate(self.heads)):
            raise ConfigError(f"Swin: each stage's width must be a multiple of its heads, found {self.width} x 2^i.")
        sides = (self.window,) if isinstance(self.window, int) else self.window
        if self.patch_size < 1 or self.patch_size > min(self.size) or not sides or min(sides) < 1:
            raise ConfigError(
                f"Swin: window must be at least 1 and patch_size from 1 to the picture's {min(self.size)}, found "
                f"{self.window} and {self.patch_size}."
            )
        for named in (self.window, self.pretrained_windows):
            if isinstance(named, tuple) and named and len(named) != len(self.depths):
                raise ConfigError(f"Swin: windows are named for each of {len(self.depths)} stages, found {named}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Swin: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def patches(self) -> PatchConfig:
        """How pictures are cut."""
        return PatchConfig(size=self.patch_size, edge="pad")

    @property
    def output_dim(self) -> int:
        """Width of the last map."""
        return self.width_of(len(self.depths) - 1)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled output, under the name that every image tower has."""
        return self.output_dim * (math.prod(self.grids(*self.size)[-1]) if self.pool == "flat" else 1)

    def width_of(self, stage: int) -> int:
        """Return D of a stage."""
        return self.width * 2**stage

    def hidden_of(self, stage: int) -> int:
        """Return the hidden width of a stage's MLPs."""
        return int(self.mlp_ratio * self.width_of(stage))

    def window_of(self, stage: int) -> int:
        """Return the side of a stage's windows."""
        if isinstance(self.window, tuple):
            return self.window[stage]
        return min(self.window, *self.grids(*self.size)[stage])

    def shift_of(self, stage: int) -> int:
        """Return how far every second block's windows are shifted: version 2 decides it for the configured size."""
        side = self.window_of(stage)
        return 0 if self.version == 2 and min(self.grids(*self.size)[stage]) <= side else side // 2

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the rows and columns of each stage's map for a picture of this size."""
        found = [self.patches.grid(height, width)]
        for _ in self.depths[1:]:
            found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
        return found

    def flops(self, height: int | None = None, width: int | None = None) -> int:
        """Return the forward operations of one picture (a multiply-add is two), of the configured size or another one.

        Matrix products only; of version 2 without the network of the position biases, which does not grow with pictures.
        """
        grids = self.grids(height or self.size[0], width or self.size[1])
        total = 2 * math.prod(grids[0]) * self.channels * self.patch_size**2 * self.width
        for stage, (rows, columns) in enumerate(grids):
            side, wide = self.window_of(stage), self.width_of(stage)
            inside = math.prod(-(-count // side) for count in (rows, columns)) * block_flops(side**2, wide, 0)
            total += self.depths[stage] * (inside + 4 * rows * columns * wide * self.hidden_of(stage))
            if stage + 1 < len(self.depths):
                read = 4 * wide if self.merge == "concat" else wide
                total += 2 * math.prod(grids[stage + 1]) * read * 2 * wide
        return total


class QueryValueBias(nn.Linear):
    """Queries, keys and values from one matrix product, with a bias for queries and values alone (Liu et al. 2022).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.bias = nn.Parameter(torch.zeros(2 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., 3 D)."""
        query, value = self.bias.chunk(2)
        return linear(x, self.weight, torch.cat([query, torch.zeros_like(query), value]))


class WindowAttention(nn.Module):
    """Attention inside the windows of a map.

    Args:
        width: D.
        heads: A.
        side: of a window.
        shift: how far the windows are shifted, 0 or half their side.
        version: 1 or 2.
        pretrained: of version 2, as :class:`ContinuousBias` has it.
    """

    def __init__(self, width: int, heads: int, *, side: int, shift: int, version: int, pretrained: int = 0) -> None:
        super().__init__()
        self.side, self.shift, self.version = side, shift, version
        self.attention = Attention(width, heads, positions=Cosines(heads) if version == 2 else None)
        self.bias: TableBias | ContinuousBias = TableBias(side, heads)
        if version == 2:
            self.attention.qkv = QueryValueBias(width)
            self.bias = ContinuousBias(side, heads, pretrained)
        self._kept: tuple[object, Tensor] | None = None

    def forward(self, x_BhwD: Tensor, *, mask: None = None, cache: LayerCache | None = None) -> Tensor:
        """Map (B, h, w, D) to (B, h, w, D); version 1 does not shift where one window spans the map's shorter side."""
        del mask, cache
        batch, rows, columns = x_BhwD.shape[:3]
        x_MSD, added, cut, _ = self._windowed(x_BhwD)
        y_MSD = self.attention(x_MSD, mask=added)
        y_BLD = Permute.apply(y_MSD.reshape(batch, -1, y_MSD.shape[2]), cut.back_L, cut.there_L)
        return y_BLD.unflatten(1, (rows + cut.below, columns + cut.right))[:, :rows, :columns]

    def weights(self, x_BhwD: Tensor) -> tuple[Tensor, int]:
        """Return what each window's places weigh each other with, ``(B N, A, S, S)``, and how far windows are shifted."""
        x_MSD, added, _, shift = self._windowed(x_BhwD)
        return self.attention.weights(x_MSD, added=added), shift

    def _windowed(self, x_BhwD: Tensor) -> tuple[Tensor, Tensor, Gathers, int]:
        """Return the windows' places ``(B N, S, D)``, what is added to their scores, the cut and its shift."""
        batch, rows, columns = x_BhwD.shape[:3]
        shift = self.shift if self.version == 2 or min(rows, columns) > self.side else 0
        cut = gathers(rows, columns, self.side, shift, x_BhwD.device)
        if cut.below or cut.right:
            x_BhwD = F.pad(x_BhwD, (0, 0, 0, cut.right, 0, cut.below))
        added = self._added(cut)
        if batch > 1 and len(added) > 1:
            added = added.repeat(batch, 1, 1, 1)
        x_BLD = Permute.apply(x_BhwD.flatten(1, 2), cut.there_L, cut.back_L)
        return x_BLD.reshape(-1, self.side**2, x_BLD.shape[2]), added, cut, shift

    def _added(self, cut: Gathers) -> Tensor:
        """Return what is added to the scores, ``(1 or N, A, S, S)``: kept from call to call where nothing is trained."""
        parameters = list(self.bias.parameters())
        if torch.is_grad_enabled() or any(p.is_inference() for p in parameters):
            return self._scores(cut.apart_NSS)
        key = (cut, *((p._version, p.data_ptr(), p.dtype) for p in parameters))
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        added = self._scores(cut.apart_NSS)
        if added.numel() <= MOST_KEPT:
            self._kept = key, added
        return added

    def _scores(self, apart_NSS: Tensor | None) -> Tensor:
        with torch.autocast(self.bias.device.type, enabled=False):
            bias_1ASS = self.bias()[None]
        return bias_1ASS if apart_NSS is None else bias_1ASS.masked_fill(apart_NSS[:, None], float("-inf"))


class ResPostNormBlock(Block):
    """Version 2's block: ``x + norm1(attention(x))``, then ``x + norm2(mlp(x))`` (Liu et al. 2022, section 3.2)."""

    def forward(
        self, x_BLD: Tensor, *, mask: Tensor | None = None, cache: LayerCache | None = None, **more: Any
    ) -> Tensor:
        """Map maps or tokens to the same shape; the arguments as in :class:`Block`."""
        x_BLD = x_BLD + self.dropout(self.norm1(self.attention(x_BLD, mask=mask, cache=cache, **more)))
        return x_BLD + self.dropout(self.norm2(self.mlp(x_BLD)))


# --8<-- [start:merging]
class Merging(nn.Module):
    """Four places become one of twice the width (Liu et al. 2021, section 3.1): a linear map of what they hold together.

    An odd map is filled up with zeros below and at the right. Version 1 normalises before the linear map, 2 after it.

    Args:
        width: D; the result has 2 D.
        version: 1 or 2.
        merge: ``concat``: the four are joined, 4 D numbers; ``mean`` or ``max``: pooled, D numbers.
    """

    def __init__(self, width: int, version: int, merge: str = "concat") -> None:
        super().__init__()
        self.merge, self.version = merge, version
        read = 4 * width if merge == "concat" else width
        self.norm = nn.LayerNorm(read if version == 1 else 2 * width)
        self.reduction = nn.Linear(read, 2 * width, bias=False)

    def forward(self, x_BhwD: Tensor) -> Tensor:
        """Map (B, h, w, D) to (B, ceil(h / 2), ceil(w / 2), 2 D)."""
        below, right = x_BhwD.shape[1] % 2, x_BhwD.shape[2] % 2
        if below or right:
            x_BhwD = F.pad(x_BhwD, (0, 0, 0, right, 0, below))
        four = x_BhwD.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)  # B h w, column, row, D
        if self.merge == "concat":
            x_BhwD = four.flatten(3)
        else:
            x_BhwD = four.mean((3, 4)) if self.merge == "mean" else four.amax((3, 4))
        if self.version == 1:
            return self.reduction(self.norm(x_BhwD))
        return self.norm(self.reduction(x_BhwD))


# --8<-- [end:merging]


class SwinTransformer(nn.Module):
    """A pyramid of maps made by attention inside windows.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config.channels, config.width, config.patches)
        self.patch_norm = nn.LayerNorm(config.width)
        stages, mergings = [], []
        rate = rates(config.drop_path, sum(config.depths))
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            stages.append(nn.ModuleList(self._block(stage, number, rate[first + number]) for number in range(depth)))
            if stage + 1 < len(config.depths):
                mergings.append(Merging(config.width_of(stage), config.version, config.merge))
        self.stages, self.mergings = nn.ModuleList(stages), nn.ModuleList(mergings)
        self.norm = nn.LayerNorm(config.output_dim, eps=config.norm_eps)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(("bias.fc1", "bias.fc2")):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _block(self, stage: int, number: int, drop_path: float) -> Block:
        config, side = self.config, self.config.window_of(stage)
        width = config.width_of(stage)
        shift = config.shift_of(stage) if number % 2 else 0
        pretrained = config.pretrained_windows[stage] if config.pretrained_windows else 0
        attention = WindowAttention(
            width, config.heads[stage], side=side, shift=shift, version=config.version, pretrained=pretrained
        )
        mlp = MLP(width, config.hidden_of(stage), config.activation)
        cls = Block if config.version == 1 else ResPostNormBlock
        return cls(width, attention, mlp, norm_eps=config.norm_eps, drop_path=drop_path)

    def maps(self, image_BCHW: Tensor, watch: Callable[[int, nn.Module, Tensor], None] | None = None) -> list[Tensor]:
        """Return the map of each stage, dense features at ever coarser resolutions, ``(B, h, w, D)`` each.

        Args:
            image_BCHW: float, normalised, of any size.
            watch: called before each block with its stage, itself and what it reads.

        Raises:
            DataError: if the pictures are of other channels.
        """
        config = self.config
        if image_BCHW.dim() != 4 or image_BCHW.shape[1] != config.channels or 0 in image_BCHW.shape:
            raise DataError(
                f"Swin takes pictures of shape (B, {config.channels}, H, W), found {tuple(image_BCHW.shape)}."
            )
        grid = config.patches.grid(*image_BCHW.shape[2:])
        x_BhwD = self.patch_norm(self.patch_embedding(image_BCHW)).unflatten(1, grid)
        found: list[Tensor] = []
        for stage, blocks in enumerate(self.stages):
            if stage:
                x_BhwD = self.mergings[stage - 1](x_BhwD)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                if watch is not None:
                    watch(stage, block, x_BhwD)
                x_BhwD = block(x_BhwD)
            found.append(x_BhwD)
        return found

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pictures of any size, ``(B, C, H, W)``.

        Returns:
            The pooled output, ``(B, D)`` or ``(B, L D)``, and the last stage's normalised places ``(B, L, D)``.

        Raises:
            DataError: as :meth:`maps`.
        """
        x_BhwD = self.norm(self.maps(image_BCHW)[-1])
        x_BLD = x_BhwD.flatten(1, 2)
        if self.config.pool == "flat":
            return flattened(x_BhwD, self.config.grids(*self.config.size)[-1]), x_BLD
        return x_BLD.mean(1), x_BLD

"""Pictures to patches and back: cut, overlapping or through convolutions, at any size and shape.

What a size leaves over is stated, not hidden: a :class:`PatchConfig` either cuts it off at the right and lower edge, as the
vision transformer does (Dosovitskiy et al. 2021), or fills the picture up there with zeros, as Swin does (Liu et al. 2021).
Patches overlap where their stride is below their size (Yuan et al. 2021; Xie et al. 2021), and then the picture may have a
border of zeros all around, as a convolution has.

    B batch   C channels   H, W height and width in pixels   h, w rows and columns of patches, L = h w
    P numbers of a patch   D width of a token
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.linear import linear

Pair = int | tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig(Config):
    """How a picture is cut into patches.

    Attributes:
        size: height and width of a patch in pixels, or one number for both.
        stride: pixels from one patch to the next, down and right; None for ``size``, so that patches lie side by side.
        border: rows and columns of zeros added on both sides first, as by a convolution's padding.
        edge: what is done with rows and columns at the lower and right edge in which no whole patch fits. ``cut``: left
            out. ``pad``: zeros are added there until the last patch is whole.

    Raises:
        ConfigError: if a number is too small, or a border so wide that a patch could hold nothing else.
    """

    size: Pair
    stride: Pair | None = None
    border: Pair = 0
    edge: Literal["cut", "pad"] = "cut"

    def __post_init__(self) -> None:
        if min(self.sizes) < 1 or min(self.strides) < 1:
            raise ConfigError(f"Patches: size and stride must be at least 1, found {self.size} and {self.stride}.")
        if min(self.borders) < 0 or any(b >= s for b, s in zip(self.borders, self.sizes, strict=True)):
            raise ConfigError(f"Patches: the border must be from 0 to below the size {self.size}, found {self.border}.")

    @property
    def sizes(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return _pair(self.size)

    @property
    def strides(self) -> tuple[int, int]:
        """Pixels from one patch to the next, down and right."""
        return _pair(self.size if self.stride is None else self.stride)

    @property
    def borders(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side."""
        return _pair(self.border)

    @property
    def side_by_side(self) -> bool:
        """Whether every pixel, but for what is cut off, lies in exactly one patch."""
        return self.sizes == self.strides

    def numbers(self, channels: int) -> int:
        """Return P, how many numbers a patch of ``channels`` has."""
        return channels * self.sizes[0] * self.sizes[1]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of patches a picture has.

        Raises:
            DataError: if not a single patch fits.
        """
        return self._along(0, height, "height"), self._along(1, width, "width")

    def covers(self, height: int, width: int) -> bool:
        """Say whether every pixel of such a picture lies in a patch, so that :func:`join` gives it back whole."""
        axes = zip(self.grid(height, width), self.strides, self.sizes, self.borders, (height, width), strict=True)
        return all(
            place - min(place // stride, count - 1) * stride < size  # the last patch that begins at or before the place
            for count, stride, size, border, length in axes
            for place in range(border, border + length)
        )

    def _along(self, axis: int, length: int, name: str) -> int:
        size, stride = self.sizes[axis], self.strides[axis]
        room = length + 2 * self.borders[axis] - size
        if length < 1 or (room < 0 and self.edge == "cut"):
            raise DataError(
                f"No patch of {size} pixels fits into a picture's {name} of {length}: enlarge the picture, or set edge to "
                "pad."
            )
        return 1 + (room // stride if self.edge == "cut" else max(-(-room // stride), 0))

    def padded(self, image_BCHW: Tensor) -> Tensor:
        """Return pictures of exactly the pixels that the patches lie on: with border, filled up, cut off."""
        height, width = image_BCHW.shape[2:]
        ends = [
            (count - 1) * stride + size
            for count, stride, size in zip(self.grid(height, width), self.strides, self.sizes, strict=True)
        ]
        (top, left), (bottom, right) = self.borders, ends
        padding = (left, max(right - left - width, 0), top, max(bottom - top - height, 0))
        return (F.pad(image_BCHW, padding) if any(padding) else image_BCHW)[:, :, :bottom, :right]


def split(image_BCHW: Tensor, config: PatchConfig) -> Tensor:
    """Return the patches of pictures, ``(B, L, P)``, row after row; a patch's numbers are in the order (C, height, width).

    Raises:
        DataError: if not a single patch fits.
    """
    (rows, columns), (high, wide) = config.grid(*image_BCHW.shape[2:]), config.sizes
    image_BCHW = config.padded(image_BCHW)
    if config.side_by_side:
        patches = image_BCHW.unflatten(3, (columns, wide)).unflatten(2, (rows, high)).permute(0, 2, 4, 1, 3, 5)
    else:
        down, right = config.strides
        patches = image_BCHW.unfold(2, high, down).unfold(3, wide, right).permute(0, 2, 3, 1, 4, 5)
    return patches.flatten(3).flatten(1, 2)


def join(patch_BLP: Tensor, config: PatchConfig, height: int, width: int) -> Tensor:
    """Return the pictures ``(B, C, H, W)`` that patches ``(B, L, P)`` make up.

    A pixel in several patches is the mean of what they say. It inverts :func:`split`, without any error where patches lie
    side by side and but for rounding where they overlap, if :meth:`PatchConfig.covers` this size; pixels in no patch are 0.

    Raises:
        DataError: if a picture of this size has other patches.
    """
    grid, (high, wide) = config.grid(height, width), config.sizes
    _check(patch_BLP, grid[0] * grid[1], high * wide)
    (rows, columns), (top, left), (down, right) = grid, config.borders, config.strides
    whole = ((rows - 1) * down + high, (columns - 1) * right + wide)
    if config.side_by_side:
        parts = patch_BLP.unflatten(2, (-1, high, wide)).unflatten(1, grid)  # B rows columns C high wide
        image_BCHW = parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    else:
        image_BCHW = F.fold(patch_BLP.transpose(1, 2), whole, config.sizes, stride=config.strides)
        ones = patch_BLP.new_ones(1, high * wide, rows * columns)
        coverage = F.fold(ones, whole, config.sizes, stride=config.strides)
        image_BCHW = image_BCHW / coverage.clamp(min=1)
    image_BCHW = image_BCHW[:, :, top : top + height, left : left + width]
    missing = (0, width - image_BCHW.shape[3], 0, height - image_BCHW.shape[2])
    return F.pad(image_BCHW, missing) if any(missing) else image_BCHW


class PatchEmbedding(nn.Conv2d):
    """Each patch times one matrix: a continuous embedding (Dosovitskiy et al. 2021, equation 1).

    It is the convolution whose kernel is a patch, and has that one's parameters: ``weight`` (D, C, height, width of a patch)
    and ``bias`` (D,). Where patches lie side by side it is computed as one matrix product.

    Args:
        channels: C.
        width: D.
        config: the patches.
        bias: whether there is one.
    """

    def __init__(self, channels: int, width: int, config: PatchConfig, *, bias: bool = True) -> None:
        super().__init__(channels, width, config.sizes, stride=config.strides, bias=bias)
        self.config = config

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return the tokens ``(B, L, D)`` of pictures, row after row.

        Raises:
            DataError: if the pictures have other channels, or not a single patch fits.
        """
        if image_BCHW.ndim != 4 or image_BCHW.shape[1] != self.in_channels:
            raise DataError(
                f"The patch embedding takes pictures of shape (B, {self.in_channels}, H, W), found "
                f"{tuple(image_BCHW.shape)}."
            )
        if self.config.side_by_side:
            return linear(split(image_BCHW, self.config), self.weight.flatten(1), self.bias)
        return super().forward(self.config.padded(image_BCHW)).flatten(2).transpose(1, 2)

    def invertible(self) -> bool:
        """Say whether no two patches have the same token: the matrix has full column rank."""
        matrix_DP = self.weight.detach().flatten(1).double()
        return int(torch.linalg.matrix_rank(matrix_DP)) == matrix_DP.shape[1]

    def inverse(self, token_BLD: Tensor, height: int, width: int) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` of tokens ``(B, L, D)``, by the matrix's pseudo-inverse.

        Exact but for rounding where the embedding is :meth:`invertible` and the patches cover the picture; else each patch
        is the shortest of those whose token comes nearest.

        Raises:
            DataError: if a picture of this size has other tokens.
        """
        rows, columns = self.config.grid(height, width)
        _check(token_BLD, rows * columns, 1)
        tokens = token_BLD if self.bias is None else token_BLD - self.bias
        patches = F.linear(tokens, torch.linalg.pinv(self.weight.flatten(1)))
        return join(patches, self.config, height, width)


class ConvStem(nn.Module):
    """Convolutions in place of the patch embedding (Xiao et al. 2021, section 4).

    Every layer is a 3 x 3 convolution of stride 2 with a border of one zero, batch normalisation and a ReLU; a 1 x 1
    convolution ends it. A layer turns n rows into ``ceil(n / 2)``, so any size of picture is taken and nothing is cut off.

    Args:
        channels: C.
        width: D.
        layers: channels of each layer, at least one; a token stands for ``2 ** len(layers)`` pixels each way.

    Raises:
        ConfigError: if there is no layer, or one of no channels.
    """

    def __init__(self, channels: int, width: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ConfigError(f"Convolutional stem: there must be a layer of at least one channel, found {layers}.")
        self.stride = 2 ** len(layers)
        parts: list[nn.Module] = []
        for before, after in zip((channels, *layers), layers, strict=False):
            parts += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Conv2d(layers[-1], width, 1))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of tokens a picture has."""
        return -(-height // self.stride), -(-width // self.stride)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return the tokens ``(B, L, D)`` of pictures, row after row."""
        return self.layers(image_BCHW).flatten(2).transpose(1, 2)


def interpolate_positions(
    position_LD: Tensor, grid: tuple[int, int], wanted: tuple[int, int], *, extra: int = 0
) -> Tensor:
    """Return position embeddings of one grid of patches for another one (Dosovitskiy et al. 2021, section 3.2).

    Bicubic, the corners of the outer patches aligned, without antialiasing, as the published models do it.

    Args:
        position_LD: of ``grid``, row after row.
        grid: rows and columns that they were learnt for.
        wanted: rows and columns that are wanted.
        extra: so many at the front, such as a class token's, have no place and stay as they are.

    Raises:
        DataError: if there are not as many embeddings as the grid has places.
    """
    if len(position_LD) != extra + grid[0] * grid[1]:
        raise DataError(
            f"{len(position_LD)} position embeddings are not those of {grid[0]} x {grid[1]} patches and {extra} others."
        )
    if grid == wanted:
        return position_LD
    map_1Dhw = position_LD[extra:].T.unflatten(1, grid).unsqueeze(0)
    resized = F.interpolate(map_1Dhw, size=wanted, mode="bicubic", align_corners=False)
    return torch.cat([position_LD[:extra], resized[0].flatten(1).T])


def _check(values_BLX: Tensor, places: int, multiple: int) -> None:
    if values_BLX.ndim != 3 or values_BLX.shape[1] != places or values_BLX.shape[2] % multiple:
        raise DataError(
            f"A picture of this size has {places} patches, found values of shape {tuple(values_BLX.shape)}: they are of "
            "another size of picture or patch."
        )


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value

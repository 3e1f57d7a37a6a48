"""DiT: a transformer as the network of diffusion (Peebles & Xie 2023, arXiv:2212.09748), with adaLN-zero.

A map is cut into patches, which are the tokens. The time and what else is told (a class, a pooled condition) become one
vector, from which every block takes a scale, a shift and a gate for each of its branches; the gates begin at zero, so that
every block begins as the identity.

    B batch   C channels   H, W height and width   L patches   D width
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.patches import PatchConfig, PatchEmbedding
from intermodal.nn.timestep import TimeEmbedding
from intermodal.nn.transformer import MLP, Attention

WAVES = 256
"""Numbers that the time is turned into."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig(Config):
    """What a :class:`DiT` is built from; the defaults are a small one. DiT-XL/2 has 28 blocks, 16 heads and a width of 1152.

    Attributes:
        in_channels: C of the noisy maps.
        out_channels: C of the output; twice as many with a learnt variance.
        size: height and width that positions are counted on; other sizes are stretched to it.
        patch: pixels of a patch's side; divides the size.
        width: D, a multiple of ``heads`` and of 4.
        depth: blocks.
        heads: of attention.
        classes: labels that may be told, 0 to ``classes - 1``; the label ``classes`` itself stands for none. None for a
            network that is told no class.
        pooled_dim: width of a vector that is told, such as a pooled text; None for none.
        eps: of the norm before the MLP (that before attention has 1e-6).

    Raises:
        ConfigError: if a number does not fit.
    """

    in_channels: int = 3
    out_channels: int = 3
    size: int = 32
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    classes: int | None = None
    pooled_dim: int | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        counts = (self.in_channels, self.out_channels, self.size, self.patch, self.width, self.depth, self.heads)
        if min(counts) < 1 or (self.classes is not None and self.classes < 1):
            raise ConfigError(f"DiT: every count must be at least 1, found {counts} and {self.classes} classes.")
        if self.width % self.heads or self.width % 4:
            raise ConfigError(
                f"DiT: the width must be a multiple of 4 and of the {self.heads} heads, found {self.width}."
            )
        if self.size % self.patch:
            raise ConfigError(f"DiT: patches of {self.patch} pixels do not divide a size of {self.size}.")


class DiTBlock(nn.Module):
    """A transformer block whose norms, and the gates of its branches, come from a condition: adaLN-zero (section 3.2)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, config.eps, elementwise_affine=False)
        self.mlp = MLP(width, 4 * width, "gelu_tanh")
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_BLD: Tensor, told_BD: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D); ``told_BD`` is the condition, its SiLU taken."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(told_BD)[:, None].chunk(6, -1)
        x_BLD = torch.addcmul(x_BLD, gate1, self.attention(modulate(self.norm1(x_BLD), shift1, scale1)))
        return torch.addcmul(x_BLD, gate2, self.mlp(modulate(self.norm2(x_BLD), shift2, scale2)))


class DiT(nn.Module):
    """A transformer that takes noisy maps and their times.

    Args:
        config: the sizes.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = PatchEmbedding(config.in_channels, width, PatchConfig(size=config.patch))
        self.time = TimeEmbedding(WAVES, width, shift=1)
        self.classes = None if config.classes is None else nn.Embedding(config.classes + 1, width)
        self.pooled = None if config.pooled_dim is None else nn.Linear(config.pooled_dim, width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.patch**2 * config.out_channels)
        self._initialise()

    def forward(
        self, x_BCHW: Tensor, t_B: Tensor, classes_B: Tensor | None = None, *, pooled_BE: Tensor | None = None
    ) -> Tensor:
        """Return the prediction, ``(B, out_channels, H, W)``.

        Args:
            x_BCHW: noisy maps, height and width multiples of the patch.
            t_B: times, any number.
            classes_B: labels, exactly where the network is told a class.
            pooled_BE: vectors, exactly where it is told one.

        Raises:
            DataError: if something is missing, superfluous or of another shape.
        """
        self._check(x_BCHW, classes_B, pooled_BE)
        patch, (height, width) = self.config.patch, x_BCHW.shape[2:]
        told_BD = self.time(t_B)
        if self.classes is not None and classes_B is not None:
            told_BD = told_BD + self.classes(classes_B)
        if self.pooled is not None and pooled_BE is not None:
            told_BD = told_BD + self.pooled(pooled_BE)
        told_BD = F.silu(told_BD)
        x_BLD = self.embed(x_BCHW)
        x_BLD = x_BLD + self.positions(height // patch, width // patch).to(x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, told_BD)
        shift, scale = self.modulation(told_BD)[:, None].chunk(2, -1)
        pixel_BLP = self.out(modulate(self.norm_out(x_BLD), shift, scale))
        grid = pixel_BLP.unflatten(2, (patch, patch, -1)).unflatten(1, (height // patch, width // patch))
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(x_BCHW), -1, height, width)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the positions of patches, ``(L, D)`` float32: waves of the column, then of the row.

        Vaswani et al. 2017 in two dimensions, as in He et al. 2022 (MAE); counted on the configuration's size, to which
        another grid is stretched.
        """
        base = self.config.size // self.config.patch
        quarter = self.config.width // 4
        frequency = 1.0 / 10_000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
        waves = []
        for count in (columns, rows):
            place = torch.arange(count, dtype=torch.float32) / (count / base)
            angle = place.double()[:, None] * frequency
            waves.append(torch.cat((angle.sin(), angle.cos()), 1))
        both = (waves[0][None].expand(rows, -1, -1), waves[1][:, None].expand(-1, columns, -1))
        return torch.cat(both, 2).flatten(0, 1).float()

    def _initialise(self) -> None:
        """Give the published start: Xavier-uniform layers, small embeddings, and zeros where a branch is let in."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.embed.weight.view(self.config.width, -1))
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)
        for layer in (self.time.fc1, self.time.fc2):
            nn.init.normal_(layer.weight, std=0.02)
        gates = [m.modulation for m in self.modules() if isinstance(m, DiT | DiTBlock)]
        for layer in (*gates, self.out):
            nn.init.zeros_(layer.weight)

    def _check(self, x_BCHW: Tensor, classes_B: Tensor | None, pooled_BE: Tensor | None) -> None:
        config = self.config
        if x_BCHW.dim() != 4 or x_BCHW.shape[1] != config.in_channels:
            raise DataError(f"DiT takes maps of shape (B, {config.in_channels}, H, W), found {list(x_BCHW.shape)}.")
        if min(x_BCHW.shape[2:]) < 1 or x_BCHW.shape[2] % config.patch or x_BCHW.shape[3] % config.patch:
            raise DataError(
                f"DiT cuts a map into patches of {config.patch} pixels, so height and width must be multiples of that, "
                f"found {x_BCHW.shape[2]} x {x_BCHW.shape[3]}."
            )
        for what, has, given in (
            ("class", config.classes is not None, classes_B is not None),
            ("pooled vector", config.pooled_dim is not None, pooled_BE is not None),
        ):
            if has != given:
                raise DataError(f"This DiT is told {'a' if has else 'no'} {what} beside the time.")


def modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Return ``x (1 + scale) + shift``."""
    return torch.addcmul(shift_B1D, x_BLD, 1 + scale_B1D)

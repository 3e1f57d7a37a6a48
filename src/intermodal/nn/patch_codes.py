"""The smallest visual tokenizer: a patch's code is the nearest of K patches that k-means found.

BEiT's tokenizers are trained networks (DALL-E's dVAE, VQ-KD). This one looks at a few mean colours of a patch, and needs no
training but a few rounds of Lloyd's algorithm. It stands in for them where the codes only have to be predicted.

B pictures   P patches   X numbers of a patch   K codes
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.nn.nearest import nearest
from intermodal.nn.patches import PatchConfig, split
from intermodal.nn.quantizers.vector import VectorQuantizer, VectorQuantizerConfig


class PatchCodes(nn.Module):
    """Codes of patches by their mean colours.

    Args:
        patch_size: pixels of a patch's side.
        cells: mean colours of a side; it divides ``patch_size``.
        codes: K.
    """

    codebook: Tensor

    def __init__(self, patch_size: int, cells: int, codes: int) -> None:
        super().__init__()
        self.pixels, self.cells = patch_size // cells, PatchConfig(size=cells)
        self.register_buffer("codebook", torch.randn(codes, self.cells.numbers(3)))

    def means(self, image_BCHW: Tensor) -> Tensor:
        """Return what codes are chosen by: the mean colours of each patch, (B, P, X)."""
        return split(F.avg_pool2d(image_BCHW.float(), self.pixels), self.cells)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return the codes of prepared pictures, int64 (B, P)."""
        means_BPX = self.means(image_BCHW)
        return nearest(means_BPX.flatten(0, 1), self.codebook.float()).view(means_BPX.shape[:2])

    @torch.no_grad()
    def fit(self, image_BCHW: Tensor, generator: torch.Generator) -> None:
        """Find the codes of these pictures' patches, of equal ones one."""
        patch_NX = self.means(image_BCHW).flatten(0, 1).unique(dim=0)
        found = VectorQuantizer(
            VectorQuantizerConfig(codes=len(self.codebook), dim=patch_NX.shape[1], initial="kmeans")
        ).train()
        found.rows(patch_NX, generator)
        self.codebook.copy_(found.codebook)

    def pictures(self, code_BP: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what codes look like, prepared pictures (B, 3, rows, columns) of mean colours."""
        high, wide = self.cells.sizes
        patch_BPX = F.embedding(code_BP, self.codebook)
        cells = patch_BPX.unflatten(2, (3, high, wide)).unflatten(1, grid)
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

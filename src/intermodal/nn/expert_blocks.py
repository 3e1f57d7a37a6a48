"""Blocks in which the tokens of pictures and of texts share some layers and have others of their own.

In both, every token attends to all. :class:`ExpertBlock` shares the attention and switches the MLP, as the papers say
(VLMo, Bao et al. 2022; BEiT-3, Wang et al. 2023). :class:`SeparateBlock` has attention projections and norms for each
modality too, and a norm before the last matrix of attention and MLP: so BEiT-3's published weights are made
(torchscale's multiway network).

B batch   L tokens, of one modality or of both one behind the other   D width   H heads   K of one head   N tokens kept
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from intermodal.nn.patches import ConvStem, PatchConfig, split
from intermodal.nn.transformer import MLP, Activation, Attention, attend, past

Expert = Literal["vision", "language", "fusion"]
EXPERTS: tuple[Expert, ...] = ("vision", "language", "fusion")
Swap = Mapping[Expert, Expert]
"""Which expert does another's work, to see what each has learnt."""
Parts = tuple[tuple[Expert, int], ...]
"""Which expert takes how many tokens, in their order."""
Kept = tuple[Tensor, Tensor]
"""Keys and values of what was read before, each (B, H, N, K)."""


def routed(modules: nn.ModuleDict, x_BLD: Tensor, parts: Parts) -> Tensor:
    """Return (B, L, D): each part of the tokens through its expert's module."""
    if len(parts) == 1:
        return modules[parts[0][0]](x_BLD)
    pieces = x_BLD.split([count for _, count in parts], 1)
    return torch.cat([modules[e](piece) for (e, _), piece in zip(parts, pieces, strict=True)], 1)


class NormedMLP(MLP):
    """An MLP with a layer norm before its last matrix (sub-LayerNorm, Wang et al. 2022, *Foundation Transformers*)."""

    def __init__(self, width: int, hidden: int, activation: Activation, norm_eps: float) -> None:
        super().__init__(width, hidden, activation)
        self.norm = nn.LayerNorm(hidden, eps=norm_eps)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.norm(self.activation(self.fc1(x_BLD))))


# --8<-- [start:block]
class ExpertBlock(nn.Module):
    """``x + attention(norm(x))``, then for each token ``x + mlp_e(norm_e(x))`` with the expert ``e`` of its modality.

    Bao et al. 2022, equations 1 and 2; each expert has a layer norm of its own.

    Args:
        width: D.
        heads: H.
        hidden: hidden width of the MLPs.
        activation: of the MLPs.
        norm_eps: the layer norms' epsilon.
        experts: which there are.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self, width: int, heads: int, hidden: int, activation: Activation, norm_eps: float, experts: tuple[Expert, ...]
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norms = nn.ModuleDict({e: nn.LayerNorm(width, eps=norm_eps) for e in experts})
        self.mlps = nn.ModuleDict({e: MLP(width, hidden, activation) for e in experts})

    def forward(self, x_BLD: Tensor, parts: Parts, mask: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D).

        Args:
            x_BLD: the tokens of one modality, or of both one behind the other.
            parts: which expert takes how many tokens, in their order.
            mask: bool, broadcasts to (B, H, L, L), which tokens each may attend to.
        """
        x_BLD = x_BLD + self.attention(self.norm(x_BLD), mask=mask)
        return x_BLD + routed(self.mlps, routed(self.norms, x_BLD, parts), parts)

    # --8<-- [end:block]

    def onward(self, x_BLD: Tensor, parts: Parts, kept: Kept | None, mask: Tensor | None = None) -> tuple[Tensor, Kept]:
        """Go on behind tokens that were read before.

        Args:
            x_BLD: the new tokens.
            parts: their experts.
            kept: keys and values of those before; None at the beginning.
            mask: bool, broadcasts to (B, H, L, N + L).

        Returns:
            The new tokens' vectors, and the keys and values of all.
        """
        y_BLD, kept = self.attention.onward(self.norm(x_BLD), kept, mask)
        x_BLD = x_BLD + y_BLD
        return x_BLD + routed(self.mlps, routed(self.norms, x_BLD, parts), parts), kept

    def weights(self, x_BLD: Tensor, parts: Parts) -> Tensor:
        """Return where each token looks, (B, H, L, L), where no mask forbids it."""
        del parts
        return self.attention.weights(self.norm(x_BLD))


class SeparateAttention(nn.Module):
    """Attention of all tokens to all, with matrices for each modality and a norm before the last of them.

    Args:
        width: D.
        heads: H.
        norm_eps: the layer norms' epsilon.
        experts: the modalities.
    """

    def __init__(self, width: int, heads: int, norm_eps: float, experts: tuple[Expert, ...]) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleDict({e: nn.Linear(width, 3 * width) for e in experts})
        self.norms = nn.ModuleDict({e: nn.LayerNorm(width, eps=norm_eps) for e in experts})
        self.out = nn.ModuleDict({e: nn.Linear(width, width) for e in experts})

    def onward(self, x_BLD: Tensor, parts: Parts, kept: Kept | None, mask: Tensor | None = None) -> tuple[Tensor, Kept]:
        """Attend to these tokens and to those before; see :meth:`ExpertBlock.onward`."""
        q_BHLK, k_BHSK, v_BHSK = self._project(x_BLD, parts)
        if kept is not None:
            k_BHSK, v_BHSK = torch.cat([kept[0], k_BHSK], 2), torch.cat([kept[1], v_BHSK], 2)
        y_BHLK = attend(q_BHLK, k_BHSK, v_BHSK, mask=mask, dropout=0.0, causal=False)
        y_BLD = y_BHLK.transpose(1, 2).flatten(-2)
        return routed(self.out, routed(self.norms, y_BLD, parts), parts), (k_BHSK, v_BHSK)

    def weights(self, x_BLD: Tensor, parts: Parts) -> Tensor:
        """Return where each token looks, (B, H, L, L)."""
        q_BHLK, k_BHLK, _ = self._project(x_BLD, parts)
        return (q_BHLK @ k_BHLK.transpose(-1, -2) * q_BHLK.shape[-1] ** -0.5).softmax(-1)

    def _project(self, x_BLD: Tensor, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
        q_BLHK, k_BLHK, v_BLHK = routed(self.qkv, x_BLD, parts).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q_BLHK.transpose(1, 2), k_BLHK.transpose(1, 2), v_BLHK.transpose(1, 2)


class SeparateBlock(nn.Module):
    """A block all of whose layers each modality has for itself; what they share is where they attend to.

    The arguments and methods are those of :class:`ExpertBlock`.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self, width: int, heads: int, hidden: int, activation: Activation, norm_eps: float, experts: tuple[Expert, ...]
    ) -> None:
        super().__init__()
        self.before = nn.ModuleDict({e: nn.LayerNorm(width, eps=norm_eps) for e in experts})
        self.attention = SeparateAttention(width, heads, norm_eps, experts)
        self.norms = nn.ModuleDict({e: nn.LayerNorm(width, eps=norm_eps) for e in experts})
        self.mlps = nn.ModuleDict({e: NormedMLP(width, hidden, activation, norm_eps) for e in experts})

    def forward(self, x_BLD: Tensor, parts: Parts, mask: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D); see :meth:`ExpertBlock.forward`."""
        return self.onward(x_BLD, parts, None, mask)[0]

    def onward(self, x_BLD: Tensor, parts: Parts, kept: Kept | None, mask: Tensor | None = None) -> tuple[Tensor, Kept]:
        """Go on behind tokens that were read before; see :meth:`ExpertBlock.onward`."""
        y_BLD, kept = self.attention.onward(routed(self.before, x_BLD, parts), parts, kept, mask)
        x_BLD = x_BLD + y_BLD
        return x_BLD + routed(self.mlps, routed(self.norms, x_BLD, parts), parts), kept

    def weights(self, x_BLD: Tensor, parts: Parts) -> Tensor:
        """Return where each token looks, (B, H, L, L), where no mask forbids it."""
        return self.attention.weights(routed(self.before, x_BLD, parts), parts)


class PatchStem(nn.Module):
    """Convolutions over each patch by itself, down to one vector: no patch sees its neighbours.

    Args:
        patch_size: pixels of a patch's side, ``2 ** len(layers)``.
        layers: channels of each layer of a :class:`~intermodal.nn.patches.ConvStem`.
        width: D.
    """

    def __init__(self, patch_size: int, layers: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.patch = PatchConfig(size=patch_size)
        self.convolutions = ConvStem(3, width, layers)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return (B, P, D) of pictures (B, 3, H, W)."""
        patch_BPX = split(image_BCHW, self.patch)
        patch_NCHW = patch_BPX.flatten(0, 1).unflatten(1, (3, *self.patch.sizes))
        return self.convolutions(patch_NCHW).unflatten(0, patch_BPX.shape[:2]).squeeze(2)


def written(image: int, text: int, device: torch.device) -> Tensor:
    """Return who sees whom where a text is written about a picture, bool (I + L, I + L).

    The picture sees itself, and each token of the text the picture and the text up to itself (Wang et al. 2023, section
    3.2).
    """
    seen = past(image + text, image + text, device)
    seen[:image, :image] = True
    return seen


def length(x_BLD: Tensor | None) -> int:
    """Return how many tokens there are; 0 for None."""
    return 0 if x_BLD is None else x_BLD.shape[1]


def alone(image: int, text: int) -> Parts:
    """Return the parts of a sequence where each modality has its own expert."""
    both: Parts = (("vision", image), ("language", text))
    return tuple(part for part in both if part[1])

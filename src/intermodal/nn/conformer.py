"""The Conformer's block and its relative positions, on the library's one attention.

Gulati et al. 2020 ("Conformer: Convolution-augmented Transformer for Speech Recognition"), equation 1: half a feed-forward
layer, self-attention with relative positions, a convolution module, half a feed-forward layer, a layer norm.

Shapes: B recordings, U frames, D width, H heads, K width of one head, L queries, S keys, P = S + L - 1 distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import ConfigError
from intermodal.nn.dropout import Dropout
from intermodal.nn.time_conv import Chain, DepthwiseConv, Each, Residual, Stream, masked
from intermodal.nn.transformer import Attention


class RelativePositions(nn.Module):
    """Relative positions of Transformer-XL (Dai et al. 2019, section 3.3), which the Conformer takes over.

    The score of query i and key j is ``((q_i + u) k_j + (q_i + v) W r_(i-j)) / sqrt(K)``, where ``r`` are sinusoids of the
    distance. The first product is what attention computes anyway; the second is its bias.

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % 2:
            raise ConfigError(f"Relative positions need an even width, found {width}.")
        self.project = nn.Linear(width, width, bias=False)
        self.u = nn.Parameter(torch.zeros(heads, width // heads))
        self.v = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, q_BHLK: Tensor, k_BHSK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries plus u, the keys, and the bias ``(B, H, L, S)``; the queries are the last L of S positions."""
        queries, keys = q_BHLK.shape[2], k_BHSK.shape[2]
        r_PD = sinusoids(queries, keys, self.project.in_features).to(self.project.weight)
        r_HKP = self.project(r_PD).unflatten(1, self.u.shape).permute(1, 2, 0).to(q_BHLK.dtype)
        far_BHLP = (q_BHLK + self.v[:, None].to(q_BHLK.dtype)) @ (r_HKP * q_BHLK.shape[-1] ** -0.5)
        return q_BHLK + self.u[:, None].to(q_BHLK.dtype), k_BHSK, shifted(far_BHLP, keys)


def sinusoids(queries: int, keys: int, width: int) -> Tensor:
    """Return ``r`` of the distances ``keys - 1`` down to ``1 - queries``, shape ``(P, width)``: sine and cosine in turn."""
    distance_P = torch.arange(keys - 1, -queries, -1, dtype=torch.float64)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angle = distance_P[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


def shifted(far_BHLP: Tensor, keys: int) -> Tensor:
    """Turn scores by distance into scores by key, ``(B, H, L, P)`` to ``(B, H, L, S)`` (Dai et al. 2019, appendix B).

    The distance of query i (the last is L - 1) and key j is ``S - L + i - j``, which stands at place ``L - 1 - i + j``.
    """
    queries, far = far_BHLP.shape[-2:]
    if queries == 1:
        return far_BHLP
    rows = far_BHLP.flatten(-2)[
        ..., queries - 1 : queries - 1 + queries * (far - 1)
    ]  # each row begins one place earlier
    return rows.unflatten(-1, (queries, far - 1))[..., :keys]


class ConvModule(nn.Module):
    """``W2 silu(norm(depthwise(glu(W1 norm(x)))))`` (Gulati et al. 2020, figure 2).

    The second norm is a layer norm, not a batch norm, whose statistics would depend on padding and on the other recordings.
    """

    def __init__(self, width: int, kernel: int, right: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.conv = DepthwiseConv(width, kernel, right)
        self.norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x_BUD: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        return self.after(self.conv(masked(self.before(x_BUD), valid_BU)))

    def before(self, x_BUD: Tensor) -> Tensor:
        """Return what is convolved."""
        return F.glu(self.fc1(self.norm(x_BUD)), -1)

    def after(self, y_BUD: Tensor) -> Tensor:
        """Return the result from what was convolved."""
        return self.fc2(F.silu(self.norm2(y_BUD)))


class HalfFeedForward(nn.Module):
    """``W2 silu(W1 norm(x)) / 2``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BUD: Tensor) -> Tensor:
        """Map ``(B, U, D)`` to the same shape."""
        return 0.5 * self.fc2(F.silu(self.fc1(self.norm(x_BUD))))


class ConformerBlock(nn.Module):
    """One block (Gulati et al. 2020, equation 1).

    Args:
        width: D.
        heads: H.
        hidden: width within the feed-forward layers.
        kernel: frames of the convolution.
        dropout: share of each branch's output that is zeroed while training.
        chunk: frames that see one another, and no later ones; the convolution sees no future then. None for all.
        past_chunks: chunks before its own that a frame attends to.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        kernel: int,
        *,
        dropout: float = 0.0,
        chunk: int | None = None,
        past_chunks: int = 4,
    ) -> None:
        super().__init__()
        self.chunk, self.past_chunks = chunk, past_chunks
        self.first = HalfFeedForward(width, hidden)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, positions=RelativePositions(width, heads))
        self.conv = ConvModule(width, kernel, kernel // 2 if chunk is None else 0)
        self.second = HalfFeedForward(width, hidden)
        self.final_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BUD: Tensor, frames_B: Tensor, valid_BU: Tensor | None) -> Tensor:
        """Map ``(B, U, D)`` to the same shape; ``valid_BU`` tells frames from padding, None for no padding."""
        del frames_B
        x_BUD = x_BUD + self.dropout(self.first(x_BUD))
        mask = seen(x_BUD.shape[1], valid_BU, self.chunk, self.past_chunks, x_BUD.device)
        x_BUD = x_BUD + self.dropout(self.attention(self.norm(x_BUD), mask=mask))
        x_BUD = x_BUD + self.dropout(self.conv(x_BUD, valid_BU))
        return self._end(x_BUD)

    def _end(self, x_BUD: Tensor) -> Tensor:
        return self.final_norm(x_BUD + self.dropout(self.second(x_BUD)))

    def stream(self) -> Stream:
        """Return a stream of the block, which must have chunks."""
        assert self.chunk is not None
        conv = Chain([Each(self.conv.before), self.conv.conv.stream(), Each(self.conv.after)])
        attention = ChunkStream(self.attention, self.chunk, self.past_chunks)
        return Chain(
            [
                Each(lambda x: x + self.first(x)),
                Residual(Chain([Each(self.norm), attention])),
                Residual(conv),
                Each(self._end),
            ]
        )


def seen(
    frames: int, valid_BU: Tensor | None, chunk: int | None, past_chunks: int, device: torch.device
) -> Tensor | None:
    """Return which frames each frame attends to, bool ``(B or 1, U, U)``, or None for all; padding attends to anything."""
    mask = None
    if chunk is not None:
        number_U = torch.arange(frames, device=device) // chunk
        back_UU = number_U[:, None] - number_U
        mask = ((back_UU >= 0) & (back_UU <= past_chunks))[None]
    if valid_BU is not None:
        keys = valid_BU[:, None] | ~valid_BU[..., None]
        mask = keys if mask is None else mask & keys | ~valid_BU[..., None]
    return mask


class ChunkStream:
    """The stream of attention in chunks: waits for a whole chunk, keeps keys and values of those before."""

    def __init__(self, attention: Attention, chunk: int, past_chunks: int) -> None:
        self.attention, self.chunk, self.limit = attention, chunk, chunk * past_chunks
        self.waiting: Tensor | None = None
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, x_1nN: Tensor, last: bool) -> Tensor:
        """See :class:`intermodal.nn.time_conv.Stream`."""
        x_1nN = x_1nN if self.waiting is None else torch.cat([self.waiting, x_1nN], 1)
        whole = x_1nN.shape[1] if last else x_1nN.shape[1] // self.chunk * self.chunk
        self.waiting = x_1nN[:, whole:]
        found = [x_1nN[:, :0]]
        for x_1cN in x_1nN[:, :whole].split(self.chunk, 1):
            if x_1cN.shape[1] == 0:
                continue
            y_1cN, (keys, values) = self.attention.onward(x_1cN, self.kept)
            first = max(0, keys.shape[2] - self.limit)
            self.kept = keys[:, :, first:], values[:, :, first:]
            found.append(y_1cN)
        return torch.cat(found, 1)

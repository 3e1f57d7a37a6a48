"""The one attention and the one transformer block of the library.

Everything with attention in it (ViT, CLIP's text tower, BERT, and all that follow) is composed of these parts. They
stand in one file, longer than others, since shared heads, turned positions, caches, kept keys and relative positions
are ways to call the same attention. Shapes:

    B batch   L query positions   S key positions   D width   C width of the context
    H heads   K width of one head                   M width of the MLP's hidden layer
    G heads of keys and values (H of them, or fewer that are shared)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.errors import ConfigError
from intermodal.nn.cache import KVCache, LayerCache
from intermodal.nn.drop_path import branch_end, rates
from intermodal.nn.linear import linear

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
Norm = Literal["layer", "rms"]
Turn = tuple[Tensor, Tensor]
"""Cosines and sines by which queries and keys are turned, as :class:`intermodal.nn.rotary.Rotary` makes them."""


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(1.702 x)``, the approximation of GELU that CLIP was trained with.

    Any shape in, the same shape out. Written through SiLU, which is one fused kernel forward and one backward
    and keeps one tensor for the backward pass instead of two (Hendrycks and Gimpel 2016, section 2, give the
    approximation).
    """
    return F.silu(1.702 * x) * (1 / 1.702)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU by its tanh approximation, any shape in and out (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "relu": F.relu,
}


SHORT = 512
"""Up to so many keys the explicit form of :func:`attend` may hold its matrix of weights."""


def attend(
    q_BHLK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    bias: Tensor | None = None,
) -> Tensor:
    """Return ``softmax(q k^T / sqrt(K) + bias) v`` (Vaswani et al. 2017, equation 1), by the fastest of three ways.

    torch's fused kernel serves everywhere but in half precision on a CPU. There the products written out are two to three
    times as fast forward (with 16 queries or more) and more so backward, at up to 512 keys; and one query alone, a step
    of decoding, is read by the kernel for single precision, which is two to four times as fast. All compute the same.

    Args:
        q_BHLK: queries, shape (B, H, L, K).
        k_BHSK: keys, shape (B, H, S, K).
        v_BHSK: values, of the keys' shape.
        mask: bool, broadcasts to (B, H, L, S), True where attending is allowed; each query needs one.
        dropout: share of the weights to zero; the others are scaled by ``1 / (1 - dropout)``.
        causal: position ``i`` sees positions ``<= i`` only (L = S); not together with a mask or a bias.
        bias: float, broadcasts to (B, H, L, S), added before the softmax (relative positions).

    Returns:
        Shape (B, H, L, K).
    """
    half = q_BHLK.dtype in (torch.bfloat16, torch.float16) and q_BHLK.device.type == "cpu"
    needs_grad = torch.is_grad_enabled() and q_BHLK.requires_grad
    if half and not needs_grad and q_BHLK.shape[2] == 1:
        wide = (q_BHLK.float(), k_BHSK.float(), v_BHSK.float())
        bias = None if bias is None else bias.float()
        return attend(*wide, mask=mask, dropout=dropout, causal=causal, bias=bias).to(q_BHLK.dtype)
    written_out = half and (needs_grad or q_BHLK.shape[2] >= 16) and k_BHSK.shape[2] <= SHORT
    if not written_out:
        if bias is not None:
            mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        return F.scaled_dot_product_attention(
            q_BHLK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
    if causal:
        mask = past(q_BHLK.shape[2], k_BHSK.shape[2], q_BHLK.device)
    scores_BHLS = (q_BHLK * q_BHLK.shape[-1] ** -0.5) @ k_BHSK.transpose(-1, -2)
    if bias is not None:
        scores_BHLS = scores_BHLS + bias
    if mask is not None:
        scores_BHLS = scores_BHLS.masked_fill(~mask, float("-inf"))
    weights_BHLS = scores_BHLS.softmax(-1, dtype=scores_BHLS.dtype)
    return F.dropout(weights_BHLS, dropout) @ v_BHSK


def turned(x_BLHK: Tensor, turn: Turn) -> Tensor:
    """Return vectors whose pairs of values (k and k + K/2) are turned by the angles of their positions.

    Su et al. 2021, equation 34, with halves in the place of neighbours, as Llama's published weights have it.

    Args:
        x_BLHK: float, shape (B, L, H, K).
        turn: cosines and sines, the sines of the first half negative, each (L, 1, K) or (B, L, 1, K).
    """
    cos, sin = turn
    y_BLHK = torch.addcmul(x_BLHK * cos, x_BLHK.roll(x_BLHK.shape[-1] // 2, -1).to(cos.dtype), sin)
    return y_BLHK.to(x_BLHK.dtype)


def norm_layer(kind: Norm, width: int, eps: float) -> nn.Module:
    """Return a layer norm, or one that divides by the root mean square alone (Zhang and Sennrich 2019, equation 4)."""
    return nn.RMSNorm(width, eps=eps) if kind == "rms" else nn.LayerNorm(width, eps=eps)


def past(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return which keys each query sees, bool (L, S), where the queries are the last L of S positions: up to its own."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class Attention(nn.Module):
    """Multi-head attention, ``softmax(q k^T / sqrt(K)) v`` (Vaswani et al. 2017, equation 1).

    Without ``context_dim`` it is self-attention, whose queries, keys and values come from one fused matrix
    product; with it, keys and values are read from a context of that width.

    Args:
        width: D, a multiple of ``heads`` unless ``head_width`` is given.
        heads: H.
        kv_heads: G of self-attention, which divides H: each is shared by H / G heads of queries (Ainslie et al.
            2023). None for H.
        head_width: K of self-attention; None for D / H.
        context_dim: C; None for self-attention.
        output_dim: width of the result; None for D.
        causal: position ``i`` sees positions ``<= i`` only.
        dropout: share of the attention weights that are zeroed while training, from 0 to below 1, drawn from
            torch's global generator.
        input_bias: queries, keys and values have a bias.
        output_bias: the result has a bias.
        positions: of self-attention: a module from queries and keys to queries, keys and a bias of the scores (or None)
            that knows how far apart they are (:class:`intermodal.nn.conformer.RelativePositions`); the queries are the
            last L of the S positions.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads``, or ``heads`` none of ``kv_heads``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_width: int | None = None,
        context_dim: int | None = None,
        output_dim: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        input_bias: bool = True,
        output_bias: bool = True,
        positions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or (head_width is None and width % heads):
            raise ConfigError(f"Attention's width must be a multiple of its heads, found {width} and {heads}.")
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise ConfigError(f"Attention's heads must be a multiple of kv_heads, found {heads} and {kv_heads}.")
        self.causal = causal
        self.dropout = dropout
        self.head_width = width // heads if head_width is None else head_width
        inner = heads * self.head_width
        if context_dim is None:
            self.qkv = nn.Linear(width, inner + 2 * self.kv_heads * self.head_width, bias=input_bias)
        else:
            self.q = nn.Linear(width, inner, bias=input_bias)
            self.kv = nn.Linear(context_dim, 2 * inner, bias=input_bias)
        self.out = nn.Linear(inner, output_dim or width, bias=output_bias)
        self.positions = positions

    def forward(
        self,
        x_BLD: Tensor,
        context_BSC: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
        turn: Turn | None = None,
    ) -> Tensor:
        """Attend from ``x_BLD`` to itself or to ``context_BSC``.

        Args:
            x_BLD: float, shape (B, L, D).
            context_BSC: float, shape (B, S, C); exactly when built with ``context_dim``.
            mask: bool, True where attending is allowed: (B, S) masks keys, for example padding; (B, L, S) or
                a 4-dimensional mask that broadcasts to (B, H, L, S) masks pairs. Each query needs one allowed
                key. Or float, broadcasting to (B, H, L, S): added to the scores, where attention is not causal.
            cache: of causal self-attention: what was read before. ``x_BLD`` goes on from there and is kept too; S
                counts all that is kept then.
            kept: of attention with a context, in its place: what :meth:`keys` made of it, for many steps over one
                context.
            turn: of self-attention: by which queries and keys are turned (:func:`turned`); a cache keeps them turned.

        Returns:
            float, shape (B, L, D) (or ``output_dim`` as its last size).

        Raises:
            ValueError: if the context is missing or given to self-attention, or a cache is given to attention that is
                not causal, in which a position read before would have to change.
        """
        if kept is None:
            q_BHLK, k_BHSK, v_BHSK = self._project(x_BLD, context_BSC, turn)
        else:
            q_BHLK, (k_BHSK, v_BHSK) = self.q(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2), kept
        if cache is not None:
            if context_BSC is not None or not self.causal:
                raise ValueError("Only causal self-attention can go on from a cache.")
            k_BHSK, v_BHSK = cache.append(k_BHSK, v_BHSK)
        queries, keys = q_BHLK.shape[2], k_BHSK.shape[2]
        added = None
        if mask is not None and mask.is_floating_point():
            mask, added = None, mask
        if mask is not None:
            mask = self._pairs(mask, queries, keys)
        elif self.causal and 1 < queries < keys:
            mask = past(queries, keys, q_BHLK.device)
        bias = added
        if self.positions is not None:
            q_BHLK, k_BHSK, bias = self.positions(q_BHLK, k_BHSK)
            bias = bias if added is None else added if bias is None else added + bias
        q_BHLK, k_BHSK, v_BHSK = self._shared(q_BHLK, k_BHSK, v_BHSK, mask, bias)
        y_BHLK = attend(
            q_BHLK,
            k_BHSK,
            v_BHSK,
            mask=mask,
            dropout=self.dropout if self.training else 0.0,
            causal=self.causal and mask is None and 1 < queries == keys,
            bias=bias,
        )
        if queries == 1:
            return self.out(y_BHLK.reshape(len(x_BLD), 1, -1))
        return self.out(y_BHLK.transpose(1, 2).flatten(-2))

    def _shared(
        self, q_BHLK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let the H heads of queries meet the G of keys and values.

        A single query's heads that share keys stand as queries beside each other; else keys and values are repeated.
        """
        group = self.heads // self.kv_heads
        if group == 1 or not hasattr(self, "qkv"):
            return q_BHLK, k_BGSK, v_BGSK
        same = bias is None and (mask is None or mask.shape[1] == 1)  # what may be seen is the same for all heads
        if q_BHLK.shape[2] == 1 and same:
            return q_BHLK.squeeze(2).unflatten(1, (self.kv_heads, group)), k_BGSK, v_BGSK
        return q_BHLK, k_BGSK.repeat_interleave(group, 1), v_BGSK.repeat_interleave(group, 1)

    def keys(self, context_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a context, each (B, H, S, K); only for attention that was built with one."""
        k_BSHK, v_BSHK = self.kv(context_BSC).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return k_BSHK.transpose(1, 2), v_BSHK.transpose(1, 2)

    def onward(
        self, x_BLD: Tensor, kept: tuple[Tensor, Tensor] | None, mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from new positions to themselves and to those that are kept: a window that moves over a stream.

        Args:
            x_BLD: the new positions, shape (B, L, D).
            kept: keys and values of the positions right before them, each (B, H, N, K); None at the beginning.
            mask: bool, broadcasts to (B, H, L, N + L), True where attending is allowed; None for everywhere.

        Returns:
            The result, shape (B, L, D), and the keys and values of all N + L, of which the caller keeps the last ones.
        """
        q_BHLK, k_BHSK, v_BHSK = self._project(x_BLD, None, None)
        if kept is not None:
            k_BHSK, v_BHSK = torch.cat([kept[0], k_BHSK], 2), torch.cat([kept[1], v_BHSK], 2)
        found, bias = (k_BHSK, v_BHSK), None
        if self.positions is not None:
            q_BHLK, k_BHSK, bias = self.positions(q_BHLK, k_BHSK)
        y_BHLK = attend(q_BHLK, k_BHSK, v_BHSK, mask=mask, dropout=0.0, causal=False, bias=bias)
        return self.out(y_BHLK.transpose(1, 2).flatten(-2)), found

    def first(self, x_BLD: Tensor, count: int) -> Tensor:
        """Attend from the first ``count`` positions to all of them, where no other position is read: (B, count, D).

        The same numbers as those rows of :meth:`forward`; of self-attention without causality, mask or positions.
        """
        width, bias = x_BLD.shape[-1], self.qkv.bias
        q_BLD = linear(x_BLD[:, :count], self.qkv.weight[:width], None if bias is None else bias[:width])
        kv = linear(x_BLD, self.qkv.weight[width:], None if bias is None else bias[width:])
        k_BSHK, v_BSHK = kv.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        y_BHLK = attend(
            q_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2),
            k_BSHK.transpose(1, 2),
            v_BSHK.transpose(1, 2),
            mask=None,
            dropout=self.dropout if self.training else 0.0,
            causal=False,
        )
        return self.out(y_BHLK.transpose(1, 2).flatten(-2))

    def weights(
        self,
        x_BLD: Tensor,
        context_BSC: Tensor | None = None,
        *,
        turn: Turn | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """Return what :meth:`forward` weighs the values with, (B, H, L, S): for looking at, not for training.

        Each row of S sums to one; the matrix is held whole. Of masks it knows ``added`` alone, a float one that is added to
        the scores, and relative positions.
        """
        q_BHLK, k_BHSK, _ = self._project(x_BLD, context_BSC, turn)
        k_BHSK = k_BHSK.repeat_interleave(q_BHLK.shape[1] // k_BHSK.shape[1], 1)
        bias = None
        if self.positions is not None:
            q_BHLK, k_BHSK, bias = self.positions(q_BHLK, k_BHSK)
        scores_BHLS = q_BHLK @ k_BHSK.transpose(-1, -2) * q_BHLK.shape[-1] ** -0.5
        for more in (bias, added):
            if more is not None:
                scores_BHLS = scores_BHLS + more
        if self.causal:
            seen_LS = past(scores_BHLS.shape[-2], scores_BHLS.shape[-1], scores_BHLS.device)
            scores_BHLS = scores_BHLS.masked_fill(~seen_LS, float("-inf"))
        return scores_BHLS.softmax(-1)

    def _project(self, x_BLD: Tensor, context_BSC: Tensor | None, turn: Turn | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, L, K), keys and values (B, G, S, K)."""
        if context_BSC is None:
            if not hasattr(self, "qkv"):
                raise ValueError("This attention was built with context_dim and needs a context.")
            all_BLHK = self.qkv(x_BLD).unflatten(-1, (-1, self.head_width))
            sizes = (self.heads, self.kv_heads, self.kv_heads)
            if turn is None:
                q_BLHK, k_BSHK, v_BSHK = all_BLHK.split(sizes, -2)
            else:
                both_BLHK, v_BSHK = all_BLHK.split((self.heads + self.kv_heads, self.kv_heads), -2)
                q_BLHK, k_BSHK = turned(both_BLHK, turn).split(sizes[:2], -2)
        else:
            if hasattr(self, "qkv"):
                raise ValueError("This is self-attention: build it with context_dim to give it a context.")
            return self.q(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2), *self.keys(context_BSC)
        return q_BLHK.transpose(1, 2), k_BSHK.transpose(1, 2), v_BSHK.transpose(1, 2)

    def _pairs(self, mask: Tensor, queries: int, keys: int) -> Tensor:
        """Return ``mask`` as one that broadcasts to (B, H, L, S), with causality folded in."""
        if mask.dim() == 2:
            mask = mask[:, None, None, :]
        elif mask.dim() == 3:
            mask = mask[:, None]
        if self.causal and queries > 1:
            mask = mask & past(queries, keys, mask.device)
        return mask


class MLP(nn.Module):
    """Two linear layers with an activation between, applied to each position alone.

    Args:
        width: D, in and out.
        hidden: M.
        activation: a key of :data:`ACTIVATIONS`.
        bias: both layers have one.

    Raises:
        ConfigError: if the activation is unknown.
    """

    def __init__(self, width: int, hidden: int, activation: Activation, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.activation = _activation(activation)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.activation(self.fc1(x_BLD)))


class GatedMLP(nn.Module):
    """``fc2(a * gelu(g))`` with ``(a, g) = fc1(x)``: a gated linear unit (Shazeer 2020; GEGLU, or SwiGLU with silu).

    Args:
        width: D, in and out.
        hidden: M, of each of the two halves.
        activation: a key of :data:`ACTIVATIONS`, of the gate.
        bias: both layers have one.

    Raises:
        ConfigError: if the activation is unknown.
    """

    def __init__(self, width: int, hidden: int, activation: Activation = "gelu", *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden, bias=bias)
        self.activation = _activation(activation)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        value, gate = self.fc1(x_BLD).chunk(2, -1)
        return self.fc2(value * self.activation(gate))


def _activation(name: Activation) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ConfigError(f"The activation must be one of {list(ACTIVATIONS)}, found {name!r}.")
    return ACTIVATIONS[name]


class Block(nn.Module):
    """A pre-norm residual block, ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``.

    The order of normalisation is that of GPT-2 and ViT (Dosovitskiy et al. 2021, equations 2 and 3).

    Args:
        width: D.
        attention: a module called as ``attention(x_BLD, mask=..., cache=...)``, and with ``turn=`` where there is one.
        mlp: a module from (B, L, D) to (B, L, D).
        norm: which norms (:func:`norm_layer`).
        norm_eps: their epsilon.
        dropout: share of each branch's output that is zeroed while training, before it is added to the
            residual stream (Vaswani et al. 2017, section 5.4), drawn from torch's global generator.
        drop_path: share of the samples for which each branch is left out while training (:mod:`intermodal.nn.drop_path`).
    """

    def __init__(
        self,
        width: int,
        attention: nn.Module,
        mlp: nn.Module,
        *,
        norm: Norm = "layer",
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, width, norm_eps)
        self.attention = attention
        self.norm2 = norm_layer(norm, width, norm_eps)
        self.mlp = mlp
        self.dropout = branch_end(dropout, drop_path)

    def forward(
        self,
        x_BLD: Tensor,
        *,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        turn: Turn | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D); ``mask``, ``cache`` and ``turn`` as in :meth:`Attention.forward`."""
        more = {} if turn is None else {"turn": turn}
        x_BLD = x_BLD + self.dropout(self.attention(self.norm1(x_BLD), mask=mask, cache=cache, **more))
        return x_BLD + self.dropout(self.mlp(self.norm2(x_BLD)))

    def first(self, x_BLD: Tensor, count: int) -> Tensor:
        """Return the first ``count`` positions of :meth:`forward` alone: (B, count, D); see :meth:`Attention.first`."""
        assert isinstance(self.attention, Attention)
        y_BLD = x_BLD[:, :count] + self.dropout(self.attention.first(self.norm1(x_BLD), count))
        return y_BLD + self.dropout(self.mlp(self.norm2(y_BLD)))


class PostNormBlock(Block):
    """A post-norm residual block, ``norm1(x + attention(x))``, then ``norm2(x + mlp(x))``.

    The order of the first transformer and of BERT (Vaswani et al. 2017, section 3.1): the residual stream itself
    is normalised after each branch. The parts and arguments are those of :class:`Block`.
    """

    def forward(
        self,
        x_BLD: Tensor,
        *,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        turn: Turn | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D); ``mask``, ``cache`` and ``turn`` as in :meth:`Attention.forward`."""
        more = {} if turn is None else {"turn": turn}
        x_BLD = self.norm1(x_BLD + self.dropout(self.attention(x_BLD, mask=mask, cache=cache, **more)))
        return self.norm2(x_BLD + self.dropout(self.mlp(x_BLD)))


class Transformer(nn.Module):
    """A stack of blocks.

    Args:
        blocks: modules called as ``block(x_BLD, mask=...)``, first to last, and with ``cache=`` and ``turn=`` where
            there is one.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x_BLD: Tensor, *, mask: Tensor | None = None, cache: KVCache | None = None, turn: Turn | None = None
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D).

        ``mask`` and ``turn`` are as in :meth:`Attention.forward`; with a ``cache``, one layer of which belongs to each
        block, the positions go on from those that it holds, and are kept there (causal blocks alone).
        """
        more: dict[str, Any] = {} if turn is None else {"turn": turn}
        for i, block in enumerate(self.blocks):
            if cache is not None:
                more["cache"] = cache.layers[i]
            x_BLD = block(x_BLD, mask=mask, **more)
        return x_BLD


def build_transformer(
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    *,
    activation: Activation,
    norm_eps: float = 1e-5,
    causal: bool = False,
    input_bias: bool = True,
    drop_path: float = 0.0,
) -> Transformer:
    """Return ``depth`` pre-norm blocks of self-attention and MLP, initialised as CLIP's are.

    The first weights are those of :func:`first_weights`. ``drop_path`` is the last block's rate of stochastic depth, to
    which the others' rise from 0.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads`` or the activation is unknown.
    """
    blocks = []
    for rate in rates(drop_path, depth):
        attention = Attention(width, heads, causal=causal, input_bias=input_bias)
        mlp = MLP(width, mlp_width, activation)
        first_weights(attention, mlp, depth)
        blocks.append(Block(width, attention, mlp, norm_eps=norm_eps, drop_path=rate))
    return Transformer(blocks)


def first_weights(attention: Attention, mlp: MLP, depth: int) -> None:
    """Initialise a block's attention and MLP as CLIP's are.

    Standard deviations are those of CLIP's published code: ``D**-0.5`` for what reads the residual stream in
    attention, ``(2 D)**-0.5`` in the MLP, and ``D**-0.5 (2 depth)**-0.5`` for what writes to it, so that the
    stream's variance does not grow with depth (Radford et al. 2019, section 2.3); biases are zero.

    Args:
        attention: self-attention.
        mlp: of the same width.
        depth: blocks of the whole stack.
    """
    width = mlp.fc1.in_features
    writes = width**-0.5 * (2 * max(depth, 1)) ** -0.5
    for layer, std in (
        (attention.qkv, width**-0.5),
        (attention.out, writes),
        (mlp.fc1, (2 * width) ** -0.5),
        (mlp.fc2, writes),
    ):
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def block_flops(tokens: int, width: int, mlp_width: int) -> int:
    """Return the forward floating-point operations of one block on one sequence (a multiply-add is two).

    Matrix products only: the projections, ``q k^T`` and its product with ``v`` (in full, also where it is
        causal), and
    the MLP.
    """
    return 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp_width

"""The transformer that goes on with a sequence, over tokens of any kind: GPT-2's network (Radford et al. 2019) and Llama's.

Llama (Touvron et al. 2023) differs in four parts, each a choice of the configuration: root-mean-square norms, rotary
positions, gated MLPs, and no biases; since Llama 2, heads share keys and values. :func:`llama` makes all of them.

A network reads tokens, or vectors in their place (a prefix, a picture inside a chat). Prompts of different lengths
stand side by side with nothing before the shorter ones (``padding_B``).

B sequences   L positions   D width   V tokens that are known   O tokens that may come next   S positions that are kept
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cache import KVCache
from intermodal.nn.linear import linear, quicken
from intermodal.nn.rotary import Rotary, RotaryConfig
from intermodal.nn.step import step
from intermodal.nn.transformer import (
    ACTIVATIONS,
    MLP,
    Activation,
    Attention,
    Block,
    GatedMLP,
    Norm,
    Transformer,
    Turn,
    norm_layer,
)

INIT_STD = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(Config):
    """What a :class:`CausalTransformer` is built from; the defaults are those of the smallest GPT-2.

    Attributes:
        vocab_size: V.
        context_length: the most positions of a sequence.
        width: D, a multiple of ``heads`` unless ``head_width`` is given.
        depth: blocks.
        heads: attention heads.
        kv_heads: heads of keys and values, which the others share; None for as many.
        head_width: of one head; None for ``width / heads``.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        outputs: O, the tokens 0 to O - 1 that may come next, by a last matrix of its own; None for V, with the token
            embeddings as the last matrix.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        gated: the MLPs are gated (``activation`` is the gate's).
        bias: the linear layers have biases.
        rotary: how positions turn queries and keys; None for a learnt vector of each position, added to the tokens'.
        norm: layer norms, or those by the root mean square alone.
        norm_eps: the norms' epsilon.
        dropout: of the embeddings and of each branch of a block, while training.
        attention_dropout: of the attention weights, while training.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads`` or they none of ``kv_heads``, the activation is unknown
            or a size is below 1.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: int | None = None
    head_width: int | None = None
    mlp_width: int | None = None
    outputs: int | None = None
    activation: Activation = "gelu_tanh"
    gated: bool = False
    bias: bool = True
    rotary: RotaryConfig | None = None
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or (self.head_width is None and self.width % self.heads):
            raise ConfigError(
                f"Causal transformer: width must be a multiple of heads, found {self.width} and {self.heads}."
            )
        if not 1 <= self.shared_heads <= self.heads or self.heads % self.shared_heads:
            raise ConfigError(
                f"Causal transformer: heads must be a multiple of kv_heads, found {self.heads} and {self.kv_heads}."
            )
        if self.inner < 1 or (self.rotary is not None and self.inner // self.heads % 2):
            raise ConfigError(
                f"Causal transformer: a head's width must be at least 1, and even with rotary positions, found "
                f"{self.inner // self.heads}."
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"Causal transformer: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}."
            )
        if min(self.vocab_size, self.context_length, self.depth) < 1:
            raise ConfigError("Causal transformer: vocab_size, context_length and depth must be at least 1.")
        if self.outputs is not None and not 1 <= self.outputs <= self.vocab_size:
            raise ConfigError(f"Causal transformer: outputs must be from 1 to {self.vocab_size}, found {self.outputs}.")
        if not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            raise ConfigError("Causal transformer: dropouts must be from 0 to below 1.")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def inner(self) -> int:
        """Width of the queries of all heads."""
        return self.width if self.head_width is None else self.heads * self.head_width

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def flops(self) -> int:
        """Return the forward floating-point operations of one sequence of full length (a multiply-add is two).

        Matrix products only; ``q k^T`` and its product with ``v`` in full, though half of it is masked.
        """
        length, width, inner = self.context_length, self.width, self.inner
        attention = 4 * length * width * inner * (1 + self.shared_heads / self.heads) + 4 * length**2 * inner
        mlp = (6 if self.gated else 4) * length * width * self.hidden
        return self.depth * int(attention + mlp) + 2 * length * width * (self.outputs or self.vocab_size)


def llama(**sizes: Any) -> CausalConfig:
    """Return the configuration of a Llama (Touvron et al. 2023): what :class:`CausalConfig` takes, with Llama's parts.

    ``outputs`` as large as ``vocab_size`` gives it a last matrix of its own, as the large ones have.
    """
    parts = {"activation": "silu", "gated": True, "bias": False, "rotary": RotaryConfig(), "norm": "rms"}
    return CausalConfig(**{**parts, "norm_eps": 1e-6, **sizes})


class CausalTransformer(nn.Module):
    """Logits of what comes next, at every position (Radford et al. 2019, section 2.3).

    Weights are drawn from a normal distribution of standard deviation 0.02, those of the layers that write to the
    residual stream divided by ``sqrt(2 depth)``; biases are zero.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.rotary is None:
            self.rotary = None
            self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        else:
            self.rotary = Rotary(config.rotary, config.inner // config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Transformer(_block(config) for _ in range(config.depth))
        self.final_norm = norm_layer(config.norm, config.width, config.norm_eps)
        if config.outputs is not None:
            self.head = nn.Linear(config.width, config.outputs, bias=False)
        quicken(self)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                writes = name.endswith(("attention.out.weight", "mlp.fc2.weight"))
                nn.init.normal_(parameter, std=INIT_STD * ((2 * self.config.depth) ** -0.5 if writes else 1.0))

    def new_cache(self, length: int | None = None, padding_B: Tensor | None = None) -> KVCache:
        """Return an empty cache with room for ``length`` positions (``context_length`` by default).

        ``padding_B``, int64 (B,), says how many of each sequence's first positions will be nothing.
        """
        return KVCache(self.config.depth, self.config.context_length if length is None else length, padding_B)

    def forward(self, read: Tensor, cache: KVCache | None = None, padding_B: Tensor | None = None) -> Tensor:
        """Return logits of the token after each position.

        Args:
            read: int64 tokens, shape (B, L), or vectors in their place (:meth:`embed`), shape (B, L, D); L at least 1.
            cache: what was read before; what is read now goes on from there, and is kept in it.
            padding_B: int64 (B,), how many of each sequence's first positions are nothing, without a cache (one that is
                padded knows it). Logits at those mean nothing.

        Returns:
            float, shape (B, L, O).

        Raises:
            DataError: if there are more positions than ``context_length``, those of the cache included.
        """
        return self.logits(self.hidden(read, cache, padding_B))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors (..., D) of tokens (...), without positions: they may be mixed with others and read."""
        vectors: Tensor = self.token_embedding(tokens)
        return vectors

    def hidden(self, read: Tensor, cache: KVCache | None = None, padding_B: Tensor | None = None) -> Tensor:
        """Return the vectors behind :meth:`forward`'s logits, after the final norm, shape (B, L, D)."""
        x_BLD, mask, turn = self._begin(read, cache, padding_B)
        y_BLD = None if cache is None or mask is not None else step(self.transformer, x_BLD, cache, turn)
        if y_BLD is None:
            y_BLD = self.transformer(self.dropout(x_BLD), mask=mask, cache=cache, turn=turn)
        return self.final_norm(y_BLD)

    def _begin(
        self, read: Tensor, cache: KVCache | None, padding_B: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Turn | None]:
        """Return what the blocks read, (B, L, D), which pairs attend, (B, 1, L, S), and the turn of queries and keys."""
        start = 0 if cache is None else cache.length
        vectors = read.is_floating_point()
        fits = read.dim() == (3 if vectors else 2) and (not vectors or read.shape[-1] == self.config.width)
        end = start + (read.shape[1] if fits else 0)
        if not start < end <= self.config.context_length:
            raise DataError(
                f"The causal transformer takes tokens of shape (B, L), or vectors (B, L, {self.config.width}) in their "
                f"place, at most {self.config.context_length} of them with the {start} that it has read, found "
                f"{tuple(read.shape)}: shorten the sequence."
            )
        mask: Tensor | None = None
        place: slice | Tensor = slice(start, end)
        if cache is not None:
            padding_B = cache.padding_B
        if padding_B is not None:
            kept_BS = None if cache is None else cache.real_BS
            real_BS = kept_BS if kept_BS is not None else torch.arange(end, device=read.device) >= padding_B[:, None]
            mask = real_BS[:, None, None, :end]
            if end - start > 1:  # what is nothing sees itself, for want of anything else
                mask = mask | torch.eye(end, dtype=torch.bool, device=read.device)[start:]
            place = (torch.arange(start, end, device=read.device) - padding_B.unsqueeze(1)).clamp(min=0)
        x_BLD = read if vectors else self.embed(read)
        if self.rotary is not None:
            return x_BLD, mask, self.rotary.at(place, end, x_BLD)
        table = self.positions(start, end) if padding_B is None else self.positions(0, end)[place]
        return x_BLD + table, mask, None

    def positions(self, start: int, end: int) -> Tensor:
        """Return the vectors (L, D) of the positions ``start`` to ``end - 1``; a subclass may compose them."""
        return self.position_embedding[start:end]

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., O) of vectors (..., D)."""
        return linear(x_BLD, self.token_embedding.weight if self.config.outputs is None else self.head.weight)

    @torch.no_grad()
    def attention(self, read: Tensor) -> list[Tensor]:
        """Return what each block's heads look at, (B, H, L, L) with rows that sum to one: for pictures, not to train."""
        x_BLD, _, turn = self._begin(read, None, None)
        found = []
        for block in self.transformer.blocks:
            assert isinstance(block, Block) and isinstance(block.attention, Attention)
            found.append(block.attention.weights(block.norm1(x_BLD), turn=turn))
            x_BLD = block(x_BLD, turn=turn)
        return found


def _block(config: CausalConfig) -> Block:
    attention = Attention(
        config.width,
        config.heads,
        kv_heads=config.kv_heads,
        head_width=config.head_width,
        causal=True,
        dropout=config.attention_dropout,
        input_bias=config.bias,
        output_bias=config.bias,
    )
    mlp = (GatedMLP if config.gated else MLP)(config.width, config.hidden, config.activation, bias=config.bias)
    return Block(config.width, attention, mlp, norm=config.norm, norm_eps=config.norm_eps, dropout=config.dropout)

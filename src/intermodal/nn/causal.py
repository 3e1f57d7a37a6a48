"""The transformer that goes on with a sequence: GPT-2's network (Radford et al. 2019), over tokens of any kind.

B sequences   L positions   D width   V tokens that are known   O tokens that may come next
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cache import KVCache
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, Block, Transformer, block_flops

INIT_STD = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(Config):
    """What a :class:`CausalTransformer` is built from; the defaults are those of the smallest GPT-2.

    Attributes:
        vocab_size: V.
        context_length: the most positions of a sequence.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        outputs: O, the tokens 0 to O - 1 that may come next; None for V, with the token embeddings as the last matrix.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        norm_eps: the layer norms' epsilon.
        dropout: of the embeddings and of each branch of a block, while training.
        attention_dropout: of the attention weights, while training.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads``, the activation is unknown or a size is below 1.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int | None = None
    outputs: int | None = None
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(
                f"Causal transformer: width must be a multiple of heads, found {self.width} and {self.heads}."
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

    def flops(self) -> int:
        """Return the forward floating-point operations of one sequence of full length (a multiply-add is two)."""
        last = 2 * self.context_length * self.width * (self.outputs or self.vocab_size)
        return self.depth * block_flops(self.context_length, self.width, self.hidden) + last


class CausalTransformer(nn.Module):
    """Logits of what comes next, at every position (Radford et al. 2019, section 2.3).

    Weights are drawn from a normal distribution of standard deviation 0.02, those of the layers that write to the residual
    stream divided by ``sqrt(2 depth)``; biases are zero.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Transformer(
            Block(
                config.width,
                Attention(config.width, config.heads, causal=True, dropout=config.attention_dropout),
                MLP(config.width, config.hidden, config.activation),
                norm_eps=config.norm_eps,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        self.final_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        if config.outputs is not None:
            self.head = nn.Linear(config.width, config.outputs, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                writes = name.endswith(("attention.out.weight", "mlp.fc2.weight"))
                nn.init.normal_(parameter, std=INIT_STD * ((2 * self.config.depth) ** -0.5 if writes else 1.0))

    def new_cache(self, length: int | None = None) -> KVCache:
        """Return an empty cache with room for ``length`` positions (``context_length`` by default)."""
        return KVCache(self.config.depth, self.config.context_length if length is None else length)

    def forward(self, tokens_BL: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits of the token after each position.

        Args:
            tokens_BL: int64, shape (B, L), L at least 1.
            cache: what was read before; the tokens go on from there, and are kept in it.

        Returns:
            float, shape (B, L, O).

        Raises:
            DataError: if there are more positions than ``context_length``, those of the cache included.
        """
        return self.logits(self.hidden(tokens_BL, cache))

    def hidden(self, tokens_BL: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the vectors behind :meth:`forward`'s logits, after the final norm, shape (B, L, D)."""
        start = 0 if cache is None else cache.length
        end = start + tokens_BL.shape[-1]
        if tokens_BL.dim() != 2 or not start < end <= self.config.context_length:
            raise DataError(
                f"The causal transformer takes tokens of shape (B, L), at most {self.config.context_length} of them with "
                f"the {start} that it has read, found {tuple(tokens_BL.shape)}: shorten the sequence."
            )
        x_BLD = self.token_embedding(tokens_BL) + self.positions(start, end)
        return self.final_norm(self.transformer(self.dropout(x_BLD), cache=cache))

    def positions(self, start: int, end: int) -> Tensor:
        """Return the vectors (L, D) of the positions ``start`` to ``end - 1``; a subclass may compose them."""
        return self.position_embedding[start:end]

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., O) of vectors (..., D)."""
        if self.config.outputs is None:
            return F.linear(x_BLD, self.token_embedding.weight)
        return self.head(x_BLD)

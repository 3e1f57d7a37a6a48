"""BERT's network: embeddings, a post-norm transformer, and the heads of its pre-training (Devlin et al. 2019).

B batch   L tokens   D width   N chosen tokens   V vocabulary
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.transformer import ACTIVATIONS, MLP, Activation, Attention, PostNormBlock, Transformer, block_flops

INIT_STD = 0.02
EMBEDDING_STD = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """What a :class:`BERTEncoder` is built from; the defaults are those of BERT-base.

    Attributes:
        vocab_size: V, number of token ids.
        context_length: the most tokens of an input, special ones included.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        segments: number of segment ids (sentence A is 0, sentence B is 1).
        pad_id: the token that fills a text up.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        norm_eps: the layer norms' epsilon.
        dropout: of the embeddings and of each branch of a block, while training.
        attention_dropout: of the attention weights, while training.

    Raises:
        ConfigError: if ``width`` is no multiple of ``heads``, the activation is unknown or ``pad_id`` is no token.
    """

    vocab_size: int = 30522
    context_length: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int | None = None
    segments: int = 2
    pad_id: int = 0
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(f"BERT: width must be a multiple of heads, found {self.width} and {self.heads}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"BERT: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(f"BERT: pad_id must be from 0 to {self.vocab_size - 1}, found {self.pad_id}.")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    def flops(self) -> int:
        """Return the forward floating-point operations of one text of full length (a multiply-add is two)."""
        return self.depth * block_flops(self.context_length, self.width, self.hidden)


class BERTEncoder(nn.Module):
    """Tokens to contextual vectors: three embeddings summed and normalised, then post-norm blocks.

    Weights are drawn from a normal distribution of standard deviation 0.02 and biases are zero, as published
    (Devlin et al. 2019, appendix A.2 and the released code); the padding token's embedding starts at zero.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.segment_embedding = nn.Parameter(torch.empty(config.segments, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Transformer(
            PostNormBlock(
                config.width,
                Attention(config.width, config.heads, dropout=config.attention_dropout),
                MLP(config.width, config.hidden, config.activation),
                norm_eps=config.norm_eps,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        for table in (self.position_embedding, self.segment_embedding):
            nn.init.normal_(table, std=INIT_STD)
        init_weights(self)
        with torch.no_grad():
            self.token_embedding.weight[config.pad_id].zero_()

    def forward(self, tokens_BL: Tensor, segments_BL: Tensor | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """Encode texts, or pairs of texts.

        Args:
            tokens_BL: int64 token ids, shape (B, L), L from 1 to ``context_length``.
            segments_BL: int64 segment ids of the same shape; None for segment 0 throughout.
            mask_BL: bool, True for tokens that others may attend to; None for all but padding (``pad_id``).

        Returns:
            float, shape (B, L, D): the last block's output.

        Raises:
            DataError: if the texts are longer than ``context_length``.
        """
        config = self.config
        if tokens_BL.dim() != 2 or not 1 <= tokens_BL.shape[1] <= config.context_length:
            raise DataError(
                f"BERT takes token ids of shape (B, L), L from 1 to {config.context_length}, found "
                f"{tuple(tokens_BL.shape)}: shorten the texts, or use the model's text processor."
            )
        if mask_BL is None:
            mask_BL = tokens_BL != config.pad_id
        table = self.segment_embedding
        segment = table[0] if segments_BL is None else F.embedding(segments_BL, table)
        x_BLD = self.token_embedding(tokens_BL) + self.position_embedding[: tokens_BL.shape[1]] + segment
        return self.transformer(self.dropout(self.norm(x_BLD)), mask=mask_BL)


class Pooler(nn.Module):
    """A linear layer and tanh on one vector a text; BERT gives it the first token's.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        init_weights(self)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Map (B, D) to (B, D), values in -1..1."""
        return torch.tanh(self.linear(x_BD))


class MaskedLMHead(nn.Module):
    """Logits of the token at a position: linear, activation, layer norm, and the token embeddings as decoder.

    The decoder's matrix is the embedding's own, given at each call; the head holds the bias alone.

    Args:
        config: of the encoder.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.width)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        init_weights(self)

    def forward(self, x_ND: Tensor, embedding_VD: Tensor) -> Tensor:
        """Return logits (..., V) of vectors (..., D), with the encoder's ``token_embedding.weight``."""
        return F.linear(self.norm(self.activation(self.linear(x_ND))), embedding_VD, self.bias)


@torch.no_grad()
def start_from_statistics(
    encoder: BERTEncoder, head: MaskedLMHead | None, vectors_VD: Tensor, counts_V: Tensor, generator: torch.Generator
) -> None:
    """Start a network from what can be counted in its training text, in place, so that a small budget suffices.

    - Token embeddings become the given vectors, scaled to a standard deviation of 0.05: words of one topic are near one
      another from the first step. Tokens without a vector are drawn at random.
    - The decoder's bias becomes the logarithm of the tokens' frequencies, the best answer that sees no context.
    - In each block queries and keys start equal, and the output's matrix as the transpose of the values', so that a
      token attends to its like (Trockman & Kolter 2023, "Mimetic Initialization of Self-Attention Layers").

    Args:
        encoder: the encoder.
        head: the masked language model's, if there is one.
        vectors_VD: one vector a token, zero where there is none.
        counts_V: how often each token occurs.
        generator: of the random numbers, on the CPU.
    """
    width = encoder.config.width
    std = (0.32 / width) ** 0.5

    def draw(*shape: int, std: float = std) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    known_V = vectors_VD.any(1)
    start_VD = draw(*vectors_VD.shape, std=EMBEDDING_STD)
    if known_V.any():
        start_VD[known_V] = vectors_VD[known_V] * (EMBEDDING_STD / vectors_VD[known_V].square().mean().sqrt())
    start_VD[encoder.config.pad_id] = 0
    encoder.token_embedding.weight.copy_(start_VD)
    if head is not None:
        log_share_V = ((counts_V + 1) / (counts_V + 1).sum()).log()
        head.bias.copy_(log_share_V - log_share_V.mean())
    for block in encoder.transformer.blocks:
        assert isinstance(block, PostNormBlock)
        assert isinstance(block.mlp, MLP)
        assert isinstance(block.attention, Attention)
        for linear in (block.mlp.fc1, block.mlp.fc2):
            linear.weight.copy_(draw(*linear.weight.shape))
        query_DD = draw(width, width)
        value_DD = torch.linalg.qr(draw(width, width)).Q * 0.7
        block.attention.qkv.weight.copy_(torch.cat([query_DD, query_DD, value_DD]))
        block.attention.out.weight.copy_(value_DD.T)


def init_weights(module: nn.Module) -> None:
    """Draw every linear and embedding weight of a module as BERT does; biases become zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=INIT_STD)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

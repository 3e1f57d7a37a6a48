"""TrOCR's decoder: it writes the text of a picture that an encoder has seen (Li et al. 2021, section 3.1.2).

Post-norm blocks as in BART, from which published decoders began (Lewis et al. 2020): scaled embeddings or not, learnt
positions or sines, a norm behind the embeddings or not.

    B pictures   L tokens   S tokens of the picture   D width   C width of the picture's tokens   V tokens that are known
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cache import KVCache
from intermodal.nn.cross import PostNormDecoderBlock, Written
from intermodal.nn.linear import linear
from intermodal.nn.transformer import ACTIVATIONS, Activation
from intermodal.nn.whisper import sinusoids


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(Config):
    """What a :class:`ReadingDecoder` is built from; the defaults are those of TrOCR base.

    Attributes:
        vocab_size: V.
        context_length: the most tokens of a text, its start included.
        width: D, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.
        context_dim: C; None for D.
        mlp_width: hidden width of the MLPs; None for ``4 * width``.
        activation: a key of ``nn.transformer.ACTIVATIONS``.
        positions: ``learnt`` or ``sines``, which count from ``pad_id + 1`` and give padding nothing.
        scaled: embeddings are multiplied with ``sqrt(width)``.
        embedding_norm: a layer norm behind the embeddings.
        tied: the last matrix is the token embeddings; else it has its own.
        pad_id: the token that fills a text up.
        dropout, attention_dropout: while training.

    Raises:
        ConfigError: if a number is out of range.
    """

    vocab_size: int = 50265
    context_length: int = 512
    width: int = 1024
    depth: int = 12
    heads: int = 16
    context_dim: int | None = None
    mlp_width: int | None = None
    activation: Activation = "gelu"
    positions: str = "learnt"
    scaled: bool = False
    embedding_norm: bool = True
    tied: bool = True
    pad_id: int = 1
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.context_length, self.width, self.depth, self.heads) < 1:
            raise ConfigError("Reader: every size must be at least 1.")
        if self.width % self.heads or (self.positions == "sines" and self.width % 2):
            raise ConfigError(f"Reader: width must be a multiple of heads (with sines even), found {self.width}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"Reader: activation must be one of {list(ACTIVATIONS)}, found {self.activation!r}.")
        if self.positions not in ("learnt", "sines"):
            raise ConfigError(f"Reader: positions are 'learnt' or 'sines', found {self.positions!r}.")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(f"Reader: pad_id must be from 0 to {self.vocab_size - 1}, found {self.pad_id}.")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def context(self) -> int:
        """C, the width of the picture's tokens."""
        return self.width if self.context_dim is None else self.context_dim

    def flops(self, length: int, context: int) -> int:
        """Return the forward operations of a text of ``length`` tokens over ``context`` tokens (a multiply-add is two)."""
        width = self.width
        written = 8 * length * width**2 + 4 * length**2 * width
        read = 4 * length * width**2 + 4 * context * self.context * width + 4 * length * context * width
        block = written + read + 4 * length * width * self.hidden
        return self.depth * block + 2 * length * width * self.vocab_size


@functools.lru_cache(maxsize=8)
def _sines(positions: int, width: int, device: torch.device) -> Tensor:
    return sinusoids(positions, width).to(device)


class ReadingDecoder(nn.Module):
    """Logits of the next token of a text, given the tokens of a picture.

    Matrices are drawn as Glorot & Bengio 2010 have it (equation 16), embeddings from a normal distribution of variance
    ``1 / D``; biases are zero. The deviation of 0.02 that is usual for networks of width 768 is too small for narrow ones:
    all places get the same weight at first, and the decoder learns texts long before it looks at a picture.

    Args:
        config: sizes and choices.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learnt":
            self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
            nn.init.normal_(self.position_embedding, std=config.width**-0.5)
        self.embedding_norm = nn.LayerNorm(config.width) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PostNormDecoderBlock(
                config.width,
                config.heads,
                config.context,
                config.hidden,
                activation=config.activation,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
            )
            for _ in range(config.depth)
        )
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=config.width**-0.5)

    @property
    def layers(self) -> list[PostNormDecoderBlock]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, PostNormDecoderBlock)]

    def start(self, context_BSC: Tensor, length: int, seen_BS: Tensor | None = None) -> Written:
        """Return the memory of a text that has not begun, of at most ``length`` tokens."""
        kept = [block.cross.keys(context_BSC) for block in self.layers]
        return Written(KVCache(self.config.depth, min(length, self.config.context_length)), kept, seen_BS)

    def embed(self, tokens_BL: Tensor, start: int = 0) -> Tensor:
        """Return what the first block takes, (B, L, D), of tokens of which the first has the number ``start``.

        Raises:
            DataError: if there are more than ``context_length`` tokens.
        """
        config, end = self.config, start + tokens_BL.shape[1]
        if end > config.context_length:
            raise DataError(f"The decoder writes at most {config.context_length} tokens, found {end}.")
        x_BLD = self.token_embedding(tokens_BL) * (config.width**0.5 if config.scaled else 1.0)
        if config.positions == "learnt":
            place = self.position_embedding[start:end]
        else:
            first = config.pad_id + 1
            table = _sines(first + config.context_length, config.width, tokens_BL.device)[first + start : first + end]
            place = table.to(x_BLD.dtype) * (tokens_BL != config.pad_id).unsqueeze(-1)
        return self.dropout(self.embedding_norm(x_BLD + place))

    def hidden(self, tokens_BL: Tensor, read: Tensor | Written, seen_BS: Tensor | None = None) -> Tensor:
        """Return a vector for each token, (B, L, D), which :meth:`logits` turns into what comes next.

        Args:
            tokens_BL: int64 (B, L), padding behind.
            read: the picture's tokens (B, S, C), or the memory, from which the text goes on and in which it is kept.
            seen_BS: which of the picture's tokens may be read, bool; None for all (a memory knows it).

        Raises:
            DataError: as :meth:`embed`.
        """
        if not isinstance(read, Written):
            x_BLD = self.embed(tokens_BL)
            for block in self.blocks:
                x_BLD = block(x_BLD, read, seen=seen_BS)
            return x_BLD
        x_BLD = self.embed(tokens_BL, read.cache.length)
        for block, context, cache in zip(self.blocks, read.context, read.cache.layers, strict=True):
            x_BLD = block(x_BLD, context, cache=cache, seen=read.seen)
        return x_BLD

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Return logits (..., V) of vectors (..., D)."""
        return linear(x_BLD, self.token_embedding.weight if self.config.tied else self.head.weight)

    def looked(self, tokens_BL: Tensor, context_BSC: Tensor, seen_BS: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what :meth:`hidden` does, and where each token looks, (B, blocks, H, L, S), which sums to one over S."""
        x_BLD, found = self.embed(tokens_BL), []
        for block in self.layers:
            x_BLD = block.written(x_BLD)
            weight_BHLS = block.cross.weights(x_BLD, context_BSC)
            if seen_BS is not None:
                weight_BHLS = weight_BHLS * seen_BS[:, None, None]
                weight_BHLS = weight_BHLS / weight_BHLS.sum(-1, keepdim=True)
            found.append(weight_BHLS)
            x_BLD = block.onward(x_BLD, context_BSC, seen_BS)
        return x_BLD, torch.stack(found, 1)

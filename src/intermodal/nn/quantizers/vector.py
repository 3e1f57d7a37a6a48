"""The nearest vector of a codebook, and how the codebook follows the vectors (van den Oord, Vinyals & Kavukcuoglu 2017).

Shapes: B batch, D dimensions of a vector, N vectors (all places of a batch), K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.nn.distributed import all_reduce_sum, rank_and_world
from intermodal.nn.nearest import nearest
from intermodal.nn.quantizers.base import Quantized, Quantizer, occurrence, straight_through

KMEANS_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class VectorQuantizerConfig(Config):
    """What a :class:`VectorQuantizer` is made of.

    Attributes:
        codes: K.
        dim: D.
        update: how the codebook follows the vectors: ``ema``, a moving average of those that chose each code (appendix A.1
            of the paper), or ``loss``, the second term of its equation 3.
        decay: gamma of that average, which is kept in both cases for the codes' counts.
        smoothing: added to every count (Laplace), so that a code without vectors is not divided by zero.
        commitment: beta, weight of the distance that the encoder descends: 0.25 in the paper.
        codebook: weight of the distance that the codebook descends, with ``update="loss"``: 1 in the paper.
            (Published VQGANs have these two the other way round: ``commitment=1`` and ``codebook`` beta.)
        cosine: vectors and codes of length 1 (Yu et al. 2022, section 3.2).
        initial: what the codebook begins with: ``random`` small numbers; or from the first batch of training its vectors
            (``data``), or their centres (``kmeans``).
        restart: a code whose moving count falls below this share of the mean count is replaced by a vector of the batch; 0
            for never. (Dhariwal et al. 2020 and Zeghidour et al. 2021 state a count; a share suits every size of a batch.)

    Raises:
        ConfigError: if a number is out of range.
    """

    codes: int
    dim: int
    update: Literal["ema", "loss"] = "ema"
    decay: float = 0.99
    smoothing: float = 1e-5
    commitment: float = 0.25
    codebook: float = 1.0
    cosine: bool = False
    initial: Literal["random", "data", "kmeans"] = "data"
    restart: float = 0.0

    def __post_init__(self) -> None:
        if self.codes < 1 or self.dim < 1:
            raise ConfigError(f"Quantizer: codes and dim must be at least 1, found {self.codes} and {self.dim}.")
        if not 0 <= self.decay < 1 or not 0 <= self.restart < 1:
            raise ConfigError(
                f"Quantizer: decay and restart are shares, at least 0 and below 1, found {self.decay} and {self.restart}."
            )
        if self.smoothing <= 0 or min(self.commitment, self.codebook) < 0:
            raise ConfigError("Quantizer: smoothing must be above 0, commitment and codebook not below.")


class VectorQuantizer(Quantizer):
    """The nearest vector of a codebook (van den Oord, Vinyals & Kavukcuoglu 2017).

    ``codebook`` ``(K, D)`` is a parameter with ``update="loss"``, else a buffer. ``counts`` ``(K,)`` and ``sums`` ``(K, D)``
    are the moving averages, summed over the ranks of torch.distributed: every rank has the codebook of one process with the
    whole batch. All of it is part of the state.

    Args:
        config: the sizes and the rules.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, config: VectorQuantizerConfig) -> None:
        super().__init__()
        self.config, self.dim, self.codebook_size = config, config.dim, config.codes
        start_KD = torch.empty(config.codes, config.dim)
        if config.cosine:
            start_KD = F.normalize(start_KD.normal_(), dim=1)
        else:
            start_KD.uniform_(-1 / config.codes, 1 / config.codes)
        if config.update == "loss":
            self.codebook = nn.Parameter(start_KD)
        else:
            self.register_buffer("codebook", start_KD)
            self.register_buffer("sums", start_KD.clone())
        self.register_buffer("counts", torch.ones(config.codes))
        self.register_buffer("started", torch.tensor(config.initial == "random"))

    # --8<-- [start:rows]
    def rows(self, z_ND: Tensor, generator: torch.Generator | None) -> Quantized:
        """Quantize vectors: the second and third term of equation 3, and the straight-through estimator."""
        config = self.config
        if config.cosine:
            z_ND = F.normalize(z_ND, dim=1)
        learns = self.training and not all_reduce_sum((~z_ND.detach().isfinite().all()).int())
        if learns:
            self._revive(z_ND.detach(), generator)
        codebook_KD = self._table()
        codes_N = nearest(z_ND, codebook_KD)
        chosen_ND = F.embedding(codes_N, codebook_KD).to(z_ND.dtype)
        commitment = F.mse_loss(z_ND, chosen_ND.detach())
        loss = config.commitment * commitment
        if config.update == "loss":
            loss = loss + config.codebook * F.mse_loss(chosen_ND, z_ND.detach())
        counts_K = torch.bincount(codes_N, minlength=config.codes)
        if learns:
            self._follow(z_ND.detach(), codes_N, counts_K)
        parts = {**occurrence(counts_K), "commitment": commitment.detach()}
        return Quantized(straight_through(z_ND, chosen_ND), codes_N, loss, parts)

    @torch.no_grad()
    def _follow(self, z_ND: Tensor, codes_N: Tensor, counts_K: Tensor) -> None:
        """Move the averages, and with ``update="ema"`` the codebook (appendix A.1, equations 6 to 8)."""
        config = self.config
        self.counts.lerp_(all_reduce_sum(counts_K.to(self.counts)), 1 - config.decay)
        if config.update == "loss":
            return
        self.sums.lerp_(all_reduce_sum(self._sums(z_ND, codes_N)), 1 - config.decay)
        total = self.counts.sum()
        smoothed_K = (self.counts + config.smoothing) / (total + config.codes * config.smoothing) * total
        self.codebook.copy_(self._normed(self.sums / smoothed_K[:, None]))

    # --8<-- [end:rows]

    def _table(self) -> Tensor:
        """Return the vectors of the codes, ``(K, D)``."""
        return self._normed(self.codebook) if self.config.update == "loss" else self.codebook

    def _normed(self, codes_KD: Tensor) -> Tensor:
        return F.normalize(codes_KD, dim=1) if self.config.cosine else codes_KD

    def _sums(self, z_ND: Tensor, codes_N: Tensor) -> Tensor:
        """Return the sum of the vectors that chose each code, ``(K, D)``."""
        sums_KD = torch.zeros(self.codebook.shape, dtype=self.counts.dtype, device=z_ND.device)
        return sums_KD.index_add_(0, codes_N, z_ND.to(sums_KD.dtype))

    @torch.no_grad()
    def _revive(self, z_ND: Tensor, generator: torch.Generator | None) -> None:
        """Begin the codebook with the first batch, and replace dead codes by vectors of this one.

        Before the codes are chosen, so that nothing that backward needs is changed between the two.
        """
        config = self.config
        if not self.started:
            self._place(torch.ones_like(self.counts, dtype=torch.bool), z_ND, generator)
            if config.initial == "kmeans":
                self._centre(z_ND)
            self.started.fill_(True)
        elif config.restart:
            dead_K = self.counts < config.restart * self.counts.mean()
            if dead_K.any():
                self._place(dead_K, z_ND, generator)

    def _place(self, which_K: Tensor, z_ND: Tensor, generator: torch.Generator | None) -> None:
        """Put vectors of the batch, drawn without replacement while there are enough, in the place of some codes."""
        drawn_kD = draw_rows(z_ND, int(which_K.sum()), generator).to(self.codebook.dtype)
        self.codebook[which_K] = drawn_kD
        self.counts[which_K] = self.counts.mean() if self.started else self._share(z_ND)
        if self.config.update == "ema":
            self.sums[which_K] = drawn_kD * self.counts[which_K][:, None]

    def _share(self, z_ND: Tensor) -> Tensor:
        """Return how many vectors a code has if all have as many."""
        return all_reduce_sum(self.counts.new_tensor(len(z_ND) / self.config.codes))

    def _centre(self, z_ND: Tensor) -> None:
        """Move the codebook to the centres that Lloyd's algorithm finds; a centre without vectors stays."""
        for _ in range(KMEANS_STEPS):
            codes_N = nearest(z_ND, self.codebook)
            counts_K = all_reduce_sum(torch.bincount(codes_N, minlength=self.config.codes).to(self.counts))
            sums_KD = all_reduce_sum(self._sums(z_ND, codes_N))
            centres_KD = self._normed(sums_KD / counts_K.clamp(min=1)[:, None])
            self.codebook.copy_(torch.where(counts_K[:, None] > 0, centres_KD, self.codebook))
        self.counts.copy_(counts_K)
        if self.config.update == "ema":
            self.sums.copy_(self.codebook * counts_K[:, None])

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors ``(N, D)`` of codes ``(N,)``."""
        return F.embedding(codes, self._table())


def draw_rows(z_ND: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Return ``count`` rows ``(count, D)`` drawn from all ranks' together, the same on every rank.

    Rank 0's generator decides. Without replacement; where there are too few rows, each occurs about equally often.
    """
    rank, world = rank_and_world()
    lengths_W = torch.zeros(world, dtype=torch.int64, device=z_ND.device)
    lengths_W[rank] = len(z_ND)
    lengths = all_reduce_sum(lengths_W).tolist()
    total, first = sum(lengths), sum(lengths[:rank])
    places_k = torch.randperm(max(total, count), generator=generator)[:count].to(z_ND.device) % total
    places_k = all_reduce_sum(places_k if rank == 0 else torch.zeros_like(places_k))
    own_k = (places_k >= first) & (places_k < first + len(z_ND))
    drawn_kD = z_ND.new_zeros(count, z_ND.shape[1])
    drawn_kD[own_k] = z_ND[places_k[own_k] - first]
    return all_reduce_sum(drawn_kD)

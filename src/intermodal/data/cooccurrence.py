"""Vectors of tokens from how often they stand near one another: what a network may start from.

The positive pointwise mutual information of tokens within a window is factorised to low rank; skip-gram with negative
sampling factorises the same matrix implicitly (Levy & Goldberg 2014, equation 12; Levy et al. 2015, sections 2.1 and 3).

Shapes: V vocabulary, D dimensions, N tokens of the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError

MOST = 16_384
"""The largest vocabulary: the V x V matrix is held whole."""
AT_A_TIME = 1 << 22


def cooccurrence_vectors(
    tokens_N: Tensor,
    vocab_size: int,
    dim: int,
    *,
    ignored: Sequence[int] = (),
    window: int = 8,
    smoothing: float = 0.75,
    seed: int = 0,
) -> Tensor:
    """Return one vector a token: the first ``dim`` singular vectors of the positive PMI, times the root of their values.

    Args:
        tokens_N: int64 ids of a text, in order.
        vocab_size: V, at most :data:`MOST`.
        dim: D; where the vocabulary is smaller the rest is zero.
        ignored: ids whose counts are dropped (padding, unknown).
        window: tokens up to so far apart are near.
        smoothing: exponent of the context's frequency.
        seed: of the randomised decomposition (Halko et al. 2011, algorithm 4.4).

    Returns:
        float32, shape (V, D); a token that never occurs near another has the zero vector.

    Raises:
        ConfigError: if the vocabulary is too large for this.
    """
    if vocab_size > MOST:
        raise ConfigError(f"Vectors from co-occurrence need a vocabulary of at most {MOST:,}, found {vocab_size:,}.")
    counts_VV = torch.zeros(vocab_size * vocab_size)
    for apart in range(1, min(window, len(tokens_N) - 1) + 1):
        for left_N, right_N in zip(tokens_N[:-apart].split(AT_A_TIME), tokens_N[apart:].split(AT_A_TIME), strict=True):
            counts_VV.index_add_(0, left_N * vocab_size + right_N, torch.ones(len(left_N)))
    counts_VV = counts_VV.view(vocab_size, vocab_size)
    counts_VV = counts_VV + counts_VV.T
    if ignored:
        counts_VV[list(ignored)] = 0
        counts_VV[:, list(ignored)] = 0
    total_V = counts_VV.sum(1)
    context_V = total_V**smoothing
    near_V = total_V > 0
    pmi_VV = counts_VV
    pmi_VV.mul_(context_V.sum().clamp(min=1e-12)).div_(total_V.clamp(min=1e-12)[:, None])
    pmi_VV.div_(context_V.clamp(min=1e-12)).clamp_(min=1.0).log_()
    generator = torch.Generator().manual_seed(seed)
    rank = min(dim + 16, vocab_size)
    basis_VR = torch.randn(vocab_size, rank, generator=generator)
    for _ in range(4):
        basis_VR = torch.linalg.qr(pmi_VV @ (pmi_VV.T @ basis_VR)).Q
    left_RR, values_R, _ = torch.linalg.svd((pmi_VV.T @ basis_VR).T, full_matrices=False)
    kept = min(dim, rank)
    out_VD = torch.zeros(vocab_size, dim)
    out_VD[:, :kept] = (basis_VR @ left_RR[:, :kept]) * values_R[:kept].sqrt()
    return out_VD * near_V[:, None]

"""Skip-gram with negative sampling: the loss of word2vec.

Shapes: B pairs of a centre and a context word, K negatives for each, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.losses.distances import precise
from intermodal.losses.tiles import full_precision


def sgns(centre_BD: Tensor, context_BD: Tensor, negative_BKD: Tensor, *, keep_BK: Tensor | None = None) -> Tensor:
    """Return the loss of skip-gram with negative sampling.

    The mean over pairs of ``-log sigmoid(context.centre) - sum over negatives of log sigmoid(-negative.centre)``.
    Mikolov et al. 2013 (arXiv:1310.4546), equation 4. (For CBOW, ``centre`` is the mean of the window's words
    and ``context`` the word in its middle.)

    Args:
        centre_BD: vectors of the centre words (the first encoder), shape ``(B, D)``.
        context_BD: vectors of their context words (the second encoder), shape ``(B, D)``.
        negative_BKD: vectors of noise words (the second encoder), shape ``(B, K, D)``, or ``(K, D)`` where all
            pairs share them; K may be 0.
        keep_BK: bool, shape ``(B, K)``: False leaves a negative out, as word2vec does where the noise drew the
            context word itself; None keeps all.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input), also under autocast. NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together.
    """
    batch, dim = centre_BD.shape if centre_BD.ndim == 2 else (0, 0)
    shared = negative_BKD.ndim == 2
    count = negative_BKD.shape[0 if shared else 1] if negative_BKD.ndim > 1 else 0
    fits = negative_BKD.shape == ((count, dim) if shared else (batch, count, dim))
    if batch * dim == 0 or context_BD.shape != centre_BD.shape or not fits:
        raise ValueError(
            "Expected centres and contexts of one shape (B, D), not empty, and negatives (B, K, D) or (K, D), found "
            f"{list(centre_BD.shape)}, {list(context_BD.shape)} and {list(negative_BKD.shape)}."
        )
    if keep_BK is not None and (keep_BK.shape != (batch, count) or keep_BK.dtype != torch.bool):
        raise ValueError(
            f"keep_BK must be bool of shape {[batch, count]}, found {keep_BK.dtype} {list(keep_BK.shape)}."
        )
    with full_precision(centre_BD):
        centre_BD, context_BD, negative = precise(centre_BD), precise(context_BD), precise(negative_BKD)
        found_B = (centre_BD * context_BD).sum(1)
        noise_BK = centre_BD @ negative.T if shared else torch.einsum("bd,bkd->bk", centre_BD, negative)
        by_noise_BK = -F.logsigmoid(-noise_BK)
        if keep_BK is not None:
            by_noise_BK = by_noise_BK.masked_fill(~keep_BK, 0)
        return (by_noise_BK.sum() - F.logsigmoid(found_B).sum()) / batch

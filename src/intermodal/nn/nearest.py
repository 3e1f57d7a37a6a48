"""The nearest of K vectors to each of N, without the N x K matrix of distances.

``|z - e|^2 = |z|^2 - 2 z e + |e|^2``, and what does not depend on the code decides nothing: the smallest of
``|e|^2 / 2 - z e`` is one matrix product and one search for the smallest. Both are done on a part of the matrix at a time
that stays in the processor's cache.

    N vectors   K codes   D dimensions   n, k of a part   G groups of codes, L codes in each
"""

from __future__ import annotations

import torch
from torch import Tensor

CPU_SCORES = 2**20
"""Numbers of a part of the matrix on a CPU: 4 MB in float32, which caches hold."""
ACCELERATOR_SCORES = 2**25
"""Numbers of a part elsewhere: 128 MB in float32, enough to keep an accelerator busy."""
MOST_CODES = 8192
"""Columns of a part: more of them would leave it too few rows for a fast product."""
GROUP = 64
"""Codes of a group; see :func:`first_smallest`."""


@torch.no_grad()
def nearest(z_ND: Tensor, codebook_KD: Tensor, *, scores: int | None = None) -> Tensor:
    """Return the number of the code that is nearest to each vector, int64 ``(N,)``; of equally near ones the lowest.

    Computed in float32 at least, whatever autocast says: two codes whose squared distances differ by less than rounding
    (about ``1e-6 |z| |e|``, both measured from the codebook's mean) may be taken for equally near. Measuring from the mean
    keeps the digits of vectors that all lie far from the origin.

    Args:
        z_ND: vectors, shape (N, D), of any float type; N may be 0. One that is not finite gets code 0.
        codebook_KD: codes, shape (K, D), K at least 1.
        scores: how many numbers of the N x K matrix to hold at a time; None for what suits the device.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if z_ND.ndim != 2 or codebook_KD.ndim != 2 or z_ND.shape[1] != codebook_KD.shape[1] or not len(codebook_KD):
        raise ValueError(
            f"Vectors (N, D) and codes (K, D) must have the same D, and K must be above 0; found {list(z_ND.shape)} and "
            f"{list(codebook_KD.shape)}."
        )
    kind = torch.promote_types(torch.promote_types(z_ND.dtype, codebook_KD.dtype), torch.float32)
    codes_KD = codebook_KD.to(kind)
    mean_D = codes_KD.mean(0)
    parts = (codes_KD - mean_D).split(MOST_CODES)
    halves = [part.square().sum(1).div_(2) for part in parts]
    most = scores or (CPU_SCORES if z_ND.device.type == "cpu" else ACCELERATOR_SCORES)
    rows = max(1, min(len(z_ND), most // len(parts[0])))
    memory = codes_KD.new_empty(rows * len(parts[0]))
    found_N = torch.zeros(len(z_ND), dtype=torch.int64, device=z_ND.device)
    with torch.autocast(z_ND.device.type, enabled=False):
        for z_nD, found_n in zip(z_ND.split(rows), found_N.split(rows), strict=True):
            centred_nD = z_nD.to(kind) - mean_D
            best_n = centred_nD.new_full((len(z_nD),), torch.inf)
            for i, (part_kD, half_k) in enumerate(zip(parts, halves, strict=True)):
                score_nk = memory[: len(z_nD) * len(part_kD)].view(len(z_nD), len(part_kD))
                torch.addmm(half_k, centred_nD, part_kD.t(), alpha=-1, out=score_nk)
                code_n = first_smallest(score_nk)
                score_n = score_nk.gather(1, code_n[:, None])[:, 0]
                better_n = score_n < best_n
                found_n.copy_(torch.where(better_n, code_n + i * MOST_CODES, found_n))
                best_n = torch.where(better_n, score_n, best_n)
    return found_N


def first_smallest(score_nk: Tensor) -> Tensor:
    """Return the place of the smallest number in each row, int64 ``(n,)``; of equal ones the first.

    A search for the smallest value is several times as fast as one for its place, so groups of columns are searched for
    their values, then the groups for a place, then one group.
    """
    rows, columns = score_nk.shape
    if columns % GROUP:
        return score_nk.argmin(1)
    score_nGL = score_nk.view(rows, columns // GROUP, GROUP)
    group_n = score_nGL.amin(2).argmin(1)
    within_nL = score_nGL[torch.arange(rows, device=score_nk.device), group_n]
    return group_n * GROUP + within_nL.argmin(1)

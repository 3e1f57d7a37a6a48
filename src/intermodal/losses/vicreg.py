"""VICReg: invariance without negatives, kept from collapse by variance and covariance.

Shapes: B embeddings over all ranks, b of them on this rank, D features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from intermodal.losses.distances import check_embeddings, precise
from intermodal.losses.distributed import all_reduce_sum, check_same_shape, rank_and_world, total_over_ranks
from intermodal.losses.tiles import full_precision


class VICRegTerms(NamedTuple):
    """The three terms of VICReg, unweighted scalars, each at least 0.

    Attributes:
        invariance: mean squared difference of the two views' embeddings.
        variance: by how much features vary less than ``gamma``, of both views.
        covariance: squared covariance of different features, of both views.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg(
    view1_BD: Tensor,
    view2_BD: Tensor,
    *,
    gamma: float = 1.0,
    epsilon: float = 1e-4,
    gather: bool = True,
    group: dist.ProcessGroup | None = None,
) -> VICRegTerms:
    """Return the three terms of VICReg; the caller weighs and adds them (the paper: 25, 25 and 1).

    Bardes et al. 2022 (arXiv:2105.04906). For embeddings Z and Z' of two views:

    - invariance: the mean of ``(z - z')^2`` over samples *and* features, as in algorithm 1, to which the
      published weights belong (equation 5 sums over the features);
    - variance: ``v(Z) + v(Z')`` with ``v(Z) = mean over features of max(0, gamma - sqrt(Var(z) + epsilon))``,
      equations 1, 2 and 6 (the published code halves the sum);
    - covariance: ``c(Z) + c(Z')`` with ``c(Z)`` the sum of the squares of the off-diagonal entries of the
      covariance matrix, divided by D, equations 3, 4 and 6.

    Variances and covariances divide by B - 1.

    *Memory* is O(B D + D^2). *Many processes*: sums and a D x D matrix of products are added over the ranks,
    features stay home. Every rank returns the terms of the whole batch, and gradients are exact after the
    averaging of DistributedDataParallel.

    Args:
        view1_BD: embeddings of one view, shape ``(B, D)`` (with ``gather``: this rank's ``(b, D)``), any
            floating dtype, not normalised.
        view2_BD: embeddings of the other view, the same shape; row i belongs to row i.
        gamma: the standard deviation below which a feature costs, above 0.
        epsilon: added to variances, above 0: the gradient of the square root is finite where all are equal.
        gather: take the batch of all ranks when torch.distributed is initialised; every rank must then call.
        group: the ranks to gather over; None for all.

    Returns:
        Three scalars, float32 (float64 for float64 input), also under autocast. A batch of one has no variance
        (its term is the largest possible) and no covariance, and gives both no gradient; one feature has no
        covariance. NaN in gives NaN out.

    Raises:
        ValueError: if the shapes differ or are not ``(B, D)``, if ``epsilon`` is not above 0, or if ranks hold
            different shapes.
    """
    check_embeddings(view1_BD)
    if view1_BD.shape != view2_BD.shape or not view2_BD.is_floating_point():
        raise ValueError(
            f"Both views must be floating and of one shape (B, D), found {view1_BD.dtype} {list(view1_BD.shape)} "
            f"and {view2_BD.dtype} {list(view2_BD.shape)}."
        )
    if epsilon <= 0:
        raise ValueError(f"epsilon must be above 0, found {epsilon}.")
    _, world = rank_and_world(group) if gather else (0, 1)
    if world > 1:
        check_same_shape(view1_BD, group)
    with full_precision(view1_BD):
        view1_BD, view2_BD = precise(view1_BD), precise(view2_BD)
        batch, dim = view1_BD.shape[0] * world, view1_BD.shape[1]
        squares = (view1_BD - view2_BD).square().sum()
        invariance = (total_over_ranks(squares, group) if gather else squares) / (batch * dim)
        variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
        for view in (view1_BD, view2_BD):
            # The mean may be a constant: no derivative of sums of products of centred features is missing.
            total = view.detach().sum(0)
            centred = view - (all_reduce_sum(total, group) if gather else total) / batch
            covariance_DD = _Products.apply(centred, gather, group) / max(batch - 1, 1)
            diagonal = covariance_DD.diagonal()
            variance = variance + (gamma - (diagonal + epsilon).sqrt()).relu().mean()
            covariance = covariance + (covariance_DD - diagonal.diag_embed()).square().sum() / dim
    return VICRegTerms(invariance, variance, covariance)


class _Products(torch.autograd.Function):
    """``x.T @ x`` over the rows of all ranks."""

    @staticmethod
    def forward(ctx: Any, x_bD: Tensor, gather: bool, group: dist.ProcessGroup | None) -> Tensor:
        ctx.save_for_backward(x_bD)
        ctx.world = rank_and_world(group)[1] if gather else 1
        products = x_bD.T @ x_bD
        return all_reduce_sum(products, group) if gather else products

    @staticmethod
    def backward(ctx: Any, grad_DD: Tensor) -> tuple[Tensor | None, ...]:
        (x_bD,) = ctx.saved_tensors
        return x_bD @ ((grad_DD + grad_DD.T) * ctx.world), None, None

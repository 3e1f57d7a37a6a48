"""The linear probe: multinomial logistic regression on frozen, standardised features.

How much a linear map can read out of a representation that no longer learns (Alain & Bengio 2016, arXiv:1610.01644;
with the penalty chosen on held-out training features as in Radford et al. 2021, appendix A.3).

Shapes: N samples, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.metrics.classification import top_k_accuracy
from intermodal.metrics.knn import check_finite, check_labels

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 weights that are tried, the strongest first."""
HELD_OUT = 0.2
GRADIENT = 1e-4
"""A fit has converged when no entry of its gradient (in the coordinates of the descent) is larger."""
CHOOSING = 1e-3
"""The same while the penalty is chosen."""


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean_D, scale_D: what standardises a feature; a constant feature has the scale 1.
        weight_DC, bias_C: of the standardised features.
        l2: the penalty it was fitted with.
        loss: the objective that was reached; see :func:`fit_probe`.
        iterations: of L-BFGS.
    """

    mean_D: Tensor
    scale_D: Tensor
    weight_DC: Tensor
    bias_C: Tensor
    l2: float
    loss: float
    iterations: int

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Return the logits ``(N, C)`` of raw features ``(N, D)``, in the dtype of the fit.

        A class without a training sample has the logit minus infinity: it is never the answer.

        Raises:
            ValueError: if a feature is not finite; the first is named.
        """
        check_finite(features_ND, "feature")
        return self.standardised(features_ND) @ self.weight_DC + self.bias_C

    def standardised(self, features_ND: Tensor) -> Tensor:
        """Return features of mean zero and deviation one (on the training features)."""
        return (features_ND.detach().to(self.mean_D) - self.mean_D) / self.scale_D


def fit_probe(
    features_ND: Tensor,
    labels_N: Tensor,
    *,
    classes: int,
    l2: float | None = None,
    groups_N: Tensor | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LinearProbe:
    """Fit a probe: the minimum over W and b of ``mean_i CE(x_i W + b, y_i) + l2 / 2 * |W|^2``.

    ``x`` are the features, standardised; the bias is not penalised. It is scikit-learn's ``LogisticRegression`` with
    ``C = 1 / (l2 N)``. Without ``l2`` the weight is chosen among :data:`PENALTIES`, from strong to weak, by the accuracy on
    a fifth of the training features that is held out for it; the strongest of equals is taken and the probe is then fitted
    on all. The descent is deterministic: L-BFGS in coordinates in which the objective's curvature at its start is about
    the same in all directions, which leaves the minimum where it is.

    Args:
        features_ND: training features.
        labels_N: their classes, integers from 0 to C - 1, of at least two classes.
        classes: C.
        l2: the penalty, positive; None to choose.
        groups_N: integers; samples of one group (pictures of one thing) are held out together.
        seed: which samples are held out.
        dtype: of the fit, float32 or float64.

    Raises:
        ValueError: if shapes do not fit, a feature is not finite (the first is named), a label is no class, all labels
            are the same, or ``l2`` is not positive.
    """
    if features_ND.ndim != 2 or features_ND.numel() == 0:
        raise ValueError(f"Features must have shape (N, D), N and D at least 1, found {list(features_ND.shape)}.")
    check_labels(labels_N, len(features_ND), classes)
    check_finite(features_ND, "training feature")
    if len(labels_N.unique()) < 2:
        raise ValueError(f"A probe needs at least two classes; all {len(labels_N)} labels are {int(labels_N[0])}.")
    if l2 is not None and not l2 > 0:
        raise ValueError(f"The penalty must be positive, found {l2}.")
    features_ND = features_ND.detach().to(dtype)
    labels_N = labels_N.detach().to(features_ND.device).long()
    if l2 is None:
        l2 = choose_penalty(features_ND, labels_N, classes=classes, groups_N=groups_N, seed=seed)
    return _Fit(features_ND, labels_N, classes)(l2, GRADIENT)


def choose_penalty(
    features_ND: Tensor,
    labels_N: Tensor,
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    groups_N: Tensor | None = None,
    seed: int = 0,
) -> float:
    """Return the penalty of the highest accuracy on held-out training features; the strongest of equals.

    Args:
        features_ND: as for :func:`fit_probe`.
        labels_N: their classes.
        classes: C.
        penalties: from strong to weak; after one that is worse the weaker ones are not tried.
        groups_N: which samples are held out together.
        seed: which samples are held out.

    Returns:
        One of ``penalties``: the middle one where nothing can be held out (one group, or one class left).
    """
    held_N = _held_out(labels_N if groups_N is None else groups_N.to(labels_N.device), groups_N is not None, seed)
    kept = labels_N[~held_N]
    if not held_N.any() or len(kept.unique()) < 2:
        return penalties[len(penalties) // 2]
    fit = _Fit(features_ND[~held_N], kept, classes)
    best, chosen = -1.0, penalties[0]
    for l2 in penalties:
        probe = fit(l2, CHOOSING)
        accuracy = top_k_accuracy(probe(features_ND[held_N]), labels_N[held_N], ks=(1,))["top1"]
        if accuracy < best:
            break
        if accuracy > best:
            best, chosen = accuracy, l2
    return chosen


def _held_out(keys_N: Tensor, grouped: bool, seed: int) -> Tensor:
    """Return which samples are held out: about a fifth of the groups, or of each class (none of a class of one)."""
    generator = torch.Generator().manual_seed(seed)
    held_N = torch.zeros(len(keys_N), dtype=torch.bool)
    keys = keys_N.cpu()
    if grouped:
        names = keys.unique()
        taken = names[torch.randperm(len(names), generator=generator)[: round(HELD_OUT * len(names))]]
        return torch.isin(keys, taken).to(keys_N.device)
    order = torch.randperm(len(keys), generator=generator)
    order = order[keys[order].argsort(stable=True)]  # class after class, shuffled within
    counts = torch.bincount(keys)
    place = torch.arange(len(keys)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    share = torch.ceil(HELD_OUT * (counts - 1).clamp(min=0)).long()
    held_N[order[place < torch.repeat_interleave(share, counts)]] = True
    return held_N.to(keys_N.device)


class _Fit:
    """The regression on one set of samples; each call fits one penalty, starting from the last one's minimum."""

    def __init__(self, features_ND: Tensor, labels_N: Tensor, classes: int) -> None:
        self.mean_D = features_ND.mean(0)
        scale_D = features_ND.std(0, correction=0)
        # What rounding leaves of a constant feature is not information.
        constant = scale_D <= 16 * torch.finfo(scale_D.dtype).eps * features_ND.abs().amax(0)
        self.scale_D = torch.where(constant, torch.ones_like(scale_D), scale_D)
        x_ND = (features_ND - self.mean_D) / self.scale_D
        x_ND[:, constant] = 0
        self.present = labels_N.unique()
        self.classes, self.labels_N = classes, torch.searchsorted(self.present, labels_N)
        # Along the principal axes the curvature is known: (share of each class) x (variance) + l2.
        values_D, self.axes_DD = torch.linalg.eigh((x_ND.double().T @ x_ND.double()) / len(x_ND))
        self.values_D, self.axes_DD = values_D.clamp(min=0).to(x_ND), self.axes_DD.to(x_ND)
        self.x_ND = x_ND @ self.axes_DD
        share_K = torch.bincount(self.labels_N, minlength=len(self.present)).to(x_ND) / len(x_ND)
        self.curvature_K = share_K * (1 - share_K)
        self.weight_DK = x_ND.new_zeros(x_ND.shape[1], len(self.present))
        self.bias_K = share_K.log()

    def __call__(self, l2: float, tolerance: float) -> LinearProbe:
        scale_DK = (self.values_D[:, None] * self.curvature_K + l2).rsqrt()
        scale_K = self.curvature_K.rsqrt()
        start = torch.cat([(self.weight_DK / scale_DK).flatten(), self.bias_K / scale_K])
        flat = start.clone().requires_grad_(True)
        count, dims = self.weight_DK.numel(), self.weight_DK.shape
        optimizer = torch.optim.LBFGS(
            [flat],
            max_iter=1000,
            tolerance_grad=tolerance,
            tolerance_change=torch.finfo(flat.dtype).eps,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            weight_DK, bias_K = flat[:count].view(dims) * scale_DK, flat[count:] * scale_K
            loss = F.cross_entropy(self.x_ND @ weight_DK + bias_K, self.labels_N)
            total = loss + l2 / 2 * weight_DK.square().sum()
            total.backward()
            return total

        optimizer.step(objective)
        with torch.no_grad():
            self.weight_DK, self.bias_K = flat[:count].view(dims) * scale_DK, flat[count:] * scale_K
            loss = float(objective_value(self.x_ND, self.labels_N, self.weight_DK, self.bias_K, l2))
        weight_DC = self.x_ND.new_zeros(dims[0], self.classes)
        weight_DC[:, self.present] = self.axes_DD @ self.weight_DK
        bias_C = self.x_ND.new_full((self.classes,), -torch.inf)
        bias_C[self.present] = self.bias_K
        iterations = int(optimizer.state[flat]["n_iter"])
        return LinearProbe(self.mean_D, self.scale_D, weight_DC, bias_C, l2, loss, iterations)


def objective_value(x_ND: Tensor, labels_N: Tensor, weight_DC: Tensor, bias_C: Tensor, l2: float) -> Tensor:
    """Return ``mean_i CE(x_i W + b, y_i) + l2 / 2 * |W|^2``, a scalar."""
    return F.cross_entropy(x_ND @ weight_DC + bias_C, labels_N) + l2 / 2 * weight_DC.square().sum()

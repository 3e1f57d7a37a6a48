"""Classification: top-k accuracy, accuracy per class, confusion counts.

Ties are broken at random, in expectation, as in :mod:`intermodal.metrics.retrieval`: constant scores reach
chance.

Shapes: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def top_k_accuracy(scores_NC: Tensor, labels_N: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Return, for each k, the share of samples whose label is among the k highest scores.

    Args:
        scores_NC: logits or probabilities, shape ``(N, C)``.
        labels_N: integer labels from 0 to C - 1.
        ks: depths, each at least 1; at or beyond C the accuracy is 1.

    Returns:
        ``{"top1": ..., "top5": ...}``, each in [0, 1].

    Raises:
        ValueError: if shapes do not fit, there are no samples, a label is no class, or a score is NaN.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"Each k must be at least 1, found {list(ks)}.")
    above_N, tied_N = _standing(scores_NC, labels_N)
    return {f"top{k}": float(_hit(k, above_N, tied_N).mean()) for k in ks}


def mean_class_accuracy(scores_NC: Tensor, labels_N: Tensor) -> float:
    """Return top-1 accuracy averaged over the classes that occur ("balanced accuracy").

    Args:
        scores_NC: logits or probabilities, shape ``(N, C)``.
        labels_N: integer labels from 0 to C - 1.

    Raises:
        ValueError: as :func:`top_k_accuracy`.
    """
    accuracy_C = class_accuracy(scores_NC, labels_N)
    return float(accuracy_C[~accuracy_C.isnan()].mean())


def class_accuracy(scores_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Return the top-1 accuracy of each class, float64 of shape ``(C,)``; NaN where none occurs.

    Args:
        scores_NC: logits or probabilities, shape ``(N, C)``.
        labels_N: integer labels from 0 to C - 1.

    Raises:
        ValueError: as :func:`top_k_accuracy`.
    """
    hit_N = _hit(1, *_standing(scores_NC, labels_N))
    labels_N, classes = labels_N.cpu().long(), scores_NC.shape[1]
    right_C = torch.bincount(labels_N, hit_N, minlength=classes)
    return right_C / torch.bincount(labels_N, minlength=classes)


def confusion_counts(predicted_N: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Return how often each class was taken for each: int64, shape ``(C, C)``, row label, column prediction.

    Args:
        predicted_N: integer predictions from 0 to ``classes - 1``.
        labels_N: integer labels of the same shape and range.
        classes: C.

    Raises:
        ValueError: if the shapes differ or a number is no class.
    """
    if predicted_N.ndim != 1 or predicted_N.shape != labels_N.shape:
        raise ValueError(
            f"Predictions and labels must both have shape (N,), found {list(predicted_N.shape)} and "
            f"{list(labels_N.shape)}."
        )
    _check_classes(predicted_N, classes, "Predictions")
    _check_classes(labels_N, classes, "Labels")
    pair_N = labels_N.long() * classes + predicted_N.long()
    return torch.bincount(pair_N, minlength=classes * classes).view(classes, classes).cpu()


def _standing(scores_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many classes score above the label, and how many the same (itself included), on the CPU."""
    if scores_NC.ndim != 2 or labels_N.shape != scores_NC.shape[:1] or scores_NC.numel() == 0:
        raise ValueError(
            "Scores and labels must have shapes (N, C) and (N,), N and C at least 1, "
            f"found {list(scores_NC.shape)} and {list(labels_N.shape)}."
        )
    _check_classes(labels_N, scores_NC.shape[1], "Labels")
    if (unknown := scores_NC.isnan().any(1)).any():
        raise ValueError(f"The scores of sample {int(unknown.int().argmax())} contain NaN.")
    own_N1 = scores_NC.gather(1, labels_N.long()[:, None].to(scores_NC.device))
    return (scores_NC > own_N1).sum(1).cpu(), (scores_NC == own_N1).sum(1).cpu()


def _hit(k: int, above_N: Tensor, tied_N: Tensor) -> Tensor:
    """Return the probability that the label is among the first k, tied classes being in random order."""
    return ((k - above_N) / tied_N.double()).clamp(0, 1)


def _check_classes(numbers_N: Tensor, classes: int, what: str) -> None:
    if numbers_N.is_floating_point() or numbers_N.is_complex():
        raise ValueError(f"{what} must be integers, found {numbers_N.dtype}.")
    if numbers_N.numel() and not (int(numbers_N.min()) >= 0 and int(numbers_N.max()) < classes):
        raise ValueError(
            f"{what} must be from 0 to {classes - 1}, found {int(numbers_N.min())} to {int(numbers_N.max())}."
        )

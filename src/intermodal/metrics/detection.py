"""How well a score tells two groups apart, whatever the threshold.

P positives   N negatives
"""

from __future__ import annotations

import numpy as np

from intermodal.core.errors import DataError


def auroc(positive_P: np.ndarray, negative_N: np.ndarray) -> float:
    """Return the area under the receiver operating characteristic: the share of pairs that the score orders rightly.

    It is the probability that a positive scores above a negative, a tie counting half (Hanley & McNeil 1982; the statistic
    of Mann & Whitney 1947 over P N): 0.5 for a score that says nothing, 1 where every positive is above every negative. It
    depends on the order of the scores alone.

    Args:
        positive_P: scores of those that should be high, shape ``(P,)``.
        negative_N: scores of those that should be low, shape ``(N,)``.

    Returns:
        A number in 0..1.

    Raises:
        DataError: if a group is empty, or a score is not a number.
    """
    positive, negative = (np.asarray(x, np.float64).reshape(-1) for x in (positive_P, negative_N))
    if not len(positive) or not len(negative):
        raise DataError(f"AUROC compares two groups, found {len(positive)} positives and {len(negative)} negatives.")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise DataError("AUROC cannot order scores that are not numbers: the model that gave them is broken.")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    tied = np.searchsorted(ordered, positive, side="right") - below
    return float((below + tied / 2).sum() / (len(positive) * len(negative)))

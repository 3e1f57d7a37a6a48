"""Calibration: whether a classifier that says 80 per cent is right in 80 per cent of the cases (Guo et al. 2017).

Shapes: N samples, C classes, M bins of confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: samples sorted into bins of equal width by how sure the classifier was.

    Attributes:
        count_M: samples in each bin, int64.
        confidence_M: their mean probability of the class found, float64; NaN where there is none.
        accuracy_M: the share of them that are right, float64; NaN where there is none.
    """

    count_M: Tensor
    confidence_M: Tensor
    accuracy_M: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of confidence and accuracy, over samples (equation 3)."""
        gap_M = (self.confidence_M - self.accuracy_M).abs().nan_to_num()
        return float((gap_M * self.count_M).sum() / self.count_M.sum())


def reliability(probability_NC: Tensor, labels_N: Tensor, bins: int = 15) -> Reliability:
    """Return how sure a classifier was, and how often it was then right.

    Bins reach from above their lower to their upper end, as in Guo et al. 2017, section 2.

    Args:
        probability_NC: rows that sum to one.
        labels_N: integers; one that is no class is never right.
        bins: M.

    Raises:
        ValueError: if shapes do not fit, there is no sample, or a probability is not within 0 to 1.
    """
    if probability_NC.ndim != 2 or labels_N.shape != probability_NC.shape[:1] or not probability_NC.numel():
        raise ValueError(
            f"Probabilities and labels must have shapes (N, C) and (N,), found {list(probability_NC.shape)} and "
            f"{list(labels_N.shape)}."
        )
    if not bool(((probability_NC >= 0) & (probability_NC <= 1 + 1e-5)).all()) or bins < 1:
        raise ValueError(f"Probabilities must lie from 0 to 1 and bins be at least 1, found {bins} bins.")
    sure_N, found_N = probability_NC.double().clamp(max=1).max(1)
    right_N = (found_N == labels_N.to(found_N.device)).double()
    bin_N = (sure_N * bins).ceil().long().clamp(1, bins) - 1
    count_M = torch.bincount(bin_N, minlength=bins)
    sums = [torch.bincount(bin_N, values, minlength=bins) / count_M for values in (sure_N, right_N)]
    return Reliability(count_M.cpu(), sums[0].cpu(), sums[1].cpu())

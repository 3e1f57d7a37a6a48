"""Noise-contrastive estimation: an unnormalised density, learnt by telling data from noise.

Shapes: B data samples, K noise samples for each.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from intermodal.losses.distances import precise
from intermodal.losses.tiles import full_precision


def nce_loss(
    data_logit_B: Tensor, noise_logit_BK: Tensor, data_log_noise_B: Tensor, noise_log_noise_BK: Tensor
) -> Tensor:
    """Return the loss of noise-contrastive estimation.

    With k noise samples for one of data, a sample u is data with probability
    ``h(u) = sigmoid(log p_model(u) - log p_noise(u) - log k)``, and the loss is the mean over data samples of
    ``-log h(data) - sum over its noise of log(1 - h(noise))``. Gutmann & Hyvarinen 2010 (AISTATS), equations
    8 to 10 (k = 1, without the factor 1/2 of their mean over both halves); Mnih & Teh 2012
    (arXiv:1206.6426), equations 8 to 10, for any k.

    The model's log density need not be normalised: a normaliser, learnt as one more parameter, is part of
    the logit that the caller computes; that it comes out right is what the noise's known density brings.

    Args:
        data_logit_B: log density of the data samples under the model, unnormalised or with a learnt
            normaliser, any shape with B elements.
        noise_logit_BK: the same of the noise samples, any shape with B K elements; K, the number of noise
            samples for each of data, is taken from the sizes and need not be whole.
        data_log_noise_B: normalised log density of the *data* samples under the noise, the shape of
            ``data_logit_B``.
        noise_log_noise_BK: normalised log density of the *noise* samples under the noise, the shape of
            ``noise_logit_BK``.

    Returns:
        A scalar, at least 0, float32 (float64 for float64 input). A logit of minus infinity (the model holds a
        sample impossible) is finite for noise and infinite for data. NaN in gives NaN out.

    Raises:
        ValueError: if shapes do not fit together or there is no data or no noise.
    """
    for name, logit, density in (
        ("data", data_logit_B, data_log_noise_B),
        ("noise", noise_logit_BK, noise_log_noise_BK),
    ):
        if logit.shape != density.shape or logit.numel() == 0:
            raise ValueError(
                f"Both log densities of the {name} must have one shape and at least one element, "
                f"found {list(logit.shape)} (model) and {list(density.shape)} (noise)."
            )
    data = data_logit_B.numel()
    log_k = math.log(noise_logit_BK.numel() / data)
    with full_precision(data_logit_B):
        of_data = precise(data_logit_B) - precise(data_log_noise_B) - log_k
        of_noise = precise(noise_logit_BK) - precise(noise_log_noise_BK) - log_k
        return (-F.logsigmoid(of_data).sum() - F.logsigmoid(-of_noise).sum()) / data

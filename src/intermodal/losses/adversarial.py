"""Losses of a generator and a discriminator that judges it, and the weight that balances them with another loss.

Scores are of any shape, high where the discriminator takes something for real; a loss is a mean over them, a scalar of at
least single precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from intermodal.losses.distances import precise
from intermodal.losses.distributed import all_reduce_sum, rank_and_world

EPS = 1e-4
"""Added to the norm that the adaptive weight divides by."""
MOST = 1e4
"""The adaptive weight is at most this."""


def hinge_discriminator(real: Tensor, made: Tensor) -> Tensor:
    """Return ``mean max(0, 1 - D(x)) + mean max(0, 1 + D(G(z)))`` (Lim & Ye 2017; Miyato et al. 2018, equation 16).

    A score beyond the margin, above 1 for real and below -1 for made, is left alone.
    """
    return F.relu(1 - precise(real)).mean() + F.relu(1 + precise(made)).mean()


def hinge_generator(made: Tensor) -> Tensor:
    """Return ``-mean D(G(z))``, what the generator descends against the hinge loss (Miyato et al. 2018, equation 17)."""
    return -precise(made).mean()


def logistic_discriminator(real: Tensor, made: Tensor) -> Tensor:
    """Return ``-mean log s(D(x)) - mean log(1 - s(D(G(z))))``, s the sigmoid (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-precise(real)).mean() + F.softplus(precise(made)).mean()


def logistic_generator(made: Tensor) -> Tensor:
    """Return ``-mean log s(D(G(z)))``: the form that does not saturate (Goodfellow et al. 2014, end of section 3)."""
    return F.softplus(-precise(made)).mean()


def r1_penalty(real: Tensor, image: Tensor) -> Tensor:
    """Return ``mean |grad_x D(x)|^2`` over real samples (Mescheder et al. 2018, equation 9, without its ``gamma / 2``).

    Args:
        real: scores of ``image``, with the graph; those of one sample are summed.
        image: the real samples ``(B, ...)``, of which a gradient is wanted.

    Raises:
        ValueError: if no gradient of the scores with respect to ``image`` is kept.
    """
    if not image.requires_grad or not real.requires_grad:
        raise ValueError("The R1 penalty needs scores whose gradient with respect to the real samples is kept.")
    (slope,) = torch.autograd.grad(real.sum(), image, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return how much the adversarial loss counts, a scalar without a graph (Esser et al. 2021, equation 7).

    ``|grad L_rec| / (|grad L_adv| + 1e-4)``, the gradients being those of the decoder's last layer: with this weight both
    losses pull equally hard there, however their sizes change. At most 1e4. Where several processes share a batch, the
    gradients are first averaged over them, so that the weight does not depend on how many they are.

    Args:
        reconstruction: the loss against the picture, a scalar with its graph, which is kept.
        adversarial: the generator's loss against the discriminator, likewise.
        last_layer: the weights of the decoder's last layer, a parameter that both depend on.
    """
    losses, (_, world) = (reconstruction, adversarial), rank_and_world()
    gradients = [precise(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]) for loss in losses]
    pull, push = ((all_reduce_sum(gradient) / world).norm() for gradient in gradients)
    return (pull / (push + EPS)).clamp(0.0, MOST).detach()

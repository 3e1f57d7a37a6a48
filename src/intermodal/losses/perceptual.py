"""The perceptual distance of two pictures: how far apart they are in the maps of a network (Zhang et al. 2018, "LPIPS").

Pixel differences punish a shift of one pixel as hard as another picture, and forgive blur. Here both pictures pass the same
network; at each place of each stage's map the two vectors of channels are brought to length one, and the squares of their
differences are weighted, averaged over places and summed over stages.

With the library's own network (:func:`intermodal.nn.features.features_v1`) the weights are one, which makes each stage's
term twice one minus the cosine of the two vectors; its figures are of *features-v1* and are no LPIPS. With a published LPIPS
network and its fitted weights (:func:`intermodal.hub.lpips.read_lpips`) they are.

Shapes: B pictures, H, W height and width in pixels, C, h, w channels, height and width of a stage's map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError, DataError
from intermodal.losses.distances import precise
from intermodal.nn.features import FeatureNetwork, features_v1

EPS = 1e-8
"""Added to the squared length of a vector before its root is taken.

The first versions of the authors' package added 1e-10 to the root itself; where a vector is almost zero that bounds the
gradient by 1e10 only, this by 1e4. The distances are the same wherever vectors are not of length 1e-4 or below.
"""


def perceptual_distance(
    image_BCHW: Tensor,
    other_BCHW: Tensor,
    network: FeatureNetwork | None = None,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the perceptual distance of each pair of pictures (Zhang et al. 2018, equation 1).

    ``sum_l mean_hw sum_c w_lc (y_lchw / |y_lhw| - y'_lchw / |y'_lhw|)^2`` with y the maps of one picture and y' those of the
    other. (The paper writes the weight inside of the square; the published weights, and these, are outside.)

    It is differentiable in both pictures; the network's own parameters receive gradients only if they ask for them, which
    features-v1's do not. The maps of a picture that needs no gradient are computed without a graph, so a training loss holds
    the network's activations once, in proportion to the pixels of ``image_BCHW``.

    Args:
        image_BCHW: float in 0..1, shape ``(B, 3, H, W)``; values outside of that range are taken as they are.
        other_BCHW: the same shape.
        network: what looks; None for features-v1 on the pictures' device.
        weights: per stage the channels' weights, shape ``(C,)``, at least 0; None for ones.

    Returns:
        Shape ``(B,)``, float32 (float64 where the network computes in it): 0 for equal pictures, and with weights of one at
        most 2 a stage.

    Raises:
        DataError: if the shapes differ, or the network cannot take such pictures.
        ConfigError: if there is not one weight for each channel of each stage.
    """
    if image_BCHW.shape != other_BCHW.shape:
        raise DataError(
            "The perceptual distance is of pairs of pictures of one shape, found "
            f"{tuple(image_BCHW.shape)} and {tuple(other_BCHW.shape)}."
        )
    network = features_v1(image_BCHW.device) if network is None else network
    if weights is not None:
        _check_weights(weights, network)
    # --8<-- [start:equation]
    total_B: Tensor | None = None
    for stage, (map_BChw, other_BChw) in enumerate(
        zip(_maps(network, image_BCHW), _maps(network, other_BCHW), strict=True)
    ):
        square_BChw = (_directions(map_BChw) - _directions(other_BChw)).square()
        if weights is not None:
            square_BChw = square_BChw * weights[stage].to(square_BChw).view(-1, 1, 1)
        term_B = square_BChw.sum(1).mean(dim=(1, 2))
        total_B = term_B if total_B is None else total_B + term_B
    # --8<-- [end:equation]
    assert total_B is not None
    return total_B


class PerceptualDistance(nn.Module):
    """A network and the weights of its channels, as one module: what a published LPIPS file holds.

    Args:
        network: what looks; it is frozen.
        weights: per stage ``(C,)``, at least 0; None for ones.

    Raises:
        ConfigError: if there is not one weight for each channel of each stage, or one is below 0.
    """

    def __init__(self, network: FeatureNetwork, weights: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        stages = network.config.stages
        weights = [torch.ones(stage.channels) for stage in stages] if weights is None else weights
        _check_weights(weights, network)
        if any(bool((w < 0).any()) for w in weights):
            raise ConfigError("A distance has no negative weights: these are not of a fitted LPIPS network.")
        for i, weight in enumerate(weights):
            self.register_buffer(f"weight{i}", weight.detach())

    @property
    def weights(self) -> list[Tensor]:
        """Per stage the channels' weights, ``(C,)``."""
        return [self.get_buffer(f"weight{i}") for i in range(len(self.network.config.stages))]

    def forward(self, image_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """Return the distance of each pair, ``(B,)``; see :func:`perceptual_distance`."""
        return perceptual_distance(image_BCHW, other_BCHW, self.network, self.weights)


def _maps(network: FeatureNetwork, image_BCHW: Tensor) -> list[Tensor]:
    """Return the network's maps of pictures, which are brought to its type (under autocast convolutions have autocast's)."""
    return network(image_BCHW.to(network.dtype) if image_BCHW.is_floating_point() else image_BCHW)


def _directions(map_BChw: Tensor) -> Tensor:
    """Return the vectors of channels at each place, of length one (of length zero where there is nothing)."""
    map_BChw = precise(map_BChw)
    return map_BChw * (map_BChw.square().sum(1, keepdim=True) + EPS).rsqrt()


def _check_weights(weights: Sequence[Tensor], network: FeatureNetwork) -> None:
    expected = [(stage.channels,) for stage in network.config.stages]
    if [tuple(w.shape) for w in weights] != expected:
        raise ConfigError(
            f"The network has stages of {[c for (c,) in expected]} channels, so the weights must be vectors of these "
            f"lengths, found shapes {[tuple(w.shape) for w in weights]}."
        )

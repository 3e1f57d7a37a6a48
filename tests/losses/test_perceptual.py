"""The perceptual distance beside the paper's equation as loops, its gradients, and what it takes."""

import gc
import math

import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.losses.perceptual import PerceptualDistance, perceptual_distance
from intermodal.nn.features import FeatureConfig, FeatureNetwork, StageConfig, features_v1

TINY = FeatureConfig(stages=(StageConfig(channels=3, convs=2), StageConfig(channels=5, pool="mean2")))


def tiny(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    network = FeatureNetwork(TINY).to(dtype)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def pair(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(*shape, generator=generator, dtype=dtype) for _ in range(2)]


def by_hand(network, image, other, weights):
    """Zhang et al. 2018, equation 1, place by place."""
    total = []
    for b in range(len(image)):
        distance = 0.0
        for layer, (one, two) in enumerate(zip(network(image[b : b + 1]), network(other[b : b + 1]), strict=True)):
            height, width = one.shape[2:]
            for i in range(height):
                for j in range(width):
                    y, z = (m[0, :, i, j].tolist() for m in (one, two))
                    ly, lz = (math.sqrt(sum(v * v for v in vector) + 1e-8) for vector in (y, z))
                    squares = ((p / ly - q / lz) ** 2 for p, q in zip(y, z, strict=True))
                    distance += sum(w * s for w, s in zip(weights[layer], squares, strict=True)) / (height * width)
        total.append(distance)
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (5, 7), (9, 4)])
def test_is_the_equation(size, weighted):
    network = tiny()
    x, y = pair(2, 3, *size)
    weights = [torch.rand(n, dtype=torch.float64) for n in (3, 5)] if weighted else None
    plain = [w.tolist() for w in weights] if weights else [[1.0] * 3, [1.0] * 5]
    wanted = by_hand(network, x, y, plain)
    assert perceptual_distance(x, y, network, weights).tolist() == pytest.approx(wanted, rel=1e-12)
    module = PerceptualDistance(network, weights)
    assert module(x, y).tolist() == pytest.approx(wanted, rel=1e-12)


def test_gradients_are_those_of_the_equation():
    network = tiny()
    x, y = (p.requires_grad_() for p in pair(2, 3, 4, 5))
    weights = [torch.rand(n, dtype=torch.float64) for n in (3, 5)]
    assert torch.autograd.gradcheck(lambda a, b: perceptual_distance(a, b, network, weights), (x, y))


def test_weights_of_one_are_twice_one_minus_the_cosine():
    network = tiny()
    with torch.no_grad():  # so that no vector is zero, of which there is no cosine
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(1.0)
            else:
                parameter.mul_(0.1)
    x, y = pair(3, 3, 8, 8)
    cosines = [torch.cosine_similarity(a, b, dim=1).mean((1, 2)) for a, b in zip(network(x), network(y), strict=True)]
    wanted = sum(2 - 2 * c for c in cosines)
    torch.testing.assert_close(perceptual_distance(x, y, network), wanted, atol=1e-7, rtol=0)


def test_equal_pictures_are_at_zero_and_order_does_not_matter():
    x, y = pair(4, 3, 33, 47, dtype=torch.float32)
    assert (perceptual_distance(x, x) == 0).all()
    torch.testing.assert_close(perceptual_distance(x, y), perceptual_distance(y, x), atol=1e-6, rtol=0)
    assert (perceptual_distance(x, y) > 0.01).all()
    each = torch.cat([perceptual_distance(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(perceptual_distance(x, y), each, atol=1e-5, rtol=1e-5)


def test_constant_pictures_and_their_gradients_are_finite():
    """Where maps are almost zero an unguarded root has a gradient without bound."""
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    for other in (torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)):
        (gradient,) = torch.autograd.grad(perceptual_distance(x, other).sum(), x)
        assert torch.isfinite(gradient).all()
    silent = tiny()
    with torch.no_grad():
        for parameter in silent.parameters():
            parameter.zero_()
    x, y = (p.requires_grad_() for p in pair(1, 3, 4, 4))
    distance = perceptual_distance(x, y, silent)
    assert distance.item() == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(distance.sum(), (x, y)))


def test_the_gradient_reaches_the_picture_alone():
    x, y = pair(2, 3, 32, 32, dtype=torch.float32)
    x.requires_grad_()
    perceptual_distance(x, y).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is None for p in features_v1().parameters())


def test_descending_it_brings_a_picture_back():
    x, y = pair(1, 3, 32, 32, dtype=torch.float32)
    y = torch.nn.functional.interpolate(y[..., ::8, ::8], scale_factor=8, mode="bilinear")
    x = (y + 0.2 * (x - 0.5)).clamp(0, 1).requires_grad_()
    before = perceptual_distance(x, y).item()
    optimizer = torch.optim.Adam([x], lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        perceptual_distance(x, y).sum().backward()
        optimizer.step()
    assert perceptual_distance(x, y).item() < 0.5 * before


def test_a_picture_without_a_gradient_keeps_no_graph():
    def held(other_needs_gradient):
        x, y = pair(2, 3, 64, 64, dtype=torch.float32)
        x.requires_grad_(), y.requires_grad_(other_needs_gradient)
        sizes = []

        def note(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            perceptual_distance(x, y)
        gc.collect()
        return sum(sizes)

    assert held(False) < 0.7 * held(True)


def test_half_precision_pictures_and_autocast():
    x, y = pair(2, 3, 32, 32, dtype=torch.float32)
    full = perceptual_distance(x, y)
    half = perceptual_distance(x.bfloat16(), y.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.02, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        x.requires_grad_()
        cast = perceptual_distance(x, y)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, full, atol=0.02, rtol=0.02)
    (gradient,) = torch.autograd.grad(cast.sum(), x)
    assert gradient.dtype == torch.float32 and torch.isfinite(gradient).all()


def test_the_module_holds_its_weights_and_never_trains():
    module = PerceptualDistance(tiny(), [torch.rand(n) for n in (3, 5)])
    assert {"weight0", "weight1"} < set(module.state_dict())
    assert not any(p.requires_grad for p in module.parameters())
    other = PerceptualDistance(tiny(1))
    other.load_state_dict(module.state_dict())
    x, y = pair(1, 3, 6, 6)
    assert torch.equal(module(x, y), other(x, y))


def test_bad_input_is_said_in_words():
    network = tiny()
    x, y = pair(1, 3, 6, 6)
    with pytest.raises(DataError, match="one shape"):
        perceptual_distance(x, y[..., :5], network)
    with pytest.raises(DataError, match="three equal channels"):
        perceptual_distance(x[:, :1], y[:, :1], network)
    with pytest.raises(DataError, match="at least 2 x 2"):
        perceptual_distance(x[..., :1], y[..., :1], network)
    with pytest.raises(DataError, match="0..1"):
        perceptual_distance(x.byte(), y.byte(), network)
    with pytest.raises(ConfigError, match=r"\[3, 5\] channels"):
        perceptual_distance(x, y, network, [torch.ones(3)])
    with pytest.raises(ConfigError, match="negative"):
        PerceptualDistance(network, [torch.ones(3), -torch.ones(5)])

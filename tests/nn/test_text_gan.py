"""The networks of the text-conditional GAN: the modulated convolution, the projection, sizes, norms, what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.losses.adversarial import r1_penalty
from intermodal.nn.text_gan import (
    EPS,
    ModulatedConv,
    TextDiscriminator,
    TextDiscriminatorConfig,
    TextGenerator,
    TextGeneratorConfig,
    active,
    levels_of,
)

SMALL_G = TextGeneratorConfig(image_size=16, noise=5, width=8, channels=4, most=8)
SMALL_D = TextDiscriminatorConfig(image_size=16, channels=4, most=8, features=6)


def networks(**changes) -> tuple[TextGenerator, TextDiscriminator]:
    torch.manual_seed(0)
    return TextGenerator(SMALL_G, 7).double(), TextDiscriminator(SMALL_D.replace(**changes), 7).double()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_modulated_convolution_is_one_convolution_for_each_picture():
    """Equations 1 to 3 of Karras et al. 2020, written out: each picture has kernels of its own."""
    torch.manual_seed(1)
    layer = ModulatedConv(3, 5, 4).double()
    torch.nn.init.normal_(layer.bias)
    x, style = draw(2, 3, 6, 5), draw(2, 4, seed=1)
    scale = layer.style(style)
    wanted = []
    for i in range(2):
        kernel = layer.weight * scale[i][None, :, None, None]
        kernel = kernel / torch.sqrt(kernel.square().sum((1, 2, 3), keepdim=True) + EPS)
        wanted.append(F.conv2d(x[i : i + 1], kernel, layer.bias, padding=1))
    torch.testing.assert_close(layer(x, style), torch.cat(wanted), rtol=1e-12, atol=1e-12)


def test_the_projection_is_the_equation():
    """Equation 4 of Miyato & Koyama 2018: psi(phi(x)) + phi(x)^T V c, here over the root of the features' number."""
    _, judge = networks()
    image, text = draw(3, 3, 16, 16), draw(3, 7, seed=1)
    phi = judge.phi(image)
    for i in range(3):
        match = phi[i] @ judge.match.weight @ text[i] / 6**0.5
        wanted = phi[i] @ judge.realism.weight[0] + judge.realism.bias[0] + match
        torch.testing.assert_close(judge(image, text)[i], wanted, rtol=1e-12, atol=1e-12)


def test_one_pass_over_a_picture_serves_several_texts():
    _, judge = networks()
    image, text = draw(3, 3, 16, 16), draw(3, 2, 7, seed=1)
    phi = judge.phi(image)
    found = judge.score(phi[:, None], text)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found[:, 1], judge(image, text[:, 1]), rtol=1e-12, atol=1e-12)


def test_r1_of_the_networks_is_autograd_s_own_definition():
    """The mean of the squared norms of each picture's own gradient, and the gradient of that by finite differences."""
    _, judge = networks()
    image, text = draw(3, 3, 16, 16).requires_grad_(), draw(3, 7, seed=1)
    value = r1_penalty(judge(image, text), image)
    wanted = []
    for i in range(3):
        one = image[i : i + 1].detach().requires_grad_()
        judge(one, text[i : i + 1]).sum().backward(inputs=[one])
        wanted.append(one.grad.square().sum())
    torch.testing.assert_close(value, torch.stack(wanted).mean(), rtol=1e-10, atol=1e-12)
    value.backward()
    step = 1e-6
    weight = judge.features.weight
    with torch.no_grad():
        gradient = weight.grad[2, 3].item()
        values = []
        for sign in (1, -1):
            weight[2, 3] += sign * step
            with torch.enable_grad():
                again = image.detach().requires_grad_()
                values.append(r1_penalty(judge(again, text), again).item())
            weight[2, 3] -= sign * step
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_powers_of_two_and_no_other_sizes(side):
    generator = TextGenerator(SMALL_G.replace(image_size=side), 7)
    judge = TextDiscriminator(SMALL_D.replace(image_size=side), 7)
    made = generator(torch.randn(2, 5), torch.randn(2, 7))
    assert made.shape == (2, 3, side, side) and bool((made.abs() <= 1).all())
    assert judge(made, torch.randn(2, 7)).shape == (2,)
    with pytest.raises(DataError, match=rf"\(B, 3, {side}, {side}\), found \(2, 3, {side}, {side - 1}\)"):
        judge.phi(made[..., 1:])


def test_channels_double_towards_the_coarse_maps():
    assert levels_of(32, 24, 96) == (96, 96, 48, 24)
    assert SMALL_G.levels == (8, 8, 4) and SMALL_D.levels == (4, 8)


@pytest.mark.parametrize("config", [TextGeneratorConfig, TextDiscriminatorConfig])
@pytest.mark.parametrize("changes", [{"image_size": 24}, {"image_size": 4}, {"image_size": 0}, {"channels": 0}])
def test_bad_sizes_are_refused(config, changes):
    with pytest.raises(ConfigError, match="power of two|at least 1"):
        config(**changes)


def test_a_picture_does_not_depend_on_its_neighbours():
    generator, judge = networks()
    noise, text = draw(4, 5), draw(4, 7, seed=1)
    made = generator(noise, text)
    torch.testing.assert_close(generator(noise[2:3], text[2:3]), made[2:3], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(judge(made[2:3], text[2:3]), judge(made, text)[2:3], rtol=1e-10, atol=1e-12)


def test_pictures_depend_on_noise_and_on_text():
    generator, _ = networks()
    noise, text = draw(2, 5), draw(2, 7, seed=1)
    first = generator(noise, text)
    assert not torch.allclose(first, generator(noise.flip(0), text), atol=1e-3)
    assert not torch.allclose(first, generator(noise, text.flip(0)), atol=1e-3)


def test_gradients_reach_every_weight():
    generator, judge = networks()
    text = draw(3, 7, seed=1)
    judge(generator(draw(3, 5), text), text).square().sum().backward()
    for network in (generator, judge):
        assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_spectral_norm_bounds_every_layer_and_is_restored():
    _, judge = networks(spectral_norm=True)
    judge(draw(2, 3, 16, 16), draw(2, 7))
    for _ in range(40):
        judge(draw(2, 3, 16, 16), draw(2, 7))
    judge.eval()
    layers = [m for m in judge.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) > 6
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() < 1.01
    again = TextDiscriminator(judge.config, 7).double().eval()
    again.load_state_dict(judge.state_dict())
    image, text = draw(2, 3, 16, 16), draw(2, 7)
    assert torch.equal(again(image, text), judge(image, text))


def test_the_first_scores_are_neither_nothing_nor_much():
    """A discriminator whose scores begin at nothing cannot be learnt from, nor learn."""
    torch.manual_seed(0)
    judge = TextDiscriminator(TextDiscriminatorConfig(), 128)
    scores = judge(torch.randn(64, 3, 32, 32).clamp(-1, 1), torch.randn(64, 128))
    assert 0.03 < scores.std() < 3


@torch.no_grad()
def test_activations_keep_their_size_and_half_precision():
    generator, judge = networks()
    assert float(active(draw(100_000)).square().mean()) == pytest.approx(1, abs=0.02)
    generator, judge = generator.float(), judge.float()
    noise, text = draw(4, 5).float(), draw(4, 7, seed=1).float()
    exact = generator(noise, text)
    with torch.autocast("cpu", torch.bfloat16):
        half = generator(noise, text)
        score = judge(half, text)
    assert half.dtype == torch.float32 and float((half - exact).abs().max()) < 0.1 * float(exact.abs().max())
    assert float((score.float() - judge(exact, text)).abs().max()) < 0.1


def test_configurations_are_written_and_read():
    for config in (SMALL_G, SMALL_D.replace(spectral_norm=True)):
        assert Config.from_dict(config.to_dict()) == config

"""The variational autoencoder: its divergence, bounds, likelihoods and schedules against exact cases; what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.processors import ImageProcessor, signed_pixels
from intermodal.evaluate.vae import bounds, extras, files
from intermodal.losses import pixels
from intermodal.methods.image_tokenizers.vae import VAE, VAEConfig
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.nn.gaussian import DiagonalGaussian
from intermodal.recipes.vae import vae
from processes import together

NETWORK = AutoencoderConfig(channels=(8, 8), blocks=1, latent_channels=3, groups=4, mid_attention=False)


def small(size: int = 8, **changes) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(network=NETWORK).replace(**changes), {"image": signed_pixels(size, "crop")})


def batch(count: int = 6, size: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    return {"image": levels / 127.5 - 1, "seed": torch.arange(count)}


def gaussian(shape=(5, 4, 3)) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(1)
    mean, log_var = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return DiagonalGaussian(mean, log_var)


def test_divergence_and_density_are_those_of_torch():
    found = gaussian()
    q = torch.distributions.Normal(found.mean, torch.exp(0.5 * found.log_var))
    p = torch.distributions.Normal(torch.zeros_like(found.mean), torch.ones_like(found.mean))
    torch.testing.assert_close(found.kl(), torch.distributions.kl_divergence(q, p), rtol=0, atol=1e-12)
    value = torch.randn_like(found.mean)
    torch.testing.assert_close(found.log_density(value), q.log_prob(value), rtol=0, atol=1e-12)


def test_samples_have_the_moments_and_their_gradients_reach_both():
    found = DiagonalGaussian(
        torch.full((40_000,), 0.5, requires_grad=True), torch.full((40_000,), -2.0, requires_grad=True)
    )
    sample = found.sample(torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(0.5, abs=0.01)
    assert sample.std().item() == pytest.approx(math.exp(-1), abs=0.01)
    sample.square().sum().backward()
    torch.testing.assert_close(found.mean.grad, 2 * sample.detach())
    torch.testing.assert_close(found.log_var.grad, sample.detach() * (sample - found.mean).detach())


def test_moments_are_bounded_as_in_the_published_model():
    moments = torch.tensor([[1.0, 2.0, -100.0, 100.0]]).view(1, 4, 1, 1)
    found = DiagonalGaussian.of(moments)
    assert found.mean.flatten().tolist() == [1.0, 2.0]
    assert found.log_var.flatten().tolist() == [-30.0, 20.0]


@pytest.mark.parametrize("changes", [{}, {"latent_dim": 5}])
@pytest.mark.parametrize(
    "law", [{}, {"scale": "learnt"}, {"scale": "fixed", "sigma": 0.3}, {"scale": "pixel"}, {"likelihood": "bernoulli"}]
)
def test_the_loss_is_the_bound_with_torchs_distributions(changes, law):
    method = small(**changes, **law, beta=1.5).double()
    given = batch()
    image = given["image"].double()
    total = method.loss({"image": image, "seed": given["seed"]}).total
    posterior = method.posterior(image)
    from intermodal.methods.base import generator_of

    output = method.output(posterior.sample(generator_of(given)))
    if law.get("likelihood") == "bernoulli":
        each = -nn.functional.binary_cross_entropy_with_logits(output, (image + 1) / 2, reduction="none")
    else:
        mean, raw = output.chunk(2, 1) if law.get("scale") == "pixel" else (output, None)
        if law.get("scale") == "fixed":
            sigma = torch.tensor(0.3, dtype=torch.float64)
        elif raw is None and not law:
            sigma = (image - mean).square().mean().sqrt()
        else:
            raw = method.log_scale if raw is None else raw
            sigma = torch.exp(math.log(1 / 255) + nn.functional.softplus(raw - math.log(1 / 255)))
        each = torch.distributions.Normal(mean, sigma).log_prob(image)
    q = torch.distributions.Normal(posterior.mean, torch.exp(0.5 * posterior.log_var))
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    wanted = (-each.flatten(1).sum(1) + 1.5 * divergence.flatten(1).sum(1)).mean() / image[0].numel()
    torch.testing.assert_close(total, wanted.to(total), rtol=1e-6, atol=1e-9)


def test_the_optimal_width_is_the_most_likely_one_and_is_remembered():
    method = small().double()
    image = batch()["image"].double()
    output = torch.full_like(image, 0.1)
    best = method.log_likelihood(image, output).sum()
    root = (image - output).square().mean().sqrt()
    for factor in (0.9, 0.99, 1.01, 1.1):
        law = torch.distributions.Normal(output, root * factor)
        assert law.log_prob(image).sum() < best
    assert method.mean_square.item() == pytest.approx(root.item() ** 2)
    method.log_likelihood(image, output + 1)
    wanted = 0.95 * root.item() ** 2 + 0.05 * (image - output - 1).square().mean().item()
    assert method.mean_square.item() == pytest.approx(wanted)
    remembered = method.eval().log_likelihood(image, output)
    law = torch.distributions.Normal(output, method.mean_square.sqrt())
    torch.testing.assert_close(remembered, law.log_prob(image).flatten(1).sum(1))


def test_a_picture_that_comes_back_exactly_has_a_finite_loss():
    for law in ({}, {"scale": "learnt", "sigma": 1e-6}, {"scale": "pixel"}):
        method = small(**law).double()
        image = batch()["image"].double()
        output = torch.cat([image, torch.full_like(image, -1e3)], 1) if law.get("scale") == "pixel" else image
        assert method.log_likelihood(image, output).isfinite().all()
        assert (method.log_likelihood(image, output, bins=True) <= 0).all()


class Linear(nn.Module):
    """A decoder ``W z + b``, so that the likelihood of a picture is known."""

    def __init__(self, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.shape = nn.Parameter(weight), shape

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent @ self.weight.T).unflatten(1, self.shape)


def test_bounds_meet_the_exact_likelihood_of_a_linear_model():
    """With the true posterior both bounds are ``log p(x)``; with another the gap is its divergence from the true one."""
    torch.manual_seed(0)
    shape, sigma, dims = (3, 2, 2), 0.8, 4
    method = small(2, latent_dim=dims, scale="fixed", sigma=sigma, network__channels=(8,)).double().eval()
    weight = 0.7 * torch.randn(math.prod(shape), dims, dtype=torch.float64)
    decoder = Linear(weight, shape)
    image = batch(3, 2)["image"].double()
    x = image.flatten(1)
    covariance = weight @ weight.T + sigma**2 * torch.eye(len(weight))
    exact = torch.distributions.MultivariateNormal(torch.zeros(len(weight)).double(), covariance).log_prob(x)
    precision = torch.eye(dims).double() + weight.T @ weight / sigma**2
    true_mean = x @ weight / sigma**2 @ precision.inverse()
    method.output = decoder.forward  # type: ignore[method-assign]
    method.log_likelihood = lambda i, o, bins: VAE.log_likelihood(method, i, o)  # type: ignore[method-assign]
    # the posterior of independent numbers that is nearest to the true one has its mean and the precision's diagonal
    log_var = -precision.diagonal().log().expand_as(true_mean)
    method.posterior = lambda i: DiagonalGaussian(true_mean, log_var)  # type: ignore[method-assign]
    q = torch.distributions.MultivariateNormal(true_mean, torch.diag_embed(log_var.exp()))
    gap = torch.distributions.kl_divergence(
        q, torch.distributions.MultivariateNormal(true_mean, precision.inverse().expand(3, -1, -1))
    )
    found = bounds(method, image, 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact - found.elbo, gap, rtol=0.05, atol=0.01)
    torch.testing.assert_close(found.importance, exact, rtol=0, atol=0.02)


def test_one_sample_gives_both_bounds_the_same_likelihood_and_more_samples_a_higher_one():
    method = small(latent_dim=4).eval()
    image = batch(16)["image"]
    one = bounds(method, image, 1, torch.Generator().manual_seed(0))
    many = bounds(method, image, 50, torch.Generator().manual_seed(0))
    assert many.importance.mean() > one.importance.mean()
    assert many.importance.mean() > many.elbo.mean()
    torch.testing.assert_close(one.kl, method.rate(image) * math.log(2))


def test_bits_of_a_wide_normal_are_those_of_its_density_and_the_width_of_a_bin():
    method = small(scale="fixed", sigma=0.5).double().eval()
    image = batch()["image"].double().clamp(-0.99, 0.99)
    output = torch.zeros_like(image)
    bins = method.log_likelihood(image, output, bins=True)
    density = method.log_likelihood(image, output) + image[0].numel() * math.log(2 * pixels.HALF_BIN)
    torch.testing.assert_close(bins, density, rtol=1e-4, atol=0)


def test_the_weight_rises_in_the_warm_up_and_evaluation_has_the_whole():
    method = small(beta=4.0, warmup=0.5, latent_dim=4)
    seen = []
    for step in range(10):
        method.begin_step(step, 10)
        seen.append(method.beta)
    assert seen == pytest.approx([0.0, 0.8, 1.6, 2.4, 3.2, 4.0, 4.0, 4.0, 4.0, 4.0])
    method.begin_step(0, 10)
    assert method.loss(batch()).parts["beta"].item() == 0.0
    warm = method.eval().loss(batch()).total
    fixed = small(beta=4.0, latent_dim=4)
    fixed.load_state_dict(method.state_dict())
    assert torch.equal(warm, fixed.eval().loss(batch()).total)


@pytest.mark.parametrize("latent_dim", [None, 6])
def test_free_bits_hold_each_part_of_the_divergence_up(latent_dim):
    method = small(latent_dim=latent_dim, free_bits=2.0).double()
    kl = method.posterior(batch()["image"].double()).kl()
    each = kl.mean(0).flatten(1).sum(1) if kl.ndim > 2 else kl.mean(0)
    wanted = sum(max(v.item(), 2.0 * math.log(2)) for v in each)
    assert method._free(kl).item() == pytest.approx(wanted)
    assert method.contrasts_batch
    free = small(latent_dim=latent_dim, scale="fixed")._free(kl)
    assert free.item() == pytest.approx(each.sum().item())


@pytest.mark.parametrize("changes", [{}, {"latent_dim": 5}, {"scale": "pixel"}, {"likelihood": "bernoulli"}])
def test_it_is_a_tokenizer_that_generates(changes):
    method = small(**changes)
    assert set(capabilities_of(method)) == {"reconstruct", "generate"}
    images = [Image.fromarray(np.full((20, 12, 3), 40 * i, np.uint8)) for i in range(3)]
    latents = method.encode(images)
    assert latents.dtype == np.float32
    assert latents.shape == (3, *method.latent_shape())
    assert [image.size for image in method.decode(latents)] == [(8, 8)] * 3
    assert (method.bits(images) > 0).all()
    first, again, other = (method.generate(2, seed=s) for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert method.training


def test_bad_requests_and_configurations_are_refused_in_words():
    method = small()
    with pytest.raises(DataError, match="at least 1"):
        method.generate(0)
    with pytest.raises(DataError, match="no prompt"):
        method.generate(1, prompt="a cat")
    with pytest.raises(DataError, match="another model"):
        method.decode(np.zeros((1, 3, 5, 4), np.float32))
    with pytest.raises(DataError, match="not finite"):
        method.decode(np.full((1, 3, 4, 4), np.nan, np.float32))
    for changes, words in (
        ({"beta": -1.0}, "beta and free_bits"),
        ({"warmup": 2.0}, "beta and free_bits"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"likelihood": "logistic"}, "scale to learnt or pixel"),
        ({"network__in_channels": 4}, "equally many channels"),
        ({"scaling_factor": 0.0}, "above 0"),
        ({"latent_mean": (1.0,)}, "for each channel"),
    ):
        with pytest.raises(ConfigError, match=words):
            VAEConfig(network=NETWORK).replace(**changes)
    with pytest.raises(ConfigError, match=r"-1\.\.1"):
        VAE(VAEConfig(network=NETWORK), {"image": ImageProcessor(size=(8, 8))})
    with pytest.raises(ConfigError, match="multiples of 2 pixels, found 7 x 7"):
        VAE(VAEConfig(network=NETWORK), {"image": signed_pixels(7, "crop")})
    with pytest.raises(ConfigError, match="needs the processor"):
        VAE(VAEConfig(network=NETWORK, latent_dim=3), {})


def test_collapse_is_told_in_words_and_only_then():
    method = small(latent_dim=4)
    assert method.health() == []
    nn.init.zeros_(method.to_moments.weight)
    method.loss(batch())
    assert "posterior collapses: 0.0%" in method.health()[0]


def test_learning_a_few_pictures_brings_them_back_and_beats_the_files():
    method = small(latent_dim=8)
    corner = torch.full((4, 3, 8, 8), 1.0)
    for i in range(4):
        corner[i, :, : i + 2, : i + 2] = torch.tensor([-1.0, 1.0, -1.0]).view(3, 1, 1)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(150):
        optimizer.zero_grad()
        method.loss({"image": corner, "seed": torch.full((4,), step)}).total.backward()
        optimizer.step()
    method.eval()
    found = bounds(method, corner, 4, torch.Generator().manual_seed(0))
    bits = -found.elbo.mean().item() / corner[0].numel() / math.log(2)
    assert bits < files(method.picture.decode(corner))["png_bits_per_dim"]
    back = method.to_image(method.to_latent(corner)).clamp(-1, 1)
    assert (back - corner).square().mean() < 0.5 * (corner.mean(0) - corner).square().mean()


@pytest.mark.parametrize("changes", [{}, {"model__latent_dim": None}])
def test_the_recipe_judges_with_bits_and_panels(changes, pictures, monkeypatch):
    monkeypatch.setattr("intermodal.evaluate.vae.SAMPLES", 4)
    recipe = vae().replace(**changes).smoke().on(FolderSource(path=pictures))
    method = small(recipe.size, latent_dim=recipe.model.latent_dim)
    metrics, panels = extras(method, recipe.source, "train", lambda *_: None, full=False)
    assert panels == []
    assert metrics["bits_per_dim"] > metrics["kl_bits_per_dim"] > 0
    metrics, panels = extras(method, recipe.source, "train", lambda *_: None, full=True)
    assert metrics["iw_bits_per_dim"] < metrics["bits_per_dim"]
    assert {p.title for p in panels} == {"Samples of the prior", "Interpolations", "Traversals", "Where the bits are"}
    assert 0 < metrics["webp_bits_per_dim"] < 24


@pytest.mark.parametrize("changes", [{}, {"latent_dim": 4}])
def test_a_model_in_bfloat16_is_a_tokenizer_too(changes):
    exact, method = small(**changes).eval(), small(**changes).bfloat16()
    images = [Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(3)]
    latents = method.encode(images)
    assert latents.dtype == np.float32
    assert np.abs(latents - exact.encode(images)).max() < 0.05 * np.abs(latents).max()
    assert len(method.decode(latents)) == 3


def whole(samples: slice) -> dict[str, torch.Tensor]:
    """Return loss and gradients of some pictures, with the means as latents, which do not depend on the split."""
    torch.manual_seed(0)
    method = small(latent_dim=4, free_bits=0.05).double()
    images = {k: v[samples] for k, v in batch(8).items()}
    images["image"] = images["image"].double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussian, "sample", lambda self, _: self.mean)
        model = DistributedDataParallel(method) if dist.is_initialized() else method
        loss = model(images).total
        loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    return {"loss": loss.detach(), "seen": method.mean_square, **gradients}


def work(rank: int, world: int, folder: Path) -> None:
    del world
    torch.save(whole(slice(4 * rank, 4 * rank + 4)), folder / f"{rank}.pt")


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_two_processes_have_the_gradient_of_one(tmp_path):
    together(work, 2, tmp_path)
    wanted = whole(slice(0, 8))
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((found[0].pop("loss") + found[1].pop("loss")) / 2, wanted.pop("loss"))
    for result in found:
        for name, value in result.items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-9, msg=name)


def test_flops_count_a_forward_and_a_backward_pass():
    method = small()
    assert method.train_flops(4) == pytest.approx(4 * method.train_flops(1))
    assert method.train_flops(1) > 3 * 2 * 64 * 9 * 8 * 8

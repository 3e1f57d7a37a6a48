"""The variational principle: every identity of the linear-Gaussian model, its maximum, and what the method refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import MultivariateNormal, kl_divergence

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.processors import ImageProcessor, signed_pixels
from intermodal.evaluate.elbo import bounds, extras
from intermodal.losses.variational import gaussian_kl
from intermodal.methods.image_tokenizers.elbo import ELBO, ELBOConfig
from intermodal.nn.linear_gaussian import LinearGaussian, principal_angles
from intermodal.recipes import get_recipe

DOUBLE = torch.float64


def known(dim: int = 7, latent_dim: int = 3, *, sigma: float = 0.6, seed: int = 0) -> LinearGaussian:
    """Return a model with columns of W that are not orthogonal."""
    torch.manual_seed(seed)
    model = LinearGaussian(dim, latent_dim, scale=1.0).double()
    with torch.no_grad():
        model.mean.normal_()
        model.log_variance.fill_(2 * math.log(sigma))
    return model


def small(**changes) -> ELBO:
    torch.manual_seed(0)
    method = ELBO(ELBOConfig(latent_dim=3).replace(**changes), {"image": signed_pixels(4, "crop")}).double()
    with torch.no_grad():
        method.model.weight.copy_(torch.randn(48, 3, dtype=DOUBLE))
        method.model.log_variance.fill_(math.log(0.25))
    return method


def pictures(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * 2 - 1


def marginal(model: LinearGaussian) -> MultivariateNormal:
    identity = torch.eye(len(model.mean), dtype=DOUBLE)
    return MultivariateNormal(model.mean, model.weight @ model.weight.T + model.variance * identity)


def families(method: ELBO, image: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mean, factor = method.true_posterior(image)
    noise = torch.randn(mean.shape, generator=generator, dtype=DOUBLE)
    return {
        "inference": method.posterior(image),
        "posterior": (mean, factor),
        "diagonal": method.model.best_diagonal(image.flatten(1)),
        "off": (mean + 0.3 * noise, 1.7 * factor),
        "of each picture": (mean - noise, torch.rand(len(mean), 1, 1, dtype=DOUBLE) * factor + 0.1 * factor),
    }


# The model.


def test_likelihood_is_that_of_the_whole_covariance():
    model = known()
    with torch.no_grad():
        x, _ = model.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_likelihood(x), marginal(model).log_prob(x), rtol=1e-12, atol=1e-10)
    inputs = list(model.parameters())
    ours = torch.autograd.grad(model.log_likelihood(x).mean(), inputs)
    theirs = torch.autograd.grad(marginal(model).log_prob(x).mean(), inputs)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_posterior_is_what_conditioning_the_joint_gaussian_gives():
    model = known()
    x, _ = model.sample(20, torch.Generator().manual_seed(0))
    gain = model.weight.T @ torch.linalg.inv(marginal(model).covariance_matrix)
    mean, factor = model.posterior(x)
    torch.testing.assert_close(mean, (x - model.mean) @ gain.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(factor @ factor.T, torch.eye(3, dtype=DOUBLE) - gain @ model.weight, atol=1e-11, rtol=0)
    assert torch.equal(factor, factor.tril())


def test_prior_times_likelihood_is_marginal_times_posterior():
    """Bayes' theorem at any latent whatever."""
    model = known()
    x, latent = model.sample(20, torch.Generator().manual_seed(0))
    prior = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
    mean, factor = model.posterior(x)
    posterior = MultivariateNormal(mean, scale_tril=factor)
    left = model.log_likelihood_given(x, latent) + prior.log_prob(latent)
    torch.testing.assert_close(left, model.log_likelihood(x) + posterior.log_prob(latent), rtol=0, atol=1e-10)


def test_samples_have_the_mean_and_covariance_of_the_marginal():
    model = known(4, 2)
    with torch.no_grad():
        x, _ = model.sample(200_000, torch.Generator().manual_seed(0))
        torch.testing.assert_close(x.mean(0), model.mean, rtol=0, atol=0.03)
        torch.testing.assert_close(torch.cov(x.T), marginal(model).covariance_matrix, rtol=0.03, atol=0.03)


def test_maximum_of_the_likelihood_is_that_of_scikit_learn():
    """Its PCA divides the covariance by N - 1, so that its model is the most likely one of data spread by that factor."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    count = 200
    with torch.no_grad():
        x, _ = known(9, 4).sample(count, torch.Generator().manual_seed(2))
    ours = LinearGaussian.fit(x.mean(0) + (x - x.mean(0)) * math.sqrt(count / (count - 1)), 4)
    theirs = decomposition.PCA(4, svd_solver="full").fit(x.numpy())
    assert ours.variance.item() == pytest.approx(theirs.noise_variance_, rel=1e-11)
    covariance = (ours.weight @ ours.weight.T + ours.variance * torch.eye(9, dtype=DOUBLE)).detach().numpy()
    np.testing.assert_allclose(covariance, theirs.get_covariance(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.log_likelihood(x).detach().numpy(), theirs.score_samples(x.numpy()), rtol=1e-10)
    assert ours.log_likelihood(x).mean().item() == pytest.approx(theirs.score(x.numpy()), rel=1e-11)


def test_nothing_is_likelier_than_the_maximum():
    with torch.no_grad():
        x, _ = known(9, 4).sample(300, torch.Generator().manual_seed(2))
    best = LinearGaussian.fit(x, 4)
    gradients = torch.autograd.grad(best.log_likelihood(x).mean(), list(best.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-10
    top = best.log_likelihood(x).mean().item()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = LinearGaussian.fit(x, 4)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        assert other.log_likelihood(x).mean().item() < top


def test_expectation_maximisation_with_per_sample_posteriors_ends_at_the_maximum():
    """The bound is climbed in q by the formula and in the model by gradients: both ends are known."""
    with torch.no_grad():
        x, _ = known(48, 3, sigma=0.5).sample(400, torch.Generator().manual_seed(3))
    image = x.view(-1, 3, 4, 4)
    for covariance in ("full", "diagonal"):
        method = small(inference="per-sample", covariance=covariance)
        optimizer = torch.optim.LBFGS(method.parameters(), max_iter=400, line_search_fn="strong_wolfe", history_size=20)

        def closure(method=method, optimizer=optimizer):
            optimizer.zero_grad()
            total = method.loss({"image": image}).total
            total.backward()
            return total

        for _ in range(3):
            optimizer.step(closure)
        best = LinearGaussian.fit(x, 3, floor=method.model.floor)
        found, top = (m.log_likelihood(x).mean().item() for m in (method.model, best))
        assert found == pytest.approx(top, abs=2e-4), covariance
        assert float(principal_angles(method.model.weight, best.weight)[0].detach()) < 5e-3
        assert float(method.model.variance.detach()) == pytest.approx(best.variance.item(), rel=1e-3)


def test_a_diagonal_family_turns_the_columns_until_they_are_orthogonal():
    """Lucas et al. 2019: the likelihood leaves W's rotation free, the bound of independent numbers does not."""
    with torch.no_grad():
        x, _ = known(48, 3, sigma=0.5).sample(400, torch.Generator().manual_seed(3))
    method = small(inference="per-sample", covariance="diagonal")
    turned = LinearGaussian.fit(x, 3, floor=method.model.floor)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)).Q
    with torch.no_grad():
        method.model.load_state_dict(turned.state_dict())
        image = x.view(-1, 3, 4, 4)
        likelihood, bound = method.log_likelihood(image), method.elbo(image, *method.posterior(image))
        torch.testing.assert_close(bound, likelihood, rtol=0, atol=1e-9)
        method.model.weight.copy_(turned.weight @ rotation)
        torch.testing.assert_close(method.log_likelihood(image), likelihood, rtol=0, atol=1e-9)
        matrix = method.model.weight.T @ method.model.weight + method.model.variance * torch.eye(3, dtype=DOUBLE)
        wanted = 0.5 * (matrix.diagonal().log().sum() - torch.logdet(matrix))  # above zero by Hadamard's inequality
        gap = likelihood - method.elbo(image, *method.posterior(image))
        torch.testing.assert_close(gap, wanted.expand_as(gap), rtol=0, atol=1e-9)
        assert wanted.item() > 0.03


def test_angles_between_spaces_are_those_that_they_were_made_with():
    angle = torch.tensor([1.2, 1e-3, 1e-9], dtype=DOUBLE)
    first = torch.eye(6, dtype=DOUBLE)[:, :3]
    second = torch.cat([torch.diag(angle.cos()), torch.diag(angle.sin())])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)).Q
    found = principal_angles(turn @ first * 3, turn @ second @ torch.randn(3, 3, dtype=DOUBLE))
    torch.testing.assert_close(found, angle, rtol=1e-5, atol=1e-14)


# The bound.


def test_the_gap_is_the_divergence_from_the_true_posterior():
    method, image = small(), pictures()
    mean, factor = method.true_posterior(image)
    for name, q in families(method, image).items():
        gap = method.log_likelihood(image) - method.elbo(image, *q)
        torch.testing.assert_close(gap, gaussian_kl(*q, mean, factor), rtol=0, atol=1e-10, msg=name)
        true = MultivariateNormal(mean, scale_tril=factor)
        wanted = kl_divergence(MultivariateNormal(q[0], scale_tril=q[1]), true)
        torch.testing.assert_close(gap, wanted, rtol=0, atol=1e-10, msg=name)
        assert gap.min().item() > -1e-10


def test_with_the_true_posterior_every_sample_says_the_likelihood():
    """``log w`` has then no variance: one sample is as good as a thousand."""
    method, image = small(), pictures()
    noise = torch.randn(5, len(image), 3, dtype=DOUBLE)
    weights = method.log_weights(image, *method.true_posterior(image), noise)
    torch.testing.assert_close(weights, method.log_likelihood(image).expand(5, -1), rtol=0, atol=1e-10)


def test_the_sampled_bound_has_the_mean_that_the_formula_says():
    method, image = small(), pictures(2)
    generator = torch.Generator().manual_seed(0)
    for q in families(method, image).values():
        noise = torch.randn(40_000, len(image), 3, generator=generator, dtype=DOUBLE)
        weights = method.log_weights(image, *q, noise)
        error = weights.std(0) / math.sqrt(len(noise))
        assert torch.all((weights.mean(0) - method.elbo(image, *q)).abs() < 4 * error + 1e-9)


def test_importance_weighted_bounds_rise_to_the_likelihood():
    method, image = small(), pictures(32)
    with torch.no_grad():
        curves = bounds(method, image, torch.Generator().manual_seed(0))
        likelihood = method.log_likelihood(image).mean().item()
    for name, curve in curves.items():
        assert len(curve) == 11
        assert np.all(np.diff(curve) >= -1e-9), name
        assert curve[-1] <= likelihood + 0.02, name
    gap = [likelihood - curves["too wide"][i] for i in (0, -1)]
    assert gap[0] == pytest.approx(3 * (2 - 1 - math.log(2)) / 2, abs=0.1), "KL of a covariance twice as wide"
    assert gap[1] < 0.05 * gap[0]


def test_the_best_diagonal_is_where_gradients_end():
    image = pictures()
    for covariance in ("full", "diagonal"):
        method = small(covariance=covariance, inference="per-sample")
        mean, factor, history = method.ascend(image, 800)
        wanted_mean, wanted = method.posterior(image)
        torch.testing.assert_close(mean, wanted_mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(factor, wanted.expand_as(factor), rtol=0, atol=1e-3)
        assert history[-1] > history[0]
        assert all(p.grad is None for p in method.parameters())


def test_the_gradient_of_the_sampled_bound_is_that_of_the_formula_in_the_mean():
    exact, sampled = small(), small(samples=1)
    image = pictures(4)
    names = [n for n, _ in exact.named_parameters()]
    wanted = torch.autograd.grad(exact.loss({"image": image}).total, list(exact.parameters()))
    sums = [torch.zeros_like(g) for g in wanted]
    squares = [torch.zeros_like(g) for g in wanted]
    count = 400
    for i in range(count):
        batch = {"image": image, "seed": torch.arange(4) + 4 * i}
        for total, square, g in zip(
            sums, squares, torch.autograd.grad(sampled.loss(batch).total, list(sampled.parameters())), strict=True
        ):
            total += g / count
            square += g.square() / count
    for name, want, mean, square in zip(names, wanted, sums, squares, strict=True):
        error = ((square - mean.square()).clamp(min=0) / count).sqrt()
        assert torch.all((mean - want).abs() < 6 * error + 1e-6), name


def test_more_samples_climb_a_higher_bound():
    image, seeds = pictures(), torch.arange(6)
    found = [-small(samples=k).loss({"image": image, "seed": seeds}).total.item() for k in (1, 16, 256)]
    top = small().log_likelihood(image).mean().item() / 48
    assert found[0] < found[1] < found[2] < top
    same = small(samples=16)
    losses = [same.loss({"image": image, "seed": seeds + s}).total.item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


# The image tokenizer.


def test_pictures_come_back_and_their_bits_are_the_divergence():
    method = small().float()
    images = method.picture.decode(pictures(5).float())
    latents = method.encode(images)
    assert latents.shape == (5, 3) and latents.dtype == np.float32
    assert [image.size for image in method.decode(latents)] == [(4, 4)] * 5
    mean, factor = method.posterior(method.picture(images))
    prior = MultivariateNormal(torch.zeros(3), torch.eye(3))
    wanted = kl_divergence(MultivariateNormal(mean, scale_tril=factor), prior) / math.log(2)
    np.testing.assert_allclose(method.bits(images), wanted.detach().numpy(), rtol=1e-4)
    assert method.encode([]).shape == (0, 3)


def test_samples_of_the_prior_depend_on_the_seed_alone():
    method = small().float()
    first, again, other = (method.generate(3, seed=s) for s in (0, 0, 1))
    assert [i.tobytes() for i in first] == [i.tobytes() for i in again] != [i.tobytes() for i in other]
    for wrong in ({"count": 0}, {"count": 1, "steps": 0}, {"count": 1, "prompt": "a cat"}):
        with pytest.raises(DataError):
            method.generate(**wrong)


@pytest.mark.parametrize("changes", [{"latent_dim": 0}, {"samples": -1}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match="at least"):
        ELBOConfig(**changes)


def test_a_latent_as_large_as_the_picture_and_other_pixels_are_refused():
    with pytest.raises(ConfigError, match="from 1 to 47"):
        ELBO(ELBOConfig(latent_dim=48), {"image": signed_pixels(4, "crop")})
    with pytest.raises(ConfigError, match=r"-1\.\.1"):
        ELBO(ELBOConfig(latent_dim=3), {"image": ImageProcessor(size=(4, 4))})


def test_data_of_fewer_dimensions_than_the_latent_need_a_floor():
    x = torch.zeros(50, 6, dtype=DOUBLE)
    x[:, 0] = torch.linspace(-1, 1, 50, dtype=DOUBLE)
    with pytest.raises(DataError, match="no maximum"):
        LinearGaussian.fit(x, 2)
    held = LinearGaussian.fit(x, 2, floor=0.01)
    assert held.variance.item() == pytest.approx(1e-4, rel=1e-6)
    assert torch.isfinite(held.log_likelihood(x)).all()
    x[3, 3] = math.nan
    with pytest.raises(DataError, match="not finite"):
        LinearGaussian.fit(x, 2, floor=0.01)


def test_health_speaks_of_noise_at_its_floor():
    method = small()
    assert method.health() == []
    with torch.no_grad():
        method.model.log_variance.fill_(-40.0)
    assert "floor" in method.health()[0]


@pytest.mark.parametrize("changes", [{}, {"inference": "per-sample"}, {"covariance": "diagonal"}, {"samples": 4}])
def test_every_choice_descends_and_saves(changes, tmp_path):
    method = small(**changes).float().train()
    batch = {"image": pictures(16).float(), "seed": torch.arange(16)}
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        losses.append(method.loss(batch).total)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    method.save(tmp_path / "model")
    again = ELBO.load(tmp_path / "model")
    assert torch.equal(again.loss(batch).total, method.eval().loss(batch).total)
    assert set(method.needs) == ({"image", "seed"} if "samples" in changes else {"image"})


def test_judging_says_what_the_identities_say_and_leaves_the_model_and_chance_alone(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(generator.integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / f"{i}.png")
    recipe = get_recipe("elbo").on(FolderSource(path=tmp_path)).smoke()
    assert recipe.size == 8
    method = recipe.build()
    before, state = torch.random.get_rng_state(), {k: v.clone() for k, v in method.state_dict().items()}
    metrics, panels = extras(method, recipe.source, "validation", lambda *_: None, full=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())
    assert metrics["identity_error"] < 1e-8
    assert metrics["gap"] == pytest.approx(metrics["family_gap"] + metrics["amortisation_gap"])
    assert metrics["elbo"] < metrics["log_likelihood"]
    assert metrics["ml_train_log_likelihood"] >= metrics["train_log_likelihood"]
    assert len(panels) == 6
    quick, none = extras(method, recipe.source, "validation", lambda *_: None, full=False)
    assert none == [] and set(quick) < set(metrics)

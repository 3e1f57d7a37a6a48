"""The distance between densities by quadrature, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.densities import DensitySource, GaussianMixture, density
from intermodal.evaluate.density import Grid, density_map, evaluate_density, fitted_gaussian, histogram


def test_divergence_of_two_gaussians_is_that_of_the_formula():
    """KL(N(m0, S0) || N(m1, S1)) = (tr(S1^-1 S0) + d' S1^-1 d - D + log det S1 / det S0) / 2."""
    grid = Grid(density("gaussian"))
    mean, covariance = np.array([0.2, 0.1]), np.array([[1.5, 0.1], [0.1, 1.1]])
    other = torch.distributions.MultivariateNormal(torch.from_numpy(mean).float(), torch.from_numpy(covariance).float())
    figures = grid.figures(grid.values(lambda x: other.log_prob(x) + 7.0))  # a constant changes nothing
    truth = grid.truth
    own = np.linalg.inv(truth.precision)
    gap = mean - truth.mean[0]
    inverse = np.linalg.inv(covariance)
    expected = (
        np.trace(inverse @ own) + gap @ inverse @ gap - 2 + math.log(np.linalg.det(covariance) / np.linalg.det(own))
    ) / 2
    assert figures["kl"] == pytest.approx(expected, abs=1e-4)
    entropy = 1 + math.log(2 * math.pi) + math.log(np.linalg.det(own)) / 2
    assert figures["log_likelihood"] == pytest.approx(-entropy - expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["mixture", "rings", "mixture-1d"])
def test_the_truth_itself_is_at_distance_zero(kind):
    truth = density(kind)
    grid = Grid(truth)
    figures = grid.figures(grid.log_truth.clip(-700))
    assert figures["kl"] == pytest.approx(0, abs=2e-3)


def test_the_normaliser_is_the_integral():
    grid = Grid(density("gaussian-1d"))
    values = grid.values(lambda x: -(x[:, 0] ** 2) / 2)
    assert grid.log_normaliser(values) == pytest.approx(math.log(2 * math.pi) / 2, abs=1e-4)


def test_an_evaluation_stands_beside_one_gaussian():
    source = DensitySource(kind="mixture", samples=2000)
    truth = density("mixture")

    def exact(points):
        return torch.from_numpy(truth.log_prob(points.numpy())).float().clamp(min=-700)

    samples = truth.sample(500, np.random.default_rng(3))
    result = evaluate_density(source, "test", lambda x: exact(x) + 0.25, samples, learnt_log_normaliser=1.0)
    assert next(iter(result.metrics)) == "log_likelihood"
    assert result.metrics["kl"] < 2e-3 and result.metrics["chance_kl"] > 0.5
    assert result.metrics["normaliser_error"] == pytest.approx(0.25, abs=2e-3)
    assert result.metrics["log_likelihood"] > result.metrics["chance_log_likelihood"]
    assert [type(p).__name__ for p in result.panels] == ["Gallery", "Table"]
    line = evaluate_density(
        DensitySource(kind="mixture-1d", samples=100), "test", lambda x: -(x[:, 0] ** 2), np.zeros((1, 1))
    )
    assert [type(p).__name__ for p in line.panels] == ["Table", "Lines"]


def test_broken_values_are_refused():
    with pytest.raises(DataError, match="not finite"):
        Grid(density("gaussian-1d")).values(lambda x: x[:, 0] * float("nan"))


def test_the_fitted_gaussian_has_the_points_moments():
    points = np.random.default_rng(0).normal(size=(5000, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    fitted = fitted_gaussian(points)
    assert isinstance(fitted, GaussianMixture)
    np.testing.assert_allclose(fitted.mean[0], points.mean(0))
    np.testing.assert_allclose(np.linalg.inv(fitted.precision), np.cov(points.T), rtol=1e-9)


def test_a_map_has_the_first_axis_to_the_right_and_the_second_up():
    counts = histogram(np.array([[0.9, 0.9]] * 3 + [[-0.9, -0.9]]), far=1.0, cells=11)
    assert counts.sum() * (2 / 11) ** 2 == pytest.approx(1)
    picture = np.asarray(density_map(counts, 11, float(counts.max())).convert("L")).astype(int)
    assert picture[5, -5] > picture[-5, 5] > picture[5, 5] == picture[-5, -5]

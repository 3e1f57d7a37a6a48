"""Known densities: normalised, and sampled as they say."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.densities import DensitySource, Kind, PointProcessor, density
from intermodal.data.processors import Processor

KINDS = get_args(Kind)


def midpoints(kind, cells):
    truth = density(kind)
    far = truth.extent * 1.25
    axis = (np.arange(cells) + 0.5) / cells * 2 * far - far
    points = np.stack([a.ravel() for a in np.meshgrid(*[axis] * truth.dim, indexing="ij")], 1)
    return truth, points, (2 * far / cells) ** truth.dim


@pytest.mark.parametrize("kind", KINDS)
def test_it_integrates_to_one(kind):
    truth, points, cell = midpoints(kind, 20_000 if density(kind).dim == 1 else 400)
    total = np.exp(truth.log_prob(points)).sum() * cell
    assert total == pytest.approx(1, abs=1e-6 if kind != "checkerboard" else 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_density(kind):
    truth, points, cell = midpoints(kind, 20_000 if density(kind).dim == 1 else 400)
    weight = np.exp(truth.log_prob(points)) * cell
    drawn = truth.sample(40_000, np.random.default_rng(0))
    assert drawn.shape == (40_000, truth.dim)
    for power in (1, 2, 4):
        expected = (weight[:, None] * points**power).sum(0)
        spread = (drawn**power).std(0) / np.sqrt(len(drawn))
        slack = 5 * spread + (0.02 * np.abs(expected) + 0.02 if kind == "checkerboard" else 1e-6)
        assert (np.abs((drawn**power).mean(0) - expected) < slack).all(), power
    entropy = -(weight * np.where(weight > 0, truth.log_prob(points), 0)).sum()
    found = -truth.log_prob(drawn)
    assert found.mean() == pytest.approx(entropy, abs=5 * found.std() / 200 + 0.02 * (kind == "checkerboard"))
    assert np.abs(drawn).max() <= truth.extent * 1.25


def test_the_gaussian_knows_its_normaliser():
    truth = density("gaussian")
    assert truth.log_normaliser == pytest.approx(
        np.log(2 * np.pi) + np.linalg.slogdet(np.linalg.inv(truth.precision))[1] / 2
    )
    distribution = torch.distributions.MultivariateNormal(
        torch.from_numpy(truth.mean[0]), precision_matrix=torch.from_numpy(truth.precision)
    )
    points = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(truth.log_prob(points), distribution.log_prob(torch.from_numpy(points)).numpy())


def test_splits_differ_and_repeat():
    source = DensitySource(kind="moons", samples=50)
    train, again, test = source.open("train"), source.open("train"), source.open("test")
    np.testing.assert_array_equal(train.points, again.points)
    assert not np.array_equal(train.points, test.points)
    assert len(train) == 50 and train.fields["point"].shape == (2,)
    np.testing.assert_array_equal(train.sample(3)["point"], train.points[3])


def test_bad_input_is_a_sentence():
    with pytest.raises(DataError, match="samples=0"):
        DensitySource(samples=0).open("train")
    with pytest.raises(DataError, match="no split"):
        DensitySource().open("dev")
    with pytest.raises(ConfigError, match="no density 'squares'"):
        density("squares")
    for value in ([1.0], [1.0, np.nan], [[1.0, 2.0]]):
        with pytest.raises(DataError, match="2 finite numbers"):
            PointProcessor(dim=2).encode(value)


def test_the_processor_is_saved_with_a_checkpoint(tmp_path):
    processor = PointProcessor(dim=2)
    assert Processor.from_folder(processor.to_folder(tmp_path), tmp_path) == processor
    torch.testing.assert_close(processor([(1, 2), (3, 4)]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))

"""Distances of sets of features beside scipy, torchmetrics, closed forms and loops."""

import math

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.metrics import frechet as module
from intermodal.metrics.frechet import coverage, few_samples, frechet_distance, kernel_distance


def features(n, d, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix * scale + shift


@pytest.mark.parametrize(("n", "m", "d"), [(50, 70, 1), (40, 60, 7), (333, 257, 31)])
def test_frechet_is_scipys_root(n, m, d):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(n, d, 0), features(m, d, 1, scale=1.7, shift=0.3)
    s1, s2 = (np.atleast_2d(np.cov(z.numpy(), rowvar=False)) for z in (x, y))
    root = np.real(linalg.sqrtm(s1 @ s2))
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)


def test_frechet_is_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = features(200, 12, 0), features(150, 12, 1, scale=0.6, shift=-0.2)
    wanted = fid._compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)


def test_frechet_of_normals_on_one_axis():
    # In one dimension it is (m1 - m2)^2 + (s1 - s2)^2.
    x, y = features(30, 1, 0), features(44, 1, 1, scale=3.0, shift=2.0)
    wanted = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert frechet_distance(x, y) == pytest.approx(wanted.item(), rel=1e-12)


def test_frechet_where_covariances_are_singular():
    # Fewer pictures than features, or constant features: the root of the product's eigenvalues would lose half the digits.
    x = features(5, 40, 0)
    assert frechet_distance(x, x) < 1e-12 * x.var(0).sum().item()
    assert frechet_distance(x, x + 2.0) == pytest.approx(40 * 4.0, rel=1e-12)
    y = features(9, 40, 1)
    centred = [(z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y)]
    shared = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = x.var(0).sum() + y.var(0).sum() - 2 * shared
    wanted = (x.mean(0) - y.mean(0)).square().sum() + spread
    assert frechet_distance(x, y) == pytest.approx(wanted.item(), rel=1e-12)
    constant = torch.ones(6, 3)
    assert frechet_distance(constant, constant * 3) == pytest.approx(12)


def test_frechet_is_symmetric_and_turns_with_the_space():
    x, y = features(60, 8, 0), features(80, 8, 1, shift=0.5)
    turn = torch.linalg.qr(features(8, 8, 3)).Q
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-11)


def test_the_bias_is_there_and_is_said():
    x, y = features(4000, 16, 5)[:, :], features(4000, 16, 5)
    y = torch.cat([x[1::2], x[::2]])  # two halves of one sample
    few, many = frechet_distance(x[:40], y[:40]), frechet_distance(x[:2000], y[:2000])
    assert few > 10 * many > 0
    assert few_samples(2000, 2000, 16) is None
    sentence = few_samples(2000, 40, 16)
    assert sentence is not None and "40 pictures for 16 features" in sentence and "biased" in sentence
    assert "singular" not in sentence
    assert "singular" in (few_samples(12, 900, 16) or "")


@pytest.mark.parametrize("tile", [1, 1 << 22])
@pytest.mark.parametrize("d", [1, 9])
def test_kernel_distance_is_torchmetrics(monkeypatch, d, tile):
    kid = pytest.importorskip("torchmetrics.image.kid")
    monkeypatch.setattr(module, "TILE", tile)
    x, y = features(30, d, 0), features(30, d, 1, shift=0.4)
    assert kernel_distance(x, y) == pytest.approx(kid.poly_mmd(x, y).item(), rel=1e-10)


def test_kernel_distance_at_unequal_numbers_is_the_definition():
    x, y = features(7, 3, 0).tolist(), features(5, 3, 1, shift=1.0).tolist()

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    within = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (7 * 6)
    within += sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (5 * 4)
    wanted = within - 2 * sum(kernel(a, b) for a in x for b in y) / (7 * 5)
    assert kernel_distance(torch.tensor(x), torch.tensor(y)) == pytest.approx(wanted, rel=1e-5)
    exact = kernel_distance(*(torch.tensor(z, dtype=torch.float64) for z in (x, y)))
    assert exact == pytest.approx(wanted, rel=1e-12)


def test_kernel_distance_has_no_bias():
    whole = features(6000, 4, 9)
    found = [kernel_distance(whole[i : i + 20], whole[i + 20 : i + 40]) for i in range(0, 6000, 40)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("tile", [1, 1 << 22])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage_is_the_definition(monkeypatch, k, tile):
    monkeypatch.setattr(module, "TILE", tile)
    real, made = features(23, 3, 0), features(17, 3, 1, scale=1.4, shift=0.5)

    def radii(z):
        return [sorted(math.dist(a, b) for b in z.tolist())[k] for a in z.tolist()]  # the picture itself is at 0

    real_radii, made_radii = radii(real), radii(made)
    inside = [[math.dist(r, m) <= t for r, t in zip(real.tolist(), real_radii, strict=True)] for m in made.tolist()]
    back = [[math.dist(r, m) <= t for m, t in zip(made.tolist(), made_radii, strict=True)] for r in real.tolist()]
    found = coverage(real, made, k)
    assert found.precision == pytest.approx(np.mean([any(row) for row in inside]))
    assert found.recall == pytest.approx(np.mean([any(row) for row in back]))
    assert found.density == pytest.approx(np.sum(inside) / (k * 17))
    assert found.coverage == pytest.approx(np.any(inside, axis=0).mean())


def test_what_is_wrong_and_what_is_lacking():
    real = torch.cat([features(200, 4, 0), features(200, 4, 1) + 50])
    half = coverage(real, features(200, 4, 2, scale=0.9))  # one of the two kinds only
    assert half.recall < 0.6 and half.coverage < 0.6
    wrong = coverage(real, features(200, 4, 2) + 500)
    assert wrong.precision == wrong.density == wrong.coverage == 0
    same = coverage(real, real)
    assert same.precision == same.recall == same.coverage == 1 and same.density > 1


def test_bad_input_is_said_in_words():
    x = features(10, 4, 0)
    broken = x.clone()
    broken[3, 1] = math.inf
    for distance in (frechet_distance, kernel_distance, coverage):
        with pytest.raises(DataError, match="at least two pictures"):
            distance(x, x[:1])
        with pytest.raises(ValueError, match=r"\(N, D\)"):
            distance(x, x[:, :3])
        with pytest.raises(ValueError, match="row 3"):
            distance(x, broken)
    with pytest.raises(DataError, match="more than 10 pictures"):
        coverage(x, x, k=10)
    with pytest.raises(ValueError, match="at least 1"):
        coverage(x, x, k=0)

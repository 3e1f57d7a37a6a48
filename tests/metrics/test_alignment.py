"""Geometry of embeddings against the definitions, written as loops, and cases with known answers."""

import math

import pytest
import torch
import torch.nn.functional as F

from intermodal.metrics import alignment as module
from intermodal.metrics.alignment import alignment, effective_rank, modality_gap, uniformity


def unit(n, d, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment(alpha):
    x, y = unit(9, 4), unit(9, 4, 1)
    expected = sum(math.dist(a, b) ** alpha for a, b in zip(x.tolist(), y.tolist(), strict=True)) / 9
    assert alignment(x, y, alpha) == pytest.approx(expected, abs=1e-12)
    assert alignment(x, x) == 0
    assert alignment(x, -x) == pytest.approx(4)


@pytest.mark.parametrize("tile", [4, 2048])
@pytest.mark.parametrize("t", [2.0, 300.0])
def test_uniformity(monkeypatch, tile, t):
    monkeypatch.setattr(module, "TILE", tile)
    x = unit(13, 3)
    points = x.tolist()
    terms = [math.exp(-t * math.dist(points[i], points[j]) ** 2) for i in range(13) for j in range(i)]
    assert uniformity(x, t) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-10)
    # As in the paper's own code.
    assert uniformity(x, t) == pytest.approx(torch.pdist(x).square().mul(-t).exp().mean().log().item(), rel=1e-10)


def test_uniformity_of_collapse_and_of_opposites():
    one = unit(1, 5)
    assert uniformity(one.repeat(10, 1)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.cat((one, -one))) == pytest.approx(-8)


def test_effective_rank():
    assert effective_rank(torch.eye(6)) == pytest.approx(6)
    assert effective_rank(torch.ones(8, 3)) == pytest.approx(1)
    assert effective_rank(torch.zeros(4, 3)) == 0
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = math.exp(-sum(q * math.log(q) for q in p.tolist()))
    rotated = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64)).Q * p
    assert effective_rank(rotated) == pytest.approx(expected, abs=1e-12)


def test_modality_gap():
    x, y = unit(20, 4), unit(30, 4, 1)
    expected = math.dist(x.mean(0).tolist(), y.mean(0).tolist())
    assert modality_gap(x, y) == pytest.approx(expected, abs=1e-12)
    assert modality_gap(x[:1], -x[:1]) == pytest.approx(2)


def test_half_precision_is_measured_in_double():
    x, y = unit(9, 4).bfloat16(), unit(9, 4, 1).bfloat16()
    assert alignment(x, y) == alignment(x.double(), y.double())
    assert uniformity(x) == uniformity(x.double())
    assert effective_rank(x) == effective_rank(x.double())
    assert modality_gap(x, y) == modality_gap(x.double(), y.double())


def test_wrong_input_is_named():
    x = unit(4, 3)
    with pytest.raises(ValueError, match=r"found \[4, 3\] and \[3, 3\]"):
        alignment(x, x[1:])
    with pytest.raises(ValueError, match=r"N at least 2, found \[1, 3\]"):
        uniformity(x[:1])
    with pytest.raises(ValueError, match="3 and 2"):
        modality_gap(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"N at least 1, found \[0, 3\]"):
        alignment(x[:0], x[:0])
    with pytest.raises(ValueError, match="not finite"):
        effective_rank(x * math.inf)

"""InfoNCE in one direction against the equation written out, one query at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from intermodal.losses.candidates import softmax_over_candidates
from intermodal.losses.contrastive import info_nce


def draw(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64), dim=-1)


def brute_force(query, candidate, scale):
    """Gao et al. 2021, equations 4 and 5, with candidates behind the first B as hard negatives."""
    total = 0.0
    for i in range(len(query)):
        scores = [scale * float(query[i] @ c) for c in candidate]
        total -= scores[i] - math.log(sum(math.exp(s) for s in scores))
    return total / len(query)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("negatives", [0, 5])
@pytest.mark.parametrize("batch", [1, 7])
def test_it_is_the_equation(batch, negatives, rows):
    """With and without hard negatives, for a batch of one, however many rows are held."""
    query, candidate = draw(batch, 1), draw(batch + negatives, 2)
    found = softmax_over_candidates(query, candidate, 20.0, rows=rows)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(brute_force(query, candidate, 20.0), abs=1e-12)


def test_gradients_are_the_numerical_ones():
    """Of queries, candidates and the scale, also where logits are made again."""
    inputs = (draw(5, 1).requires_grad_(), draw(8, 2).requires_grad_(), torch.tensor(3.0, dtype=torch.float64))
    inputs[2].requires_grad_()
    for rows in (2, 100):
        assert torch.autograd.gradcheck(lambda q, c, s, rows=rows: softmax_over_candidates(q, c, s, rows=rows), inputs)


def test_both_directions_are_clips_loss():
    """The mean of both directions is the symmetric InfoNCE of the library."""
    x, y = draw(9, 1), draw(9, 2)
    both = (softmax_over_candidates(x, y, 14.0) + softmax_over_candidates(y, x, 14.0)) / 2
    assert float(both) == pytest.approx(float(info_nce(x, y, torch.tensor(14.0))), abs=1e-12)


def test_half_precision_is_summed_in_float32():
    """bfloat16 in, float32 out, also under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        found = softmax_over_candidates(draw(4, 1).bfloat16(), draw(4, 2).bfloat16(), 20.0)
    assert found.dtype == torch.float32


def test_what_does_not_fit_is_an_error():
    """Fewer candidates than queries, other widths, no query."""
    with pytest.raises(ValueError, match="at least as many"):
        softmax_over_candidates(draw(3, 1), draw(2, 2), 1.0)
    with pytest.raises(ValueError, match="at least as many"):
        softmax_over_candidates(draw(1, 1)[:0], draw(2, 2), 1.0)
    with pytest.raises(ValueError, match="needed"):
        softmax_over_candidates(draw(3, 1), draw(3, 2)[:, :4], 1.0)

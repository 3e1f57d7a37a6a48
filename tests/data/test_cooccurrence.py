"""Vectors from co-occurrence against the definition written out, and tokens that never occur."""

import math

import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.data.cooccurrence import cooccurrence_vectors


def brute_force(tokens, size, window, smoothing=0.75):
    """Levy et al. 2015, equations of sections 2.1 and 3.2: positive PMI with a smoothed context distribution."""
    counts = [[0] * size for _ in range(size)]
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            if i != j and abs(i - j) <= window:
                counts[a][b] += 1
    totals = [sum(row) for row in counts]
    context = sum(t**smoothing for t in totals)
    out = torch.zeros(size, size, dtype=torch.float64)
    for a in range(size):
        for b in range(size):
            if counts[a][b]:
                share = counts[a][b] / totals[a]
                out[a, b] = max(0.0, math.log(share / (totals[b] ** smoothing / context)))
    return out


def test_at_full_rank_the_factors_give_back_the_matrix():
    """U sqrt(S) of all dimensions: its Gram matrix is the root of M M^T."""
    tokens = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0))
    vectors = cooccurrence_vectors(tokens, 7, 7, window=2).double()
    matrix = brute_force(tokens.tolist(), 7, 2)
    left, values, _ = torch.linalg.svd(matrix)
    wanted = (left * values) @ left.T
    assert torch.allclose(vectors @ vectors.T, wanted, atol=1e-4)


def test_fewer_dimensions_are_the_largest():
    tokens = torch.randint(40, (3000,), generator=torch.Generator().manual_seed(1))
    tokens[::2] = tokens[::2] % 5
    matrix = brute_force(tokens.tolist(), 40, 3)
    wanted = torch.linalg.svdvals(matrix)[:6]
    found = cooccurrence_vectors(tokens, 40, 6, window=3).double().square().sum(0)
    assert torch.allclose(found, wanted, rtol=1e-3)


def test_tokens_that_never_occur_and_ignored_ones_have_no_vector():
    tokens = torch.tensor([1, 2, 3, 1, 2, 4] * 5)
    vectors = cooccurrence_vectors(tokens, 6, 3, ignored=(4,))
    assert not vectors[[0, 4, 5]].any()
    assert vectors[1].any()
    assert torch.equal(vectors, cooccurrence_vectors(tokens, 6, 3, ignored=(4,)))
    assert not cooccurrence_vectors(torch.tensor([1]), 6, 3).any()
    assert cooccurrence_vectors(tokens, 6, 9).shape == (6, 9)


def test_a_vocabulary_that_is_too_large_is_refused():
    with pytest.raises(ConfigError, match="16,384"):
        cooccurrence_vectors(torch.tensor([1, 2]), 20_000, 3)

"""Choosing tokens: against transformers' logits processors, and against the distribution itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.errors import ConfigError
from intermodal.decode.sampling import Sampling, choose, draw, keep_top_p, warp


def logits(rows=4, size=37, seed=0, dtype=torch.float64):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(3).to(dtype)


def theirs(scores, temperature, top_k, top_p):
    processors = pytest.importorskip("transformers").generation.logits_process
    ids = torch.zeros(len(scores), 1, dtype=torch.long)
    steps = [processors.TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    steps += [] if top_k is None else [processors.TopKLogitsWarper(top_k)]
    steps += [] if top_p is None else [processors.TopPLogitsWarper(top_p)]
    for step in steps:
        scores = step(ids, scores)
    return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 5, 100])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.95, 1.0])
def test_what_is_drawn_from_is_what_transformers_draws_from(dtype, temperature, top_k, top_p):
    if top_p == 1.0:
        pytest.importorskip("transformers")
    given_BV = logits(dtype=dtype)
    wanted = theirs(given_BV, float(temperature), top_k, top_p)
    found = warp(given_BV, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert found.dtype == dtype
    assert torch.equal(found, wanted)


@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.floats(-20, 20), min_size=1, max_size=12), p=st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_that_reach_p(values, p):
    """By the definition: no kept set without its least member has the probability p."""
    given_BV = torch.tensor([values], dtype=torch.float64)
    share = given_BV.softmax(-1)[0]
    kept = keep_top_p(given_BV, p)[0].isfinite()
    assert bool(kept.any()) and float(share[kept].min()) >= float(share[~kept].max() if (~kept).any() else 0)
    assert float(share[kept].sum()) >= p - 1e-9
    assert float(share[kept].sum() - share[kept].min()) < p + 1e-9


def test_drawn_frequencies_are_the_probabilities():
    """The numbers 0, 1/n ... hit each token as often as its probability says, to one in n."""
    given_BV = logits(1, 9)
    given_BV[0, 3] = -torch.inf
    count = 20_000
    uniform = torch.arange(count) / count
    found = draw(given_BV.expand(count, -1), uniform).bincount(minlength=9)
    assert torch.allclose(found / count, given_BV.softmax(-1)[0].float(), rtol=0, atol=1.5 / count)
    assert int(found[3]) == 0


def test_the_largest_number_chooses_a_token_with_a_chance():
    given_BV = torch.full((2, 5), -torch.inf)
    given_BV[:, 1] = 0
    given_BV[1, 2] = 0.1
    least, most = torch.zeros(2), torch.full((2,), 1 - 2**-24)
    assert draw(given_BV, least).tolist() == [1, 1]
    assert draw(given_BV, most).tolist() == [1, 2]
    half = draw(given_BV.bfloat16(), torch.ones(2))
    assert half.tolist() == [1, 2]


def test_greedy_is_the_limit_of_a_low_temperature():
    given_BV, uniform = logits(), torch.rand(4, generator=torch.Generator().manual_seed(1))
    greedy = choose(given_BV, Sampling(temperature=0), uniform)
    assert torch.equal(greedy, given_BV.argmax(-1))
    assert torch.equal(greedy, choose(given_BV, Sampling(temperature=1e-4), uniform))
    assert torch.equal(greedy, choose(given_BV, Sampling(top_k=1), uniform))


@pytest.mark.parametrize(
    "changes", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.2}]
)
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match="Sampling"):
        Sampling(**changes)

from __future__ import annotations

import torch

from intermodal.core.fields import SEED, Field, check_fields
from intermodal.methods.base import generator_of


def draws(*seeds: int) -> list[float]:
    return torch.rand(4, generator=generator_of({"seed": torch.tensor(seeds)})).tolist()


def test_the_seeds_of_a_batch_decide_and_their_order_counts():
    assert draws(1, 2, 3) == draws(1, 2, 3)
    assert len({tuple(draws(*s)) for s in [(1, 2, 3), (3, 2, 1), (1, 2), (1, 2, 4), (0,), (0, 0)]}) == 6
    assert 0 <= min(draws(2**62 - 1, 2**61)) < 1


def test_a_seed_is_not_asked_of_the_source():
    check_fields({"text": Field((), "str"), "seed": SEED}, {"text": Field((), "str")}, "m", "s")

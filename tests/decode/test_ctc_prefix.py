"""CTC's prefix probabilities, and a beam search that weighs them, against all paths and all texts written out in float64."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch

from intermodal.decode.beam import beam_search
from intermodal.decode.ctc_prefix import PrefixStepper
from intermodal.decode.stepper import RereadingStepper

BLANK, END, SYMBOLS = 0, 1, 4


def frames(seed: int, length: int) -> torch.Tensor:
    """Log-probabilities (T, V) in which no frame says the end."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(length, SYMBOLS, generator=generator, dtype=torch.float64)
    logits[:, END] = -math.inf
    return logits.log_softmax(-1)


def texts(log_prob_TV: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every text: all paths, repeats merged, blanks left out."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(SYMBOLS), repeat=len(log_prob_TV)):
        merged = tuple(k for k, _ in itertools.groupby(path))
        found[tuple(s for s in merged if s != BLANK)] += math.exp(
            sum(float(log_prob_TV[t, s]) for t, s in enumerate(path))
        )
    return found


@pytest.mark.parametrize(("seed", "length"), [(0, 1), (1, 3), (2, 5), (3, 6)])
def test_values_are_quotients_of_the_probabilities_of_all_texts_that_begin_so(seed, length):
    log_prob = frames(seed, length)
    known = texts(log_prob)
    assert sum(known.values()) == pytest.approx(1, abs=1e-12)

    def begins(prefix: tuple[int, ...]) -> float:
        return sum(p for text, p in known.items() if text[: len(prefix)] == prefix)

    for prefix in [(), (2,), (3,), (2, 2), (2, 3), (3, 3, 2), (2, 3, 2)]:
        if begins(prefix) == 0:
            continue
        stepper = PrefixStepper(log_prob.unsqueeze(0), BLANK, END)
        value, state = stepper.step(stepper.start(9), torch.tensor([[BLANK]]))
        for symbol in prefix:
            value, state = stepper.step(state, torch.tensor([[symbol]]))
        probability = value.exp()[0]
        assert float(probability.sum()) == pytest.approx(1, abs=1e-9)
        assert float(probability[BLANK]) == 0
        assert float(probability[END]) == pytest.approx(known.get(prefix, 0.0) / begins(prefix), abs=1e-9)
        for symbol in (2, 3):
            assert float(probability[symbol]) == pytest.approx(begins((*prefix, symbol)) / begins(prefix), abs=1e-9)


def test_frames_behind_the_end_change_nothing_and_hypotheses_can_be_chosen_among():
    short, long = frames(4, 3), frames(5, 6)
    padded = torch.stack([torch.cat([short, frames(6, 3)]), long])
    both = PrefixStepper(padded, BLANK, END, torch.tensor([3, 6]))
    _, state = both.step(both.start(9), torch.tensor([[BLANK], [BLANK]]))
    state = both.reorder(state, torch.tensor([1, 0, 0]))
    _, state = both.step(state, torch.tensor([[2], [3], [2]]))
    state = both.reorder(state, torch.tensor([0, 2, 2]))
    values, _ = both.step(state, torch.tensor([[3], [2], [3]]))
    for row, (own, said) in enumerate([(long, (2, 3)), (short, (2, 2)), (short, (2, 3))]):
        alone = PrefixStepper(own.unsqueeze(0), BLANK, END)
        wanted, memory = alone.step(alone.start(9), torch.tensor([[BLANK]]))
        for symbol in said:
            wanted, memory = alone.step(memory, torch.tensor([[symbol]]))
        assert torch.allclose(values[row].exp(), wanted[0].exp(), atol=1e-12)


def test_many_frames_of_great_certainty_stay_finite():
    logits = torch.full((1, 400, SYMBOLS), -60.0, dtype=torch.float64)
    logits[0, :, BLANK] = 60
    logits[0, 10:12, 2] = logits[0, 300, 3] = 200
    stepper = PrefixStepper(logits.log_softmax(-1), BLANK, END)
    value, state = stepper.step(stepper.start(9), torch.tensor([[BLANK]]))
    for symbol in (2, 3):
        assert float(value[0, symbol]) == pytest.approx(0, abs=1e-9)
        value, state = stepper.step(state, torch.tensor([[symbol]]))
    assert float(value[0, END]) == pytest.approx(0, abs=1e-9) and torch.isfinite(value).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
def test_a_wide_beam_finds_the_text_that_is_best_by_both(weight):
    log_prob = torch.stack([frames(7, 4), frames(8, 4)])
    generator = torch.Generator().manual_seed(9)
    table = 2 * torch.randn(SYMBOLS, SYMBOLS, generator=generator, dtype=torch.float64)

    def logits(tokens_BL: torch.Tensor) -> torch.Tensor:
        return table[tokens_BL[:, -1]]

    prompt, most = torch.tensor([[BLANK], [BLANK]]), 5
    found = beam_search(
        RereadingStepper(logits),
        prompt,
        most,
        beams=60,
        end=END,
        length_penalty=0.0,
        beside=PrefixStepper(log_prob, BLANK, END),
        weight=weight,
    )
    for row, beams in enumerate(found):
        known, scores = texts(log_prob[row]), {}
        for length in range(most):
            for text in itertools.product((BLANK, 2, 3), repeat=length):
                steps = [*text, END]
                own = sum(float(table[a].log_softmax(-1)[b]) for a, b in zip([BLANK, *text], steps, strict=True))
                seen = known.get(text, 0.0)
                if weight == 0 or seen > 0:
                    scores[text] = ((1 - weight) * own + (weight * math.log(seen) if weight else 0), own)
        best = max(scores, key=lambda text: scores[text][0])
        assert beams[0].tokens.tolist() == [*best, END]
        assert beams[0].score == pytest.approx(scores[best][0], abs=1e-4)
        assert beams[0].log_prob == pytest.approx(scores[best][1], abs=1e-4)


def test_a_weight_that_is_none_is_refused():
    stepper = RereadingStepper(lambda tokens: torch.zeros(len(tokens), SYMBOLS))
    with pytest.raises(ValueError, match="from 0 to 1"):
        beam_search(stepper, torch.tensor([[0]]), 3, beams=2, end=END, weight=1.5)

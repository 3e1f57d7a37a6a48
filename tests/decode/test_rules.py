"""What may come next: rules, several ends, unequal prompts, vectors as prompts, streams, and the context's bound."""

import itertools
import math

import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.decode import rules
from intermodal.decode.beam import beam_search
from intermodal.decode.generate import GREEDY, generate, generate_scored, stream
from intermodal.decode.prompts import room, side_by_side
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import GuidedStepper, RereadingStepper, RuledStepper, TransformerStepper
from intermodal.nn.causal import CausalConfig, CausalTransformer, llama

SIZES = {"vocab_size": 11, "context_length": 20, "width": 12, "depth": 2, "heads": 2}


@pytest.fixture(params=["gpt2", "llama"])
def network(request):
    torch.manual_seed(0)
    config = CausalConfig(**SIZES) if request.param == "gpt2" else llama(**SIZES, kv_heads=1)
    model = CausalTransformer(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def prompts(rows=3, length=4):
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(7))


def nothing(rows=2):
    return torch.empty(rows, 0, dtype=torch.int64)


def test_only_given_sequences_are_written(network):
    """By greedy search and by beams, from every prompt: the likeliest of them is what beams find."""
    sequences = [[3, 4, 5], [3, 4], [3, 7, 1, 2], [8]]
    stepper, rule = TransformerStepper(network), rules.among(sequences, 10)
    made = generate(stepper, prompts(), 8, end=10, rule=rule)
    whole = [[*s, 10] for s in sequences]
    for row in made.tolist():
        assert row[: row.index(10) + 1] in whole
    found = beam_search(stepper, prompts(), 8, beams=4, end=10, length_penalty=0.0, rule=rule)
    for start, beams in zip(prompts(), found, strict=True):
        scores = {}
        for sequence in whole:
            read = torch.cat([start, torch.tensor(sequence)])[None]
            with torch.no_grad():
                log_prob = network(read)[0].float().log_softmax(-1)
            scores[tuple(sequence)] = sum(float(log_prob[3 + i, t]) for i, t in enumerate(sequence))
        best = max(scores, key=scores.__getitem__)
        assert tuple(beams[0].tokens.tolist()) == best
        assert beams[0].score == pytest.approx(scores[best], abs=1e-4)
    with pytest.raises(ConfigError, match="at least one sequence"):
        rules.among([], 10)


def test_rules_say_no_to_what_they_name():
    logits = torch.arange(12.0).view(2, 6) - 4
    assert torch.equal(rules.banned([1, 3])(logits, nothing()).isinf().nonzero()[:, 1], torch.tensor([1, 3, 1, 3]))
    least = rules.at_least(2, {0, 5})
    for written, barred in ((0, True), (1, True), (2, False)):
        found = least(logits, torch.zeros(2, written, dtype=torch.int64))
        assert bool(found[:, [0, 5]].isinf().all()) is barred and torch.isfinite(found[:, 1:5]).all()
    both = rules.every(rules.banned([2]), least)(logits, nothing())
    assert both.isinf().nonzero()[:, 1].tolist() == [0, 2, 5] * 2
    made = torch.tensor([[1, 2, 1, 2, 1], [0, 0, 4, 3, 3]])
    assert rules.without_repeated(3)(logits, made).isinf().nonzero().tolist() == [[0, 2]]
    assert rules.without_repeated(1)(logits, made).isinf().nonzero().tolist() == [
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 3],
        [1, 4],
    ]
    assert torch.equal(rules.without_repeated(6)(logits, made), logits)
    found = rules.penalised(2.0, torch.tensor([[5], [5]]))(logits, torch.tensor([[0], [1]]))
    wanted = logits.clone()
    wanted[0, 0], wanted[0, 5], wanted[1, 1], wanted[1, 5] = -8.0, 0.5, 1.5, 3.5
    assert torch.equal(found, wanted)
    with pytest.raises(ConfigError, match="above 0"):
        rules.penalised(0.0)


def test_a_rule_is_that_of_a_ruled_stepper(network):
    rule = rules.every(rules.banned([0, 4]), rules.without_repeated(2))
    plain = TransformerStepper(network)
    for sampling in (GREEDY, Sampling()):
        made = generate(plain, prompts(), 12, sampling=sampling, rule=rule)
        assert torch.equal(made, generate(RuledStepper(plain, rule), prompts(), 12, sampling=sampling))
        assert not torch.isin(made, torch.tensor([0, 4])).any()
        for row in made.tolist():
            assert len(set(itertools.pairwise(row))) == len(row) - 1


def test_any_of_several_ends_ends_a_sequence(network):
    stepper = TransformerStepper(network)
    free = generate(stepper, prompts(5), 12, sampling=Sampling())
    ends = [3, 7, 9]
    ended = generate(stepper, prompts(5), 12, sampling=Sampling(), end=ends)
    assert (
        len({row[next(i for i, t in enumerate(row) if t in ends)] for row in free.tolist() if set(row) & set(ends)}) > 1
    )
    for row, full in zip(ended.tolist(), free.tolist(), strict=True):
        stop = next((i + 1 for i, t in enumerate(full) if t in ends), len(full))
        assert row[:stop] == full[: min(stop, len(row))] and set(row[stop:]) <= {3}


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.8, top_k=6)])
def test_unequal_prompts_go_on_as_each_would_alone(network, sampling):
    rows = [prompts(1, length)[0] for length in (6, 1, 3)]
    prompt, padding = side_by_side(rows)
    assert prompt.shape == (3, 6) and padding.tolist() == [0, 5, 3]
    drawn = [torch.Generator().manual_seed(s) for s in range(3)]
    stepper = TransformerStepper(network, padding_B=padding)
    together = generate(stepper, prompt, 9, sampling=sampling, generator=drawn)
    beams = beam_search(stepper, prompt, 9, beams=3, end=2)
    for i, row in enumerate(rows):
        alone = TransformerStepper(network)
        one = generate(alone, row[None], 9, sampling=sampling, generator=torch.Generator().manual_seed(i))
        assert torch.equal(together[i : i + 1], one)
        for mine, theirs in zip(beams[i], beam_search(alone, row[None], 9, beams=3, end=2)[0], strict=True):
            assert torch.equal(mine.tokens, theirs.tokens) and mine.score == pytest.approx(theirs.score, abs=1e-5)
    equal, none = side_by_side([[1, 2], [3, 4]])
    assert none is None and equal.tolist() == [[1, 2], [3, 4]]
    for wrong in ([], [[1], []]):
        with pytest.raises(DataError, match="at least one token"):
            side_by_side(wrong)


@torch.no_grad()
def test_vectors_may_be_the_prompt(network):
    """Greedily, by beams, under a rule and with guidance; of different lengths too."""
    stepper, rule = TransformerStepper(network), rules.banned([5])
    vectors = network.embed(prompts())
    assert torch.equal(generate(stepper, vectors, 9, rule=rule), generate(stepper, prompts(), 9, rule=rule))
    found, wanted = (beam_search(stepper, start, 7, beams=3, end=2) for start in (vectors, prompts()))
    assert [[b.tokens.tolist() for b in row] for row in found] == [[b.tokens.tolist() for b in row] for row in wanted]
    other = prompts().flip(1)
    guided = [GuidedStepper(stepper, without, 2.0) for without in (network.embed(other), other)]
    assert torch.equal(generate(guided[0], vectors, 6), generate(guided[1], prompts(), 6))
    prompt, padding = side_by_side([network.embed(prompts(1, length)[0]) for length in (4, 2)])
    made = generate(TransformerStepper(network, padding_B=padding), prompt, 6)
    assert torch.equal(made[1:], generate(stepper, prompts(1, 2), 6))


def test_a_stream_yields_what_generate_returns_as_it_comes(network):
    asked = []

    def next_logits(tokens):
        asked.append(tokens.shape[1])
        return network(tokens)[:, -1]

    stepper = RereadingStepper(next_logits)
    steps = stream(stepper, prompts(), 9, scored=True, end=2)
    assert asked == []
    first, second = next(steps), next(steps)
    assert asked == [4, 5], "no more is computed than was asked for"
    tokens, scores = generate_scored(stepper, prompts(), 9, end=2)
    assert torch.equal(torch.stack([first.token_B, second.token_B], 1), tokens[:, :2])
    assert torch.equal(torch.stack([first.log_prob_B, second.log_prob_B], 1), scores[:, :2])
    rest = torch.stack([step.token_B for step in steps], 1)
    assert torch.equal(torch.cat([tokens[:, :2], rest], 1), tokens)
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="prompt"):
        stream(stepper, prompts(), 0)


def test_the_context_bounds_what_is_written_and_a_longer_prompt_is_said(network):
    """The last token need not be read, so that there is room for one more than the context has places."""
    stepper = TransformerStepper(network)
    assert generate(stepper, prompts(), 500).shape == (3, 17)
    guided = GuidedStepper(RuledStepper(stepper, rules.banned([0])), prompts(), 1.0)
    assert generate(guided, prompts(), 500).shape == (3, 17)
    beams = beam_search(stepper, prompts(), 500, beams=2, end=10, rule=rules.banned([10]))
    assert all(len(b.tokens) == 17 and math.isfinite(b.score) for row in beams for b in row)
    assert generate(stepper, prompts(2, 20), 5).shape == (2, 1)
    for search in (lambda p: generate(stepper, p, 5), lambda p: beam_search(stepper, p, 5, beams=2, end=1)):
        with pytest.raises(DataError, match="21 tokens, and the model reads at most 20: shorten the prompt"):
            search(prompts(1, 21))
    assert (
        room(prompts(), 5, None) == 5
        and generate(RereadingStepper(lambda t: torch.eye(11)[t[:, -1]], 6), prompts(), 9).shape[1] == 3
    )
    with pytest.raises(ValueError, match="beam"):
        beam_search(stepper, prompts(), 5, beams=0, end=1)

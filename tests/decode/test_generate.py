"""Going on with sequences: equal to transformers' generate, with and without a cache, and repeatable."""

import pytest
import torch

from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import GuidedStepper, RereadingStepper, TransformerStepper
from intermodal.hub.gpt2 import key_map, read_config
from intermodal.nn.causal import CausalConfig, CausalTransformer

GREEDY = Sampling(temperature=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(**changes):
    torch.manual_seed(0)
    model = CausalTransformer(
        CausalConfig(vocab_size=11, context_length=20, width=12, depth=2, heads=2).replace(**changes)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def prompts(rows=3, length=4):
    return torch.randint(11, (rows, length), generator=generator(7))


def both(model):
    return TransformerStepper(model), RereadingStepper(lambda tokens: model(tokens)[:, -1])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.7, top_k=5, top_p=0.9)])
def test_with_and_without_a_cache_the_tokens_are_the_same(sampling):
    made = [
        generate(stepper, prompts(), 16, sampling=sampling, generator=generator())
        for stepper in both(network().double())
    ]
    assert made[0].shape == (3, 16)
    assert torch.equal(*made)


def test_same_seed_same_tokens_and_sequences_do_not_meet():
    stepper, start = TransformerStepper(network().double()), prompts(1).repeat(4, 1)
    first, again = (generate(stepper, start, 9, sampling=Sampling(), generator=generator(3)) for _ in range(2))
    other = generate(stepper, start, 9, sampling=Sampling(), generator=generator(4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) > 1
    halves, drawn = [], generator(3)
    for _ in range(2):
        halves.append(generate(stepper, start[:2], 9, sampling=Sampling(), generator=drawn))
    assert torch.equal(first, torch.cat(halves)), "two by two is four at once"


def test_each_sequence_may_have_numbers_of_its_own():
    stepper, start = TransformerStepper(network().double()), prompts(3)
    together = generate(stepper, start, 9, sampling=Sampling(), generator=[generator(s) for s in (4, 5, 6)])
    for row, seed in enumerate((4, 5, 6)):
        alone = generate(stepper, start[row : row + 1], 9, sampling=Sampling(), generator=generator(seed))
        assert torch.equal(together[row : row + 1], alone)
    with pytest.raises(ValueError, match="one generator or as many, found 2"):
        generate(stepper, start, 9, sampling=Sampling(), generator=[generator(), generator()])


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_an_extrapolation_of_logits_and_survives_a_choice(scale):
    """With and without a cache, the sequences reordered in between, as a beam search would."""
    model, without, rows = network().double(), prompts().flip(1), torch.tensor([2, 0, 2, 1])
    for stepper in both(model):
        guided = GuidedStepper(stepper, without, scale)
        found, state = guided.step(guided.start(10), prompts())
        plain = [model(tokens)[:, -1] for tokens in (prompts(), without)]
        assert torch.allclose(found, plain[1] + scale * (plain[0] - plain[1]), atol=1e-12)
        state = guided.reorder(state, rows)
        new = torch.tensor([[1], [2], [3], [4]])
        found, state = guided.step(state, new)
        told, untold = (model(torch.cat([tokens[rows], new], 1))[:, -1] for tokens in (prompts(), without))
        assert torch.allclose(found, untold + scale * (told - untold), atol=1e-12)


def test_sequences_end_where_their_end_token_comes():
    stepper = RereadingStepper(lambda tokens: torch.nn.functional.one_hot(tokens.sum(1) % 7, 11).double() * 9)
    start = torch.tensor([[3], [1], [6]])
    free = generate(stepper, start, 8, sampling=GREEDY, generator=generator())
    ended = generate(stepper, start, 8, sampling=GREEDY, generator=generator(), end=5)
    for row, full in zip(ended.tolist(), free.tolist(), strict=True):
        stop = full.index(5) + 1 if 5 in full else len(full)
        assert row[:stop] == full[: min(stop, len(row))]
        assert all(token == 5 for token in row[stop:])
    assert ended.shape[1] <= 8


def test_nothing_more_is_made_when_all_have_ended():
    asked, stepper = [], RereadingStepper(lambda tokens: torch.eye(11)[torch.full((len(tokens),), 2)])
    made = generate(stepper, prompts(), 9, sampling=GREEDY, generator=generator(), end=2, watch=asked.append)
    assert made.tolist() == [[2]] * 3 and asked == [1]


@torch.no_grad()
def test_steppers_reorder_alike():
    """What a beam search asks of them."""
    rows, model = torch.tensor([2, 2, 0]), network().double()
    found = []
    for stepper in both(model):
        state = stepper.start(10)
        state = stepper.reorder(state, torch.tensor([0]))
        _, state = stepper.step(state, prompts())
        state = stepper.reorder(state, rows)
        logits, state = stepper.step(state, torch.tensor([[1], [2], [3]]))
        found.append(logits)
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_a_prompt_and_a_step_are_needed():
    for prompt, most in (
        (torch.zeros(2, 0, dtype=torch.long), 3),
        (prompts(), 0),
        (torch.zeros(3, dtype=torch.long), 1),
    ):
        with pytest.raises(ValueError, match="prompt"):
            generate(both(network())[0], prompt, most, sampling=GREEDY, generator=generator())


@pytest.mark.parametrize("cache", [True, False])
def test_generated_tokens_are_those_of_transformers(cache):
    """Greedy, both with and without transformers' own cache."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=61,
        n_positions=40,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(5)
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    ours = CausalTransformer(read_config(config.to_dict())).double().eval()
    ours.load_state_dict(key_map().to_ours(theirs.state_dict()))
    start = torch.randint(61, (4, 6), generator=generator(1))
    wanted = theirs.generate(
        start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=25, use_cache=cache
    )
    for stepper in both(ours):
        found = generate(stepper, start, 25, sampling=GREEDY, generator=generator())
        assert torch.equal(torch.cat([start, found], 1), wanted)
    assert len({tuple(row) for row in wanted[:, 6:].tolist()}) == 4, (
        "the sequences differ: the comparison means something"
    )

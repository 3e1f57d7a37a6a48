"""Decoding token by token, greedily, with and without a cache of keys and values, beside transformers' generate.

The last case is guided: DALL-E draws so. Ours evaluates both prompts in one batch, transformers one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import harness
from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import GuidedStepper, RereadingStepper, TransformerStepper
from intermodal.hub.gpt2 import key_map, read_config
from intermodal.nn.causal import CausalTransformer

GREEDY = Sampling(temperature=0)
TRANSFORMERS = "pip install transformers==5.23.0"
PRIOR = {"vocab_size": 513, "n_positions": 256, "n_embd": 256, "n_layer": 6, "n_head": 8}
"""About the size of the recipe vqgan-prior."""
DALLE = {"vocab_size": 3936, "n_positions": 80, "n_embd": 192, "n_layer": 4, "n_head": 6}
"""About the size of the recipe dalle."""
GUIDANCE = 3.0
SMALL = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
"""GPT-2 small."""
QUICK = {"vocab_size": 65, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}


@cache
def reference(**sizes: int) -> Any:
    """Return transformers' GPT-2 with random weights, large enough that sequences differ."""
    import transformers

    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def prompt(batch: int, sizes: dict[str, int], length: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(sizes["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def network_of(sizes: dict[str, int]) -> CausalTransformer:
    """Return ours with the reference's weights."""
    theirs = reference(**sizes)
    network = CausalTransformer(read_config(theirs.config.to_dict())).eval()
    network.load_state_dict(key_map().to_ours(theirs.state_dict()))
    return network


def ours(sizes: dict[str, int], batch: int, tokens: int, kept: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of ours: with a cache, or reading everything anew."""

    def make() -> harness.Step:
        network = network_of(sizes)
        stepper: Any = TransformerStepper(network)
        if not kept:  # the last position's logits alone, so that the comparison is of the cache and not of the head
            stepper = RereadingStepper(lambda read: network.logits(network.hidden(read)[:, -1]))
        start = prompt(batch, sizes)

        def step() -> float:
            made = generate(stepper, start, tokens, sampling=GREEDY, generator=torch.Generator().manual_seed(0))
            return float(made.double().mean())

        return step

    return make


def theirs(sizes: dict[str, int], batch: int, tokens: int, kept: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of transformers' generate."""

    def make() -> harness.Step:
        model, start = reference(**sizes), prompt(batch, sizes)

        def step() -> float:
            with torch.no_grad():
                made = model.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    do_sample=False,
                    max_new_tokens=tokens,
                    use_cache=kept,
                )
            return float(made[:, 1:].double().mean())

        return step

    return make


def case(name: str, sizes: dict[str, int], batch: int, tokens: int, repeats: int) -> harness.Case:
    contenders = [
        harness.Contender("intermodal, cache", ours(sizes, batch, tokens, True)),
        harness.Contender("transformers, cache", theirs(sizes, batch, tokens, True), TRANSFORMERS),
        harness.Contender("intermodal, no cache", ours(sizes, batch, tokens, False)),
        harness.Contender("transformers, no cache", theirs(sizes, batch, tokens, False), TRANSFORMERS),
    ]
    return harness.Case(f"{name}: {batch} sequences of {tokens} tokens", contenders, repeats)


def guided(name: str, sizes: dict[str, int], batch: int, *, read: int, tokens: int, repeats: int) -> harness.Case:
    """Return a case in which a text of ``read`` tokens is followed with guidance, another one standing for no text."""
    start, without = (prompt(batch, sizes, read, seed) for seed in (0, 1))

    def make_ours() -> harness.Step:
        stepper = GuidedStepper(TransformerStepper(network_of(sizes)), without, GUIDANCE)

        def step() -> float:
            made = generate(stepper, start, tokens, sampling=GREEDY, generator=torch.Generator().manual_seed(0))
            return float(made.double().mean())

        return step

    def make_theirs() -> harness.Step:
        model, about = reference(**sizes), {"attention_mask": torch.ones_like(start), "do_sample": False}

        def step() -> float:
            with torch.no_grad():
                made = model.generate(
                    start, negative_prompt_ids=without, guidance_scale=GUIDANCE, max_new_tokens=tokens, **about
                )
            return float(made[:, read:].double().mean())

        return step

    contenders = [
        harness.Contender("intermodal, cache", make_ours),
        harness.Contender("transformers, cache", make_theirs, TRANSFORMERS),
    ]
    return harness.Case(f"{name}: {batch} sequences of {tokens} tokens after {read}, guided", contenders, repeats)


def cases(quick: bool) -> list[harness.Case]:
    """Return a prior over codes, many pictures at once, GPT-2 small, one text, and DALL-E with guidance."""
    if quick:
        return [case("a tiny GPT-2", QUICK, 2, 16, 1), guided("a tiny GPT-2", QUICK, 2, read=3, tokens=16, repeats=1)]
    return [
        case("a prior of 4.9 M, 256 codes", PRIOR, 16, 255, 3),
        case("a prior of 4.9 M, 64 codes", PRIOR, 16, 63, 3),
        case("GPT-2 small", SMALL, 1, 128, 3),
        guided("DALL-E of 3.3 M", DALLE, 16, read=16, tokens=64, repeats=3),
    ]

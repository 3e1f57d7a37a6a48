"""Decoding token by token, greedily, with and without a cache of keys and values, beside transformers' generate."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import harness
from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import RereadingStepper, TransformerStepper
from intermodal.hub.gpt2 import key_map, read_config
from intermodal.nn.causal import CausalTransformer

GREEDY = Sampling(temperature=0)
TRANSFORMERS = "pip install transformers==5.23.0"
PRIOR = {"vocab_size": 513, "n_positions": 256, "n_embd": 256, "n_layer": 6, "n_head": 8}
"""About the size of the recipe vqgan-prior."""
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


def prompt(batch: int, sizes: dict[str, int]) -> torch.Tensor:
    return torch.randint(sizes["vocab_size"], (batch, 1), generator=torch.Generator().manual_seed(0))


def ours(sizes: dict[str, int], batch: int, tokens: int, kept: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of ours: with a cache, or reading everything anew."""

    def make() -> harness.Step:
        theirs = reference(**sizes)
        network = CausalTransformer(read_config(theirs.config.to_dict())).eval()
        network.load_state_dict(key_map().to_ours(theirs.state_dict()))
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


def cases(quick: bool) -> list[harness.Case]:
    """Return a prior over codes, many pictures at once, and GPT-2 small, one text."""
    if quick:
        return [case("a tiny GPT-2", QUICK, 2, 16, 1)]
    return [
        case("a prior of 4.9 M, 256 codes", PRIOR, 16, 255, 3),
        case("a prior of 4.9 M, 64 codes", PRIOR, 16, 63, 3),
        case("GPT-2 small", SMALL, 1, 128, 3),
    ]

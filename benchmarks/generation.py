"""Greedy decoding of GPT-2 small and of a Llama of similar size, beside transformers' generate: same weights, same tokens.

A step of one sequence reads every weight once: 124 million of GPT-2 small are 0.5 GB a token in single precision, so
that the speed of memory bounds both. The row in half precision reads half as much; its tokens may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import harness
from decode import QUICK, SMALL, TRANSFORMERS, prompt
from intermodal.decode.generate import generate
from intermodal.decode.stepper import TransformerStepper
from intermodal.hub import gpt2, llama
from intermodal.nn.causal import CausalTransformer

LLAMA = {
    "vocab_size": 50257,
    "max_position_embeddings": 1024,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "tie_word_embeddings": True,
}
"""A Llama of 114 million parameters."""
TINY_LLAMA = {
    "vocab_size": 65,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
PROMPT = 16


@cache
def reference(kind: str, **sizes: Any) -> Any:
    """Return transformers' model with random weights, large enough that what comes next is clear."""
    import transformers

    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **none))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **none))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def network_of(kind: str, sizes: dict[str, Any]) -> CausalTransformer:
    """Return ours with the reference's weights."""
    theirs = reference(kind, **sizes)
    data = theirs.config.to_dict()
    config = gpt2.read_config(data) if kind == "gpt2" else llama.read_config(data)
    keys = gpt2.key_map() if kind == "gpt2" else llama.key_map(config)
    network = CausalTransformer(config).eval()
    network.load_state_dict(keys.to_ours(theirs.state_dict()))
    reference.cache_clear()
    return network


def ours(kind: str, sizes: dict[str, Any], batch: int, tokens: int, dtype: torch.dtype) -> Callable[[], harness.Step]:
    """Return what makes a step of ours."""

    def make() -> harness.Step:
        stepper = TransformerStepper(network_of(kind, sizes).to(dtype))
        start = prompt(batch, sizes, PROMPT)
        generate(stepper, start, 2)  # compiles the kernel, where there is one
        return lambda: float(generate(stepper, start, tokens).double().mean())

    return make


def theirs(kind: str, sizes: dict[str, Any], batch: int, tokens: int, dtype: torch.dtype) -> Callable[[], harness.Step]:
    """Return what makes a step of transformers' generate."""

    def make() -> harness.Step:
        model, start = reference(kind, **sizes).to(dtype), prompt(batch, sizes, PROMPT)
        reference.cache_clear()
        about = {"attention_mask": torch.ones_like(start), "do_sample": False, "max_new_tokens": tokens}

        def step() -> float:
            with torch.inference_mode():
                return float(model.generate(start, **about)[:, PROMPT:].double().mean())

        return step

    return make


def case(  # noqa: PLR0917 - two calls, from below
    name: str, kind: str, sizes: dict[str, Any], batch: int, tokens: int, repeats: int = 3
) -> harness.Case:
    """Return a case of both in single precision, and both in half."""
    contenders = []
    for dtype, said in ((torch.float32, ""), (torch.bfloat16, ", bfloat16")):
        about = (kind, sizes, batch, tokens, dtype)
        contenders += [
            harness.Contender(f"intermodal{said}", ours(*about)),
            harness.Contender(f"transformers{said}", theirs(*about), TRANSFORMERS),
        ]
    return harness.Case(f"{name}: {batch} x {tokens} tokens after {PROMPT}", contenders, repeats)


def cases(quick: bool) -> list[harness.Case]:
    """Return GPT-2 and Llama, one sequence and sixteen."""
    if quick:
        return [case("a tiny GPT-2", "gpt2", QUICK, 2, 8, 1), case("a tiny Llama", "llama", TINY_LLAMA, 2, 8, 1)]
    kinds = (("GPT-2 small (124 M)", "gpt2", SMALL), ("Llama (114 M)", "llama", LLAMA))
    return [case(*kind, batch, tokens) for kind in kinds for batch, tokens in ((1, 64), (16, 32))]

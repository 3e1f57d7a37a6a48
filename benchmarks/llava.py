"""LLaVA answers questions about pictures, beside transformers' own generate: same weights, same tokens out.

ViT-Base with 14 x 14 places and a Llama of 114 million parameters: 196 places and a question are read at once, then the
answer is written a token at a time, greedily. The second question of a chat reads the
chat again in ``generate``; our memory of the chat reads what is new alone. Both say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

import harness
from decode import TRANSFORMERS
from generation import LLAMA
from intermodal.decode.generate import generate
from intermodal.decode.stepper import TransformerStepper
from intermodal.hub import llava
from intermodal.methods.vision_language.llava import LLaVA

IMAGE = 50256
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SIZES = ({**VISION, "image_size": 224, "patch_size": 16}, LLAMA)
TINY = (
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 32, "patch_size": 8},
    LLAMA | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
)
ASKED, AGAIN = 24, 12
"""Tokens of the first question and of the second."""


@cache
def reference(tiny: bool) -> Any:
    """Return transformers' model with random weights, large enough that what comes next is clear."""
    import transformers

    vision, text = TINY if tiny else SIZES
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text, **none),
        image_token_index=IMAGE,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def ours_of(tiny: bool) -> LLaVA:
    """Return ours with the reference's weights."""
    theirs = reference(tiny)
    config = llava.read_config(theirs.config.to_dict())
    model = LLaVA(config, {}).eval()
    named = llava.current_names(theirs.state_dict(), harness.HERE)
    model.load_state_dict(llava.key_map(config).to_ours(named))
    reference.cache_clear()
    return model


def chat(patches: int, tiny: bool, seed: int, count: int, shown: bool) -> tuple[Tensor, Tensor]:
    """Return a question's tokens, ``(1, L)``, its picture in front if one is shown, and the prepared picture."""
    drawn = torch.Generator().manual_seed(seed)
    words = torch.randint(2, 50000, (1, count), generator=drawn)
    size = (TINY if tiny else SIZES)[0]["image_size"]
    picture = torch.randn(1, 3, size, size, generator=drawn)
    return torch.cat([torch.full((1, patches * shown), IMAGE), words], 1), picture


def patches_of(tiny: bool) -> int:
    """Return how many tokens a picture takes."""
    vision = (TINY if tiny else SIZES)[0]
    return (vision["image_size"] // vision["patch_size"]) ** 2


@torch.inference_mode()
def answer(model: Any, ids: Tensor, picture: Tensor, tokens: int) -> Tensor:
    """Return what either model says, greedily."""
    if isinstance(model, LLaVA):
        stepper = TransformerStepper(model.language.network)
        return generate(stepper, model.mixed(ids, model.see(picture)), tokens)
    about = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": tokens}
    return model.generate(input_ids=ids, pixel_values=picture, **about)[:, ids.shape[1] :]


def one(make: Callable[[bool], Any], tiny: bool, tokens: int) -> Callable[[], harness.Step]:
    """Return what makes a step that answers one question about a picture."""

    def build() -> harness.Step:
        model = make(tiny)
        ids, picture = chat(patches_of(tiny), tiny, 1, ASKED, True)
        answer(model, ids, picture, 2)
        return lambda: float(answer(model, ids, picture, tokens).double().mean())

    return build


def further(make: Callable[[bool], Any], tiny: bool, tokens: int, *, kept: bool) -> Callable[[], harness.Step]:
    """Return what makes a step that answers the second question, the first having been answered before."""

    def build() -> harness.Step:
        model, patches = make(tiny), patches_of(tiny)
        first, picture = chat(patches, tiny, 1, ASKED, True)
        said = answer(model, first, picture, tokens)
        whole = torch.cat([first, said, chat(patches, tiny, 2, AGAIN, False)[0]], 1)
        if not kept:
            return lambda: float(answer(model, whole, picture, tokens).double().mean())
        cache = model.language.network.new_cache(0)
        with torch.inference_mode():
            generate(
                TransformerStepper(model.language.network, begun=cache), model.mixed(first, model.see(picture)), tokens
            )
        before = cache.length

        @torch.inference_mode()
        def step() -> float:
            cache.forget(before)
            stepper = TransformerStepper(model.language.network, begun=cache)
            new = model.mixed(whole[:, before:], None)
            return float(generate(stepper, new, tokens).double().mean())

        return step

    return build


def cases(quick: bool) -> list[harness.Case]:
    """Return a first question about a picture, and a second one."""
    tokens, repeats = (4, 1) if quick else (32, 2)
    size = "tiny" if quick else "ViT-Base at 224 pixels, Llama of 114 M"
    return [
        harness.Case(
            f"a question about a picture, {tokens} tokens out ({size})",
            [
                harness.Contender("intermodal", one(ours_of, quick, tokens)),
                harness.Contender("transformers", one(reference, quick, tokens), TRANSFORMERS),
            ],
            repeats,
        ),
        harness.Case(
            f"the second question of a chat, {tokens} tokens out ({size})",
            [
                harness.Contender("intermodal, with its memory", further(ours_of, quick, tokens, kept=True)),
                harness.Contender("intermodal, all read again", further(ours_of, quick, tokens, kept=False)),
                harness.Contender("transformers", further(reference, quick, tokens, kept=False), TRANSFORMERS),
            ],
            repeats,
        ),
    ]

"""Reading lines with TrOCR, greedily and with a beam, beside transformers' VisionEncoderDecoderModel.generate.

Random weights of the layout of TrOCR base (a ViT of 384 x 384 pixels, a decoder of 12 blocks of width 1024), saved by
transformers and loaded by both: the same tokens come out. With random weights no text ends, so each has all tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import harness
from intermodal.decode.beam import beam_search
from intermodal.decode.generate import generate
from intermodal.hub.load import load
from intermodal.methods.vision_language.trocr import TrOCR

TRANSFORMERS = "pip install transformers==5.23.0"
IMAGE = {"image_size": 384, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
IMAGE |= {"intermediate_size": 3072, "qkv_bias": False}
TEXT = {"vocab_size": 50265, "d_model": 1024, "decoder_layers": 12, "decoder_attention_heads": 16}
TEXT |= {"decoder_ffn_dim": 4096, "max_position_embeddings": 512, "cross_attention_hidden_size": 768}
QUICK_IMAGE = IMAGE | {"image_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
QUICK_IMAGE |= {"num_attention_heads": 2}
QUICK_TEXT = TEXT | {"vocab_size": 100, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2}
QUICK_TEXT |= {"decoder_ffn_dim": 64, "cross_attention_hidden_size": 32}
START, PAD, NEVER = 2, 1, 3
"""The start, padding, and the token that would end a text."""


@cache
def both(quick: bool) -> tuple[Any, TrOCR]:
    """Return transformers' model with random weights, and ours with the same ones."""
    import transformers

    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**(QUICK_IMAGE if quick else IMAGE)),
        transformers.TrOCRConfig(**(QUICK_TEXT if quick else TEXT)),
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, NEVER
    torch.manual_seed(0)
    theirs = transformers.VisionEncoderDecoderModel(config).eval()
    with torch.no_grad():  # so that texts are no repetition of one token
        for parameter in theirs.decoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.5 * parameter.shape[1] ** -0.5)
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(theirs.generation_config, name, getattr(config, name))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "published")
        ours = load(Path(folder) / "published", processors={})
    assert isinstance(ours, TrOCR)
    return theirs, ours.eval()


def pictures(batch: int, quick: bool) -> torch.Tensor:
    size = (QUICK_IMAGE if quick else IMAGE)["image_size"]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def ours(batch: int, beams: int, tokens: int, quick: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of ours: see, then write."""

    def make() -> harness.Step:
        model, image = both(quick)[1], pictures(batch, quick)

        def step() -> float:
            with torch.no_grad():
                stepper, prompt = model.begun(image)
                if beams == 1:
                    made = generate(stepper, prompt, tokens, end=NEVER)
                else:
                    found = beam_search(stepper, prompt, tokens, beams=beams, end=NEVER)
                    made = torch.stack([row[0].tokens for row in found])
            return float(made.double().mean())

        return step

    return make


def theirs(batch: int, beams: int, tokens: int, quick: bool) -> Callable[[], harness.Step]:
    """Return what makes a step of transformers' generate."""

    def make() -> harness.Step:
        model, image = both(quick)[0], pictures(batch, quick)

        def step() -> float:
            with torch.no_grad():
                made = model.generate(image, do_sample=False, num_beams=beams, max_new_tokens=tokens)
            return float(made[:, 1:].double().mean())

        return step

    return make


def case(batch: int, beams: int, quick: bool) -> harness.Case:
    name = "a tiny TrOCR" if quick else "TrOCR base"
    tokens, repeats = (8, 1) if quick else (24, 3)
    how = "greedily" if beams == 1 else f"beam of {beams}"
    contenders = [
        harness.Contender("intermodal", ours(batch, beams, tokens, quick)),
        harness.Contender("transformers", theirs(batch, beams, tokens, quick), TRANSFORMERS),
    ]
    lines = "one line" if batch == 1 else f"{batch} lines"
    return harness.Case(f"{name}: {lines}, {tokens} tokens each, {how}", contenders, repeats)


def cases(quick: bool) -> list[harness.Case]:
    """Return one line and several, greedily and with a beam."""
    return [case(batch, beams, quick) for batch, beams in ((1, 1), (1, 4), (4, 1))]

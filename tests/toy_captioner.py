"""A CoCa of a few thousand parameters, and four pictures of one colour each with texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from intermodal.core.fields import Field
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.source import Source, SourceConfig
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.methods.captioning.coca import CoCa, CoCaConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "white": (245, 245, 245)}
TEXTS = [f"a {name} picture" for name in COLOURS]


def tiny(pooling: str = "parallel", resnet: bool = False) -> CoCa:
    tokenizer = train_words(TEXTS, 100)
    pad, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=7, eos_id=eos, pad_id=pad)
    tower = TextConfig(
        vocab_size=text.vocab_size,
        context_length=7,
        width=16,
        depth=1,
        heads=2,
        eos_id=eos,
        pad_id=pad,
        activation="gelu",
    )
    image = (
        ResNetConfig(image_size=16, layers=(1, 1), width=8, pool="mean")
        if resnet
        else ViTConfig(image_size=16, patch_size=4, width=24, depth=1, heads=2)
    )
    torch.manual_seed(0)
    config = CoCaConfig(
        image=image, text=tower, multimodal_depth=2, multimodal_heads=2, queries=5, pooler_heads=2, pooling=pooling
    )
    return CoCa(config, {"image": ImageProcessor(size=(16, 16)), "text": text})


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (20, 16), colour) for colour in COLOURS.values()]


@dataclass(frozen=True, kw_only=True)
class Colours(SourceConfig):
    """Four pictures of one colour; in training, "a red picture" is thrice there."""

    def open(self, split: str) -> Source:
        return ColourPictures(split)


class ColourPictures(Source):
    fields = {"image": Field((), "image", ""), "text": Field((), "str", "")}  # noqa: RUF012

    def __init__(self, split: str) -> None:
        self.name = split
        self.order = [0, 1, 2, 3] if split == "test" else [0, 0, 0, 1, 2, 3]

    def __len__(self) -> int:
        return len(self.order)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> dict:
        i = self.order[index]
        return {"image": pictures()[i], "text": TEXTS[i]}

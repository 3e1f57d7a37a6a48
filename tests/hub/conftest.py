"""A small published folder for the tests of loading and exporting."""

import pytest
import torch

from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.tokenizers import EOS, train_bpe
from intermodal.hub.save import export
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig


@pytest.fixture(scope="session")
def model():
    """A tiny CLIP with processors of its own."""
    torch.manual_seed(0)
    tokenizer = train_bpe(["a red square and a blue circle"] * 3, 280)
    eos = tokenizer.token_to_id(EOS)
    text = TextProcessor(tokenizer, context_length=12, eos_id=eos, pad_id=eos)
    config = CLIPConfig(
        image=ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2),
        text=TextConfig(vocab_size=280, context_length=12, width=16, depth=1, heads=2, eos_id=eos, pad_id=eos),
        embed_dim=8,
    )
    return CLIP(config, {"image": ImageProcessor(size=(16, 16)), "text": text}).eval()


@pytest.fixture
def published(model, tmp_path):
    """The folder that the model is exported to, in transformers' layout."""
    export(model, tmp_path / "published")
    return tmp_path / "published"

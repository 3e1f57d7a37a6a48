"""Small LLaVAs of transformers with random weights, and the processors that are published with them."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from intermodal.core.chat import Turn  # noqa: E402
from published_language import SCALED, WORDS, published_tokenizer  # noqa: E402

VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
CASES = {
    "plain": ({}, {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "grouped": (
        {"vision_feature_layer": -1, "multimodal_projector_bias": False},
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
    ),
    "several": (
        {"vision_feature_layer": [-3, -1], "vision_feature_select_strategy": "full"},
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **SCALED},
        },
    ),
}
SIZE, PATCHES = 16, 16
COLOURS = [(220, 30, 30), (30, 180, 60), (40, 60, 220), (240, 240, 20)]


def published(name: str):
    """Return a model, its tokenizer and its image processor."""
    tokenizer = published_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    choices, sizes = CASES[name]
    text = transformers.LlamaConfig(
        vocab_size=WORDS + 4,
        intermediate_size=36,
        max_position_embeddings=160,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    vision = transformers.CLIPVisionConfig(image_size=SIZE, patch_size=4, projection_dim=8, **VISION)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES,
        **choices,
    )
    torch.manual_seed(len(name))
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    square = {"height": SIZE, "width": SIZE}
    image = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square)
    return model, tokenizer, image


def picture(number):
    """Return a picture of two colours, another shape for each number."""
    image = Image.new("RGB", (20 + 3 * number, 18), COLOURS[number % 4])
    image.paste(COLOURS[(number + 1) % 4], (0, 0, 9, 9 + number))
    return image


CHATS = [
    [Turn("The old man and the blue sea?", None, (picture(0),))],
    [Turn("red", None, (picture(1), picture(2)))],
    [Turn("A square one?", "It rains", (picture(3),)), Turn("nobody is here", None)],
]


def close(found, wanted, bound):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < bound

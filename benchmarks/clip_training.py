"""One training step of CLIP: ours beside the same model written with transformers and with open_clip.

The towers, the batch, the optimiser (AdamW, foreach), the precision (bf16 autocast) and the data in memory are the same for
all; each contender uses its own network, loss and forward. Throughput is the batch divided by the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import harness
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig

OPEN_CLIP = "pip install open_clip_torch (the vision group: make test-vision)"
VOCAB, CONTEXT, WIDTH, TEXT_DEPTH, HEADS = 4096, 32, 192, 2, 3
IMAGE, PATCH, DEPTH = 64, 8, 6
RESNET = {"layers": (1, 1, 1, 1), "width": 32}

Loss = Callable[[Tensor, Tensor], Tensor]


def step(build: Callable[[], tuple[nn.Module, Loss]], batch: int, channels_last: bool) -> Callable[[], harness.Step]:
    """Return what makes the step: forward in bf16 autocast, backward, clipping, AdamW."""

    def make() -> harness.Step:
        torch.manual_seed(0)
        module, loss = build()
        module.train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, foreach=True)
        image = torch.randn(batch, 3, IMAGE, IMAGE)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        text = torch.randint(2, VOCAB - 1, (batch, CONTEXT))
        text[:, CONTEXT // 2 :] = VOCAB - 1

        def train() -> float:
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(image, text)
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return value.item()

        return train

    return make


def ours(resnet: bool) -> tuple[nn.Module, Loss]:
    """Our CLIP, with the ViT or the ResNet tower."""
    tower: Any = ViTConfig(image_size=IMAGE, patch_size=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, activation="gelu")
    if resnet:
        tower = ResNetConfig(image_size=IMAGE, heads=RESNET["width"] // 2, output_dim=WIDTH, **RESNET)  # heads of 64
    config = CLIPConfig(
        image=tower,
        text=TextConfig(
            vocab_size=VOCAB,
            context_length=CONTEXT,
            width=WIDTH,
            depth=TEXT_DEPTH,
            heads=HEADS,
            activation="gelu",
            eos_id=VOCAB - 1,
            pad_id=0,
        ),
        embed_dim=WIDTH,
        project_image=not resnet,
    )
    module = CLIP(config, {})
    if resnet:
        module = module.to(memory_format=torch.channels_last)
    return module, lambda image, text: module.loss({"image": image, "text": text}).total


def with_transformers() -> tuple[nn.Module, Loss]:
    """The same towers as transformers' CLIPModel."""
    transformers: Any = harness.import_beside_torchvision("transformers")
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS, "hidden_act": "gelu"}
    module = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config={**shared, "num_hidden_layers": DEPTH, "image_size": IMAGE, "patch_size": PATCH},
            text_config={
                **shared,
                "num_hidden_layers": TEXT_DEPTH,
                "vocab_size": VOCAB,
                "max_position_embeddings": CONTEXT,
                "eos_token_id": VOCAB - 1,
                "bos_token_id": 0,
                "pad_token_id": 1,
            },
            projection_dim=WIDTH,
        )
    )
    return module, lambda image, text: module(input_ids=text, pixel_values=image, return_loss=True).loss


def with_open_clip(resnet: bool) -> tuple[nn.Module, Loss]:
    """The same towers as open_clip's CLIP."""
    model: Any = harness.import_beside_torchvision("open_clip.model")
    losses: Any = harness.import_beside_torchvision("open_clip.loss")
    vision = model.CLIPVisionCfg(
        image_size=IMAGE, patch_size=PATCH, width=WIDTH, layers=DEPTH, head_width=WIDTH // HEADS
    )
    if resnet:
        vision = model.CLIPVisionCfg(image_size=IMAGE, width=RESNET["width"], layers=RESNET["layers"])
    text = model.CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCAB, width=WIDTH, heads=HEADS, layers=TEXT_DEPTH)
    module = model.CLIP(embed_dim=WIDTH, vision_cfg=vision, text_cfg=text)
    if resnet:
        module = module.to(memory_format=torch.channels_last)
    criterion = losses.ClipLoss()
    return module, lambda image, text: criterion(*module(image, text))


def cases(quick: bool) -> list[harness.Case]:
    """The ViT tower beside both peers, the ResNet tower beside open_clip (transformers has none)."""
    batch = 32 if quick else 256
    return [
        harness.Case(
            f"CLIP training step, ViT 64 px / 8, width {WIDTH}, batch {batch}, bf16",
            [
                harness.Contender("intermodal", step(lambda: ours(False), batch, False)),
                harness.Contender(
                    "transformers CLIPModel", step(with_transformers, batch, False), "pip install transformers"
                ),
                harness.Contender("open_clip CLIP", step(lambda: with_open_clip(False), batch, False), OPEN_CLIP),
            ],
        ),
        harness.Case(
            f"CLIP training step, ResNet 64 px, width {RESNET['width']}, batch {batch}, bf16, channels last",
            [
                harness.Contender("intermodal", step(lambda: ours(True), batch, True)),
                harness.Contender("open_clip CLIP", step(lambda: with_open_clip(True), batch, True), OPEN_CLIP),
            ],
        ),
    ]

"""BEiT-3-Base beside torchscale's BEiT3: same weights, one run: a picture, a text, and pairs, forward; and a training step.

Random weights under their published keys, loaded by our hub. The number beside each is the mean magnitude of the vectors
(of the training step the loss): both compute the same. The pictures are 224 x 224, 197 tokens; the texts have 64 tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch

import harness
from intermodal.hub.load import load

TORCHSCALE = "pip install --no-deps torchscale fairscale timm einops, beside a torchvision that fits torch"
BASE = {"encoder_embed_dim": 768, "encoder_attention_heads": 12, "encoder_ffn_embed_dim": 3072, "encoder_layers": 12}
SMALL = {"encoder_embed_dim": 128, "encoder_attention_heads": 2, "encoder_ffn_embed_dim": 512, "encoder_layers": 4}
SMALL |= {"img_size": 64}
TINY = {"encoder_embed_dim": 64, "encoder_attention_heads": 1, "encoder_ffn_embed_dim": 128, "encoder_layers": 2}
TINY |= {"img_size": 32}
COMMON = {"multiway": True, "vocab_size": 1000, "no_output_layer": True, "max_source_positions": 128}
TEXT = 64


@cache
def networks(size: str) -> tuple[Any, Any]:
    """Return torchscale's network with random weights, and ours with the same."""
    from safetensors.torch import save_file

    harness.import_beside_torchvision("timm")
    from torchscale.architecture.config import EncoderConfig
    from torchscale.model.BEiT3 import BEiT3

    torch.manual_seed(0)
    values = {"BEiT-3-Base": BASE, "small": SMALL, "tiny": TINY}[size]
    theirs = BEiT3(EncoderConfig(**COMMON, **values)).eval()
    with tempfile.TemporaryDirectory() as folder:
        tensors = {f"beit3.{k}": v.contiguous() for k, v in theirs.state_dict().items()}
        save_file(tensors, Path(folder) / "beit3.safetensors")
        return theirs, load(folder, processors={}).network


def module(ours: bool, size: str, batch: int, what: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Return a network of its own, and what reads pictures (image), texts (text) or pairs (pair)."""
    network = deepcopy(networks(size)[ours])
    generator = torch.Generator().manual_seed(0)
    side = networks(size)[1].config.image_size
    image = torch.randn(batch, 3, side, side, generator=generator) if what != "text" else None
    text = torch.randint(3, 1000, (batch, TEXT), generator=generator) if what != "image" else None
    if ours:
        return network, lambda: network(image, text)
    return network, lambda: network(textual_tokens=text, visual_tokens=image)["encoder_out"]


def forward(ours: bool, size: str, batch: int, what: str) -> Callable[[], harness.Step]:
    """Return what makes a step: a network without gradients, once run."""

    def make() -> harness.Step:
        _, call = module(ours, size, batch, what)

        def step() -> float:
            with torch.inference_mode():
                return float(call().double().abs().mean())

        step()
        return step

    return make


def training(ours: bool, size: str, batch: int) -> Callable[[], harness.Step]:
    """Return what makes a step: pairs forward, a loss, backward and AdamW, in bfloat16 autocast."""

    def make() -> harness.Step:
        network, call = module(ours, size, batch, "pair")
        network.train()
        used = [p for n, p in network.named_parameters() if "mask_token" not in n]
        optimizer = torch.optim.AdamW(used, 1e-4)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                vectors = call()
            loss = vectors.float().sin().mean()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        step()
        return step

    return make


def cases(quick: bool) -> list[harness.Case]:
    """Return forward passes of the published size at two batches, and a training step of a small one."""
    size, found = "tiny" if quick else "BEiT-3-Base", []
    for what, said in (("image", "pictures"), ("text", "texts"), ("pair", "pairs")):
        for batch in (1,) if quick else (1, 4):
            title = f"{size}, {batch} {said}: forward"
            contenders = [
                harness.Contender("intermodal", forward(True, size, batch, what)),
                harness.Contender("torchscale", forward(False, size, batch, what), TORCHSCALE),
            ]
            found.append(harness.Case(title, contenders, 1 if quick else 2))
    size, batch = ("tiny", 4) if quick else ("small", 128)
    contenders = [
        harness.Contender("intermodal, bfloat16", training(True, size, batch)),
        harness.Contender("torchscale, bfloat16", training(False, size, batch), TORCHSCALE),
    ]
    found.append(harness.Case(f"{size}, {batch} pairs: training step", contenders, 1 if quick else 3))
    return found
